"""A fold as columns: in the order of the keys, with what the reaper has to know, and as what PostgreSQL reads."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.arguments import (
    advance_arguments,
    advance_columns,
    append_arguments,
    append_columns,
    heads_arguments,
)
from ledger.batch import Entry, Found, Growth, fold
from ledger.literals import NotJson
from ledger.machine import CancelStage, Status
from ledger.model import Cancel, CancelRequest, Create, Lapse, Patience, Report, Request, State, task_key

KEY = task_key("t", "a")
MARK, OTHER = f"{1:032x}", f"{2:032x}"
STATE = State(tenant="t", task_id="a", status=Status.RUNNING, seq=5, attempt=1, n=3)
PATIENCE = Patience(lease_ms=1_000, grace_ms=500, cancel_ms=200)


def report(**members: Any) -> Report:
    """A report of task `a`."""
    return Report(tenant="t", task_id="a", **members)


def entry(request: Request, digest: str = MARK, *, sent_seq: int = 0) -> Entry:
    """A request on its way."""
    return Entry(task_key(request.tenant, request.task_id), request, digest, sent_seq=sent_seq)


def grown(*requests: Request, state: State = STATE) -> dict[str, Growth[Entry]]:
    """What these do to a task that is remembered."""
    return fold([entry(request) for request in requests], {KEY: state}, {}).growth


def test_the_arrays_of_a_read_say_what_to_look_for() -> None:
    """The number within an attempt, the key, or the mark at a place: an element per request, in their order."""
    asked = [
        entry(report(attempt=2, n=7, digest=MARK)),
        entry(report(attempt="new", idem=OTHER, digest=MARK)),
        entry(Create(tenant="t", task_id="b", idem=OTHER, digest=MARK)),
        entry(report(), OTHER, sent_seq=9),
    ]
    b = task_key("t", "b")
    assert heads_arguments(asked) == [
        [0, 1, 2, 3],
        [KEY, KEY, b, KEY],
        [2, None, None, None],
        [7, None, None, None],
        [None, OTHER, OTHER, None],
        [None, None, None, 9],
        [MARK, MARK, MARK, OTHER],
    ]


def test_the_columns_of_a_statement_are_in_the_order_of_the_keys() -> None:
    """24 with an element per task, 15 with one per transition, or 9: two batches lock the same rows in one order."""
    tasks = {task_key("t", task_id): task_id for task_id in "dbca"}
    heads = {key: State(tenant="t", task_id=task_id, status=Status.RUNNING, seq=5) for key, task_id in tasks.items()}
    asked = [entry(Report(tenant="t", task_id=task_id, data=b"1")) for task_id in tasks.values() for _ in range(2)]
    keys = sorted(tasks)
    columns = append_columns(fold(asked, heads, {}).growth, PATIENCE)
    assert [len(column) for column in columns] == [4] * 24 + [8] * 15
    assert [list(columns[place]) for place in (0, 1)] == [keys, [5] * 4]
    assert [list(columns[place]) for place in (24, 25)] == [[key for key in keys for _ in range(2)], [6, 7] * 4]
    columns = advance_columns(fold(asked, heads, {}).growth)
    assert [list(column) for column in columns] == [
        [key for key in keys for _ in range(2)], [6, 7] * 4, [0] * 8, [0] * 8, [None] * 8, [None] * 8, [None] * 8,
        [MARK] * 8, [b"1"] * 8,
    ]  # fmt: skip


def test_progress_as_array_literals() -> None:
    """What a worker wrote is quoted, a payload stays as it came."""
    said = report(attempt=1, n=4, progress=12.5, stage='a "b"', message=None, data=b'{"a":"\\n"}')
    assert advance_arguments(grown(said)) == [
        f"{{{KEY}}}", "{6}", "{1}", "{4}", "{12.5}", '{"a \\"b\\""}', "{NULL}", f"{{{MARK}}}", '{"a":"\\n"}',
    ]  # fmt: skip


def test_any_change_as_array_literals() -> None:
    """Every column of the general statement, in its order."""
    cancel = Cancel(stage=CancelStage.RECORDED, seq=5, reason="why, then")
    state = State(
        tenant="t", task_id="a", kind="k", owner="NULL", created=True, status=Status.CANCELLING, seq=5, attempt=1, n=3,
        progress=1e-7, stage="s", data_seq=2, result_seq=3, error_seq=4, cancel=cancel, lease_ms=700,
    )  # fmt: skip
    said = report(idem=OTHER, digest=MARK, status=Status.CANCELLED, message="", data=b"1", result=b"2", error=b"3")
    of_task = [
        f"{{{KEY}}}", "{5}", '{"t"}', '{"a"}', '{"k"}', '{"NULL"}', "{True}", "{cancelled}", "{6}", "{1}", "{3}",
        "{1e-07}", '{"s"}', '{""}', "{6}", "{6}", "{6}", "{honoured}", "{5}", '{"why, then"}', "{700}", "{NULL}",
        "{-1}", "{True}",
    ]  # fmt: skip
    of_transition = [
        f"{{{KEY}}}", "{6}", "{cancelled}", "{1}", "{-3}", "{1e-07}", '{"s"}', '{""}', "{honoured}", "{NULL}",
        f"{{{MARK}}}", f"{{{OTHER}}}", "1", "2", "3",
    ]  # fmt: skip
    growth = fold([entry(said)], {}, {}).growth
    assert not growth  # with a key it has to be read
    found = entry(said)
    growth = fold([found], {}, {found: Found(state=state, prior=None)}).growth
    assert append_arguments(growth, PATIENCE) == of_task + of_transition


def test_a_task_may_be_called_null() -> None:
    """In every spelling that PostgreSQL takes for nothing."""
    for name in ("NULL", "null", "Null"):
        create = Create(tenant="t", task_id=name, idem=OTHER, digest=OTHER)
        growth = fold([entry(create)], {}, {}).growth
        assert append_arguments(growth, PATIENCE)[3] == f'{{"{name}"}}'


def test_what_no_json_text_can_hold_is_refused() -> None:
    """It would be cut in two, and shift the payloads of others."""
    for payload in (b'"\x1f"', b'"\xff"'):
        with pytest.raises(NotJson):
            advance_arguments(grown(report(data=payload)))
        with pytest.raises(NotJson):
            append_arguments(grown(report(result=payload)), PATIENCE)


@pytest.mark.parametrize(
    ("state", "request_", "due_ms"),
    [
        (Status.PENDING, report(status=Status.PENDING), None),
        (Status.PENDING, report(status=Status.PENDING, deadline_ms=70), 70),
        (Status.PENDING, report(), 1_500),
        (Status.RUNNING, report(kind="k"), 1_500),
        (Status.RUNNING, report(lease_ms=100), 600),
        (Status.RUNNING, report(lease_ms=9_000, deadline_ms=9_400), 9_400),
        (Status.RUNNING, report(deadline_ms=9_400), 1_500),
        (Status.RUNNING, CancelRequest(tenant="t", task_id="a"), 200),
        (Status.RUNNING, report(status=Status.COMPLETED, deadline_ms=70), -1),
        (Status.RUNNING, Lapse(tenant="t", task_id="a", seq=5, why="deadline"), -1),
    ],
)
def test_the_reaper_is_to_look_when_the_first_patience_may_end(
    state: Status, request_: Request, due_ms: int | None
) -> None:
    """The lease and its grace, the deadline, the wait for an answer to a cancel; not at what has ended."""
    growth = grown(request_, state=State(tenant="t", task_id="a", status=state, seq=5))
    assert append_columns(growth, PATIENCE)[22] == (due_ms,)


def test_the_last_deadline_of_a_batch_counts_and_a_client_is_no_sign_of_a_worker() -> None:
    """As one by one: each deadline replaces the one before."""
    both = append_columns(grown(report(deadline_ms=50), report(deadline_ms=80), report()), PATIENCE)
    assert (both[21], both[23]) == ((80,), (True,))
    asked = append_columns(grown(CancelRequest(tenant="t", task_id="a")), PATIENCE)
    assert (asked[21], asked[23]) == ((None,), (False,))
