"""What grants make of requests, beats, pages and reads."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.principal import Principal
from gateway.protocol import messages
from gateway.protocol.access import check, held_tasks, listing, wish
from gateway.protocol.errors import ProtocolError
from gateway.protocol.messages import Held
from ledger.decide import decide
from ledger.model import Change, Receipt, Rejection, State, task_key
from ledger.receipts import unknown_task
from tests.support.principals import somebody

MINE = State(tenant="tenant", task_id="a", owner="me", kind="import", created=True, seq=1)
YOURS = State(tenant="tenant", task_id="a", owner="you", kind="export", created=True, seq=1)


def decided(who: Principal, message: Any, state: State | None) -> Change | Receipt | Rejection:
    return decide(state, wish(who, message), None)


def code(who: Principal, message: Any, state: State | None) -> str:
    answer = decided(who, message, state)
    return answer.code if isinstance(answer, Rejection) else "granted"


CANCEL = messages.Cancel(id=1, task_id="a")
REPORT = messages.Report(task_id="a", kind="import", progress=1)
CREATE = messages.Create(id=1, task_id="a", owner="me", kind="import")


def test_who_may_everything_has_no_guard() -> None:
    """So that it costs nothing."""
    for message in (CANCEL, REPORT, CREATE):
        assert wish(somebody(), message).guard is None
        assert wish(somebody("tenant", "me", "cancel,report,create:own"), message).guard is not None
    with pytest.raises(ProtocolError, match="may not report"):
        wish(somebody("tenant", "me", "watch:own"), REPORT)


@pytest.mark.parametrize(
    ("grant", "mine", "yours", "none"),
    [
        ("cancel:own", "granted", "unknown_task", "unknown_task"),
        ("cancel:kind=import", "granted", "unknown_task", "unknown_task"),
        ("cancel:id=a", "granted", "granted", "granted"),
        ("cancel:id=b", "unknown_task", "unknown_task", "unknown_task"),
        ("watch:all", "forbidden", "forbidden", "forbidden"),
    ],
)
def test_a_cancel_that_is_not_granted_is_like_one_of_nothing(grant: str, mine: str, yours: str, none: str) -> None:
    """Somebody else's task, and none at all: the same words."""
    who = somebody("tenant", "me", grant)
    assert [code(who, CANCEL, state) for state in (MINE, YOURS, None)] == [mine, yours, none]
    refusals = [decided(who, CANCEL, state) for state in (YOURS, None)]
    assert not isinstance(refusals[0], Rejection) or refusals[0] == refusals[1]
    if yours == "unknown_task":
        assert refusals[0] == unknown_task("a")


def test_a_worker_of_a_kind_reports_tasks_of_it() -> None:
    """One that it makes by its report is of the kind that it says; one that is there is what the ledger says."""
    who = somebody("tenant", "worker", "report:kind=import")
    assert [code(who, REPORT, state) for state in (MINE, YOURS, None)] == ["granted", "unknown_task", "granted"]
    other = messages.Report(task_id="a", kind="export")
    assert [code(who, other, state) for state in (YOURS, None)] == ["unknown_task", "unknown_task"]


def test_a_create_is_for_whom_and_what_is_granted() -> None:
    """A task that is there and another's is taken, whatever the create says."""
    who = somebody("tenant", "me", "create:own")
    assert code(who, CREATE, None) == "granted"
    assert code(who, CREATE, YOURS) == "task_exists"
    assert code(who, messages.Create(id=1, task_id="a", owner="you"), None) == "forbidden"
    assert code(who, messages.Create(id=1, task_id="a"), None) == "forbidden"


def test_a_beat_counts_where_a_report_would() -> None:
    """By the id alone, or under a condition on the row; where nothing is granted it is no beat."""
    key = task_key("tenant", "a")
    assert held_tasks(somebody(), ["a", Held("a", 3)]) == [(key, None, None), (key, 3, None)]
    assert held_tasks(somebody("tenant", "me", "report:id=a"), ["a"]) == [(key, None, None)]
    assert held_tasks(somebody("tenant", "me", "report:id=b"), ["a"]) == []
    conditions = held_tasks(somebody("tenant", "me", "report:own", "report:kind=x", "report:kind=x"), [Held("a", 1)])
    assert conditions == [(key, 1, "owner:me"), (key, 1, "kind:x")]
    with pytest.raises(ProtocolError, match="characters"):
        held_tasks(somebody(), ["/"])


def test_a_verb_that_is_not_granted_is_forbidden() -> None:
    """Before an id is looked at."""
    check(somebody("tenant", "me", "watch:id=a"), "watch")
    with pytest.raises(ProtocolError, match="may not report"):
        check(somebody("tenant", "me", "watch:all"), "report")


@pytest.mark.parametrize(
    ("grants", "asked", "given"),
    [
        (("list:all",), ("you", "k"), ("you", "k")),
        (("list:own",), (None, None), ("me", None)),
        (("list:own",), ("me", "k"), ("me", "k")),
        (("list:own",), ("you", None), "own tasks only"),
        (("list:kind=k",), ("you", "k"), ("you", "k")),
        (("list:kind=k", "list:kind=l"), (None, None), "one of k, l"),
        (("list:kind=k", "list:own"), (None, "l"), ("me", "l")),
        (("list:id=a",), (None, None), "no kind to list"),
        (("watch:all",), (None, None), "may not list"),
    ],
)
def test_a_page_is_of_what_is_granted(
    grants: tuple[str, ...], asked: tuple[str | None, str | None], given: tuple[str | None, str | None] | str
) -> None:
    """As it was asked for, narrowed to the own tasks, or refused by the query alone."""
    who = somebody("tenant", "me", *grants)
    if isinstance(given, str):
        with pytest.raises(ProtocolError, match=given):
            listing(who, owner=asked[0], kind=asked[1])
    else:
        scope = listing(who, owner=asked[0], kind=asked[1])
        assert (scope.owner, scope.kind) == given
