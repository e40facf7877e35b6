"""Grants: how they are written, and what they allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.principal import (
    EVERYTHING,
    GRANTS,
    LISTED_IDS,
    OWN,
    VERBS,
    Grant,
    GrantError,
    Principal,
    Standing,
    hopeless,
    may,
    parse_grant,
    parse_grants,
    standing,
)
from ledger.model import Facts
from tests.support.principals import somebody

IDS = st.sampled_from(["imp-1", "imp-2", "exp-1", "imp"])
NAMES = st.sampled_from(["me", "you", "import", "imp-", None])
VERB = st.sampled_from(VERBS)
GRANT = st.builds(
    lambda verbs, over: parse_grant(f"{','.join(verbs)}:{over}"),
    st.lists(VERB, min_size=1, unique=True),
    st.sampled_from(["own", "all", "id=imp-1", "id=imp-1,exp-1", "prefix=imp-", "kind=import", "kind=you"]),
)


@pytest.mark.parametrize(
    "words",
    [
        "*:all",
        "watch,cancel,list:own",
        "watch:id=a,b",
        "report,create:prefix=imp-",
        "watch:kind=a b,c=d:e",
        "admin:all",
    ],
)
def test_a_grant_is_written_as_it_is_read(words: str) -> None:
    """Each kind of it."""
    assert parse_grant(words).words == words


def test_the_order_of_verbs_does_not_count() -> None:
    """And all of them are a star."""
    assert parse_grant("cancel,watch:own") == parse_grant("watch,cancel:own")
    assert parse_grant(",".join(VERBS) + ":all").words == "*:all"
    assert [grant.words for grant in (*EVERYTHING, *OWN)] == ["*:all", "watch,cancel,list:own"]


@pytest.mark.parametrize(
    "words",
    ["", "watch", ":all", "fly:all", "watch,fly:all", "watch,watch:all", "watch:", "watch:mine", "watch:id=",
     "watch:id=a b", "watch:id=a,", "watch:prefix=", "watch:kind=", "watch:kind", "*,watch:all", "watch:all=x",
     "watch:kind=a\0b", "watch:kind=\ud800", "watch:prefix=a\n", "watch:prefix=" + "a" * 129,
     "watch:id=" + ",".join(["a"] * (LISTED_IDS + 1))],
)  # fmt: skip
def test_what_is_no_grant_is_refused(words: str) -> None:
    """Nothing is left out silently: somebody meant something by it."""
    with pytest.raises(GrantError):
        parse_grant(words)


def test_a_principal_has_so_many_grants() -> None:
    """A bound on what a question costs."""
    assert len(parse_grants(["watch:own"] * GRANTS)) == GRANTS
    with pytest.raises(GrantError, match=str(GRANTS)):
        parse_grants(["watch:own"] * (GRANTS + 1))


def allowed(grant: Grant, subject: str, task_id: str, facts: Facts | None) -> bool:
    """What one grant means, said once more and plainly."""
    match grant.over:
        case "all":
            return True
        case "id":
            return task_id in grant.names
        case "prefix":
            return task_id[: len(grant.names[0])] == grant.names[0]
        case "own":
            return facts is not None and facts.owner == subject
        case "kind":
            return facts is not None and facts.kind == grant.names[0]


@given(st.lists(GRANT, max_size=4), VERB, IDS, st.none() | st.builds(Facts, NAMES, NAMES))
def test_may_is_what_any_of_the_grants_allows(grants: list[Grant], verb: str, id_: str, facts: Facts | None) -> None:
    """And `standing` foretells it without the facts; `hopeless` is for ever."""
    who = Principal(tenant="t", subject="me", grants=tuple(grants))
    of_verb = [grant for grant in grants if verb in grant.verbs]
    answer = may(who, verb, id_, facts)  # type: ignore[arg-type] # one of VERBS
    assert answer is any(allowed(grant, "me", id_, facts) for grant in of_verb)
    known = standing(who, verb, id_)  # type: ignore[arg-type]
    if known is not Standing.ASK:
        assert answer is (known is Standing.YES)
    else:
        assert {grant.over for grant in of_verb} & {"own", "kind"}
    assert who.everything(verb) is any(grant.over == "all" for grant in of_verb)  # type: ignore[arg-type]
    assert who.has(verb) is bool(of_verb)  # type: ignore[arg-type]
    if hopeless(who, verb, id_, facts):  # type: ignore[arg-type]
        owners = [facts.owner] if facts is not None and facts.owner is not None else [None, "me", "you"]
        kinds = [facts.kind] if facts is not None and facts.kind is not None else [None, "import", "you"]
        assert not any(may(who, verb, id_, Facts(owner, kind)) for owner in owners for kind in kinds)  # type: ignore[arg-type]


def test_a_verb_is_not_another() -> None:
    """Who may watch may not cancel, and who may do everything may do so in its own tenant: facts are of that."""
    watcher = somebody("t", "me", "watch:all")
    assert may(watcher, "watch", "a", None)
    assert not may(watcher, "cancel", "a", Facts("me", None))
    nobody = Principal(tenant="t", subject="me", grants=())
    assert not any(may(nobody, verb, "a", Facts("me", "k")) for verb in VERBS)
    assert hopeless(nobody, "watch", "a", None)
    owner = somebody("t", "me", "watch:own")
    assert not hopeless(owner, "watch", "a", None)
    assert not hopeless(owner, "watch", "a", Facts(None, "k"))
    assert hopeless(owner, "watch", "a", Facts("you", None))
    assert not hopeless(somebody("t", "me", "watch:kind=k"), "watch", "a", Facts("you", None))
