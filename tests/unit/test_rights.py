"""A session of somebody who may not watch everything: what it is told, and until when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.principal import Principal
from gateway.protocol.burst import bursts
from gateway.protocol.effects import Close, Deliver, Effect, Event, Send, Submit
from gateway.protocol.errors import TOKEN_EXPIRED, ProtocolError
from gateway.protocol.rights import EXPIRY_NOTICE_SECONDS
from gateway.protocol.session import Session
from ledger.machine import Liveness
from ledger.model import CancelRequest, Facts, Report, task_key
from tests.property.paper_gateway import PaperTasks
from tests.support.principals import somebody

KEY = task_key("tenant", "a")
MINE, YOURS, NOBODYS = Facts("me", "k"), Facts("you", "k"), Facts(None, None)
OWN = somebody("tenant", "me", "watch,report:own")


class Stage:
    """A session after welcome, and the ledger that it reads."""

    def __init__(self, who: Principal = OWN, *, lasts: float | None = None) -> None:
        self.tasks = PaperTasks()
        self.of = Session(
            session_id="s-1", epoch="e-1", ping_interval_seconds=1_000.0, ping_phase=0.0,
            server_time=datetime(2026, 1, 1, tzinfo=UTC), now=0.0,
        )  # fmt: skip
        self.of.authenticated(who, now=0.0, lasts=lasts)

    def say(self, **message: Any) -> list[dict[str, Any]]:
        return told(list(self.of.receive(json.dumps(message), 0.0)))

    def subscribe(self, **members: Any) -> None:
        self.say(type="subscribe", id=1, tasks=[{"task_id": "a"}], **members)

    def report(self, **members: Any) -> Event:
        self.tasks.commit(Report(tenant="tenant", task_id="a", **members))
        return self.tasks.events[KEY][-1]

    def live(self, event: Event) -> list[dict[str, Any]]:
        """It comes from the hub: no part of it passes by the session."""
        for burst in bursts([event]):
            if burst.plain and self.of.subscriptions.passes(burst):
                return [{"passed": event.seq}]
        return told(self.of.deliver([event]))

    def read(self, facts: Facts | None, *, live: Event | None = None) -> list[dict[str, Any]]:
        """Serve what is due once, with these facts where they are wanted."""
        wants = self.of.subscriptions.due_reads()
        reads = self.tasks.answer(wants, {want.slot[0]: self.tasks.look(want.slot[0]) for want in wants}, 100)
        if live is not None:
            assert self.live(live) == []
        sealed = self.of.subscriptions.sealed_keys(wants)
        known = {} if facts is None else {KEY: facts}
        return told(self.of.read(reads, known if sealed else None))


def told(effects: Sequence[Effect]) -> list[dict[str, Any]]:
    """The frames in effects, by what matters here."""
    out = []
    for effect in effects:
        if isinstance(effect, Send | Deliver):
            frame = json.loads(effect.frame)
            names = ("type", "verdict", "waiting", "seq", "kind", "expires_in_ms", "ok", "code")
            out.append({name: frame[name] for name in names if name in frame})
    return out


UNKNOWN = {"type": "subscribed", "verdict": "unknown", "seq": 0, "waiting": False}
WAITING = {**UNKNOWN, "waiting": True}


def test_a_granted_task_is_watched_like_any_other() -> None:
    """Once its row has said so, nothing is asked again."""
    stage = Stage()
    stage.report()
    stage.subscribe()
    first = stage.read(MINE)
    assert [frame["type"] for frame in first] == ["subscribed", "snapshot"]
    assert stage.live(stage.report(progress=1.0)) == [{"passed": 2}]
    assert stage.of.subscriptions.due_reads() == []


@pytest.mark.parametrize("facts", [YOURS, NOBODYS])
def test_a_task_that_is_not_granted_is_unknown(facts: Facts) -> None:
    """In the same words as one that is not there; with a cursor too."""
    for after in (None, {"epoch": "e-1", "seq": 1}):
        frames = []
        for exists in (True, False):
            stage = Stage()
            if exists:
                stage.report()
                stage.report()
            stage.say(type="subscribe", id=1, tasks=[{"task_id": "a", "after": after}])
            frames.append(stage.read(facts if exists else None))
            assert not stage.of.subscriptions.task_keys()
        assert frames[0] == frames[1]
        assert frames[0][0] == UNKNOWN


def test_a_waiting_subscription_hears_of_its_task_from_the_first_transition() -> None:
    """As soon as the row says whose it is, which need not be at once."""
    stage = Stage()
    stage.subscribe(wait_ms=1_000)
    assert stage.read(None) == [WAITING]
    assert stage.live(stage.report()) == []
    assert stage.read(NOBODYS, live=stage.report(progress=1.0)) == [], "nobody has said whose it is"
    assert stage.read(NOBODYS) == []
    assert stage.read(NOBODYS) == [], "nothing has happened: nothing is read"
    assert stage.live(stage.report(owner="me")) == []
    last = stage.report(progress=2.0)
    assert [frame["seq"] for frame in stage.read(MINE, live=last)] == [1, 2, 3, 4]
    assert stage.read(MINE) == []
    assert stage.live(stage.report(progress=3.0)) == [{"passed": 5}]


def test_what_comes_during_the_read_that_grants_it_is_read_after() -> None:
    """It was not kept, since it might have been another's."""
    stage = Stage()
    stage.report()
    stage.subscribe(wait_ms=1_000)
    wants = stage.of.subscriptions.due_reads()
    found = stage.tasks.answer(wants, {KEY: stage.tasks.look(KEY)}, 100)
    assert stage.live(stage.report(progress=1.0)) == []
    assert [frame["type"] for frame in told(stage.of.read(found, {KEY: MINE}))] == ["subscribed", "snapshot"]
    assert stage.read(MINE) == [{"type": "transition", "seq": 2}]


def test_waiting_for_anothers_task_is_waiting_for_nothing() -> None:
    """Nothing is read for it again, and the wait ends like any other, though its task never rests."""
    for facts in (YOURS, NOBODYS):
        stage = Stage()
        stage.report()
        stage.subscribe(wait_ms=1_000)
        assert stage.read(facts) == [WAITING]
        assert stage.live(stage.report(progress=1.0)) == []
        assert bool(stage.of.subscriptions.due_reads()) is (facts is NOBODYS)
        assert stage.live(stage.report(progress=2.0)) == []
        seen = stage.tasks.look(KEY)
        assert seen is not None
        stage.of.see(KEY, replace(seen, liveness=Liveness.LATE))
        assert told(stage.of.drained()) == []
        assert told(stage.of.tick(1.0)) == [UNKNOWN]
        assert not stage.of.subscriptions.task_keys()


def test_a_worker_attends_to_what_it_may_report() -> None:
    """Of another's task it hears no cancel."""
    for facts, heard in ((MINE, 1), (YOURS, 0)):
        stage = Stage()
        stage.report()
        assert stage.say(type="attend", id=1, task_ids=["a"]) == [{"type": "reply", "ok": True}]
        assert stage.read(facts) == []
        stage.tasks.commit(CancelRequest(tenant="tenant", task_id="a", reason="why"))
        frames = stage.live(stage.tasks.events[KEY][-1]) + stage.read(facts)
        assert [frame["type"] for frame in frames] == ["cancel"] * heard


def test_verbs_that_are_not_granted_are_forbidden() -> None:
    """Whatever the id."""
    stage = Stage(somebody("tenant", "me", "list:own"))
    for message in (
        {"type": "subscribe", "tasks": [{"task_id": "a"}]},
        {"type": "attend", "task_ids": ["a"]},
        {"type": "beat", "task_ids": ["a"]},
    ):
        assert stage.say(id=1, **message) == [{"type": "reply", "ok": False}]
    assert stage.say(type="report", id=1, task_id="a") == [{"type": "reply", "ok": False}]
    (submit,) = stage.of.receive('{"type":"cancel","id":1,"task_id":"a"}', 0.0)
    assert isinstance(submit, Submit), "the ledger refuses it, and the audit log hears of it"
    assert submit.request.guard is not None


def test_fewer_grants_by_a_refresh_end_what_is_not_granted_any_more() -> None:
    """What is granted goes on where it was; more grants do no harm."""
    for facts, after in ((MINE, [{"type": "transition", "seq": 2}]), (YOURS, [UNKNOWN])):
        stage = Stage(somebody("tenant", "me"))
        stage.report()
        stage.subscribe()
        assert len(stage.read(None)) == 2
        stage.of.authenticated(OWN, now=0.0, refresh=1)
        assert stage.live(stage.report(progress=1.0)) == []
        assert stage.read(facts) == after
        stage.of.authenticated(somebody("tenant", "me"), now=0.0, refresh=2)
        assert stage.read(None) == []
        assert stage.live(stage.report(progress=2.0)) == ([{"passed": 3}] if facts is MINE else [])


def test_more_grants_by_a_refresh_let_a_waiting_one_see() -> None:
    """What was another's before is looked at anew."""
    stage = Stage()
    stage.report()
    stage.subscribe(wait_ms=1_000)
    assert stage.read(YOURS) == [WAITING]
    stage.of.authenticated(somebody("tenant", "me"), now=0.0, refresh=1)
    assert stage.read(None) == [{"type": "transition", "seq": 1}]


def test_what_was_read_for_a_subscription_that_has_gone_is_left() -> None:
    """The row is not looked at either."""
    stage = Stage()
    stage.report()
    stage.subscribe()
    wants = stage.of.subscriptions.due_reads()
    found = stage.tasks.answer(wants, {KEY: stage.tasks.look(KEY)}, 100)
    stage.say(type="unsubscribe", id=2, task_ids=["a"])
    assert stage.of.read(found, {KEY: MINE}) == []


# Until when


def test_a_client_is_warned_once_and_cut_at_the_end() -> None:
    """A minute before; then it is told to come back with another token."""
    stage = Stage(lasts=200.0)
    assert stage.of.next_tick() == 200.0 - EXPIRY_NOTICE_SECONDS
    assert stage.of.tick(139.0) == []
    assert told(stage.of.tick(140.0)) == [{"type": "notice", "kind": "token_expiring", "expires_in_ms": 60_000}]
    assert (stage.of.next_tick(), stage.of.tick(199.0)) == (200.0, [])
    bye, close = stage.of.tick(200.0)
    assert told([bye]) == [{"type": "bye", "code": 4505}]
    assert (close, stage.of.closed) == (Close(TOKEN_EXPIRED), True)


def test_of_a_short_token_the_client_hears_half_way() -> None:
    """And of one that is over already at once that it is."""
    assert Stage(lasts=4.0).of.next_tick() == 2.0
    stage = Stage(lasts=-1.0)
    assert stage.of.next_tick() <= 0.0
    assert told(stage.of.tick(0.0)) == [{"type": "bye", "code": 4505}]


def test_a_refresh_gives_more_time() -> None:
    """Also for ever."""
    stage = Stage(lasts=100.0)
    assert len(stage.of.tick(50.0)) == 1
    stage.of.authenticated(OWN, now=60.0, lasts=100.0, refresh=1)
    assert (stage.of.next_tick(), stage.of.tick(101.0)) == (110.0, [])
    stage.of.authenticated(OWN, now=140.0, refresh=2)
    assert stage.of.next_tick() == 500.0


def test_whoever_cannot_be_asked_now_is_to_come_again() -> None:
    """The token may be good."""
    stage = Stage()
    error = ProtocolError("unavailable", "The keys cannot be fetched.")
    assert told(stage.of.refused(error, refresh=1)) == [{"type": "reply", "ok": False}]
    assert told(stage.of.refused(error))[0]["code"] == 4005
