"""What makes a watcher see everything once, in order, or be told: the decisions of `ledgerwire.watching`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ledgerwire.errors import UnknownTask
from ledgerwire.model import Change, Cursor, Jumped, Liveness, Snapshot, Transition
from ledgerwire.watching import Mode, Phase, Watching

AT = "2026-01-01T00:00:00Z"


def transition(seq: int, status: str = "running") -> dict[str, Any]:
    return {
        "type": "transition", "task_id": "t", "seq": seq, "status": status, "progress": seq, "stage": None,
        "message": None, "attempt": 1, "at": AT,
    }  # fmt: skip


def snapshot(seq: int, status: str = "running", *, liveness: str | None = "live") -> dict[str, Any]:
    task = {
        "task_id": "t", "kind": None, "owner": None, "status": status, "seq": seq, "attempt": 1, "progress": seq,
        "stage": None, "message": None, "data": None, "result": None, "error": None, "cancel": None,
        "created_at": AT, "updated_at": AT, "deadline_at": None, "beat_at": AT, "beat_age_ms": 7, "liveness": liveness,
    }  # fmt: skip
    return {"type": "snapshot", "task": task}


def subscribed(seq: int, *, epoch: str = "e", verdict: str = "live", recovered: bool = False) -> dict[str, Any]:
    return {
        "type": "subscribed", "task_id": "t", "verdict": verdict, "epoch": epoch, "seq": seq, "recovered": recovered
    }  # fmt: skip


def unknown(*, waiting: bool) -> dict[str, Any]:
    return subscribed(0, verdict="unknown", recovered=waiting) | {"waiting": waiting}


def jumped(origin: Cursor, seq: int, *, epoch: str = "e") -> dict[str, Any]:
    return {
        "type": "notice", "kind": "jumped", "task_id": "t", "reason": "other_epoch",
        "from": {"epoch": origin.epoch, "seq": origin.seq}, "to": {"epoch": epoch, "seq": seq},
    }  # fmt: skip


def asked(after: Cursor | None = None, mode: Mode = "all") -> Watching:
    """A subscription whose request was understood."""
    watching = Watching("t", after, mode)
    watching.request(1, None)
    watching.understood(1)
    return watching


def feed(watching: Watching, *messages: dict[str, Any]) -> list[Change]:
    return [change for message in messages if (change := watching.receive(message)) is not None]


# ── single decisions ─────────────────────────────────────────────────────────────────────────────────────


def test_without_a_cursor_a_snapshot_comes_first_and_the_cursor_follows() -> None:
    """Then transitions, until a terminal one."""
    watching = asked()
    changes = feed(watching, subscribed(3), snapshot(3), transition(4), transition(5, "completed"))
    assert [(type(change), change.seq) for change in changes] == [(Snapshot, 3), (Transition, 4), (Transition, 5)]
    assert watching.phase is Phase.ENDED
    assert watching.cursor == Cursor("e", 5)


def test_with_a_cursor_the_request_names_it_and_only_what_came_after_is_shown() -> None:
    """Duplicates are dropped."""
    watching = asked(Cursor("e", 2))
    changes = feed(watching, subscribed(4, recovered=True), transition(2), transition(3), transition(3), transition(4))
    assert [change.seq for change in changes] == [3, 4]
    assert watching.request(2, None)["tasks"] == [{"task_id": "t", "after": {"epoch": "e", "seq": 4}}]


def test_a_gap_is_not_shown_but_asked_for_again_from_the_cursor() -> None:
    """What still comes of the old subscription is ignored until the new one begins."""
    watching = asked(Cursor("e", 1))
    assert [change.seq for change in feed(watching, subscribed(5, recovered=True), transition(2))] == [2]
    assert feed(watching, transition(4)) == []
    assert (watching.phase, watching.gaps) == (Phase.NEEDED, 1)
    assert watching.request(7, None)["tasks"][0]["after"] == {"epoch": "e", "seq": 2}
    assert feed(watching, transition(5)) == []
    watching.understood(7)
    changes = feed(watching, transition(5), subscribed(5, recovered=True), transition(3), transition(4))
    assert [change.seq for change in changes] == [3, 4]


def test_a_task_seen_to_its_end_before_ends_at_once() -> None:
    """Nothing is shown, and nothing is waited for."""
    watching = asked(Cursor("e", 5))
    assert feed(watching, subscribed(5, verdict="ended", recovered=True)) == []
    assert watching.phase is Phase.ENDED


def test_a_jump_is_shown_once_with_the_snapshot_in_it() -> None:
    """From where, to where, and why."""
    origin = Cursor("older", 40)
    watching = asked(origin)
    (change,) = feed(watching, subscribed(1), jumped(origin, 1), snapshot(1))
    assert isinstance(change, Jumped)
    assert (change.origin, change.reason, change.cursor) == (origin, "other_epoch", Cursor("e", 1))
    assert (change.status, change.progress) == ("running", 1)
    assert [change.seq for change in feed(watching, transition(2))] == [2]


def test_a_connection_lost_between_notice_and_snapshot_does_not_hide_the_jump() -> None:
    """The old cursor is kept until there is something to show."""
    origin = Cursor("older", 40)
    watching = asked(origin)
    feed(watching, subscribed(1), jumped(origin, 1))
    watching.interrupt()
    assert watching.request(2, None)["tasks"][0]["after"] == {"epoch": "older", "seq": 40}
    watching.understood(2)
    (change,) = feed(watching, subscribed(1), jumped(origin, 1), snapshot(1))
    assert isinstance(change, Jumped)


def test_a_snapshot_that_skips_is_a_jump_even_when_nobody_said_so() -> None:
    """In mode all; in mode latest snapshots skip by intent."""
    (change,) = feed(asked(Cursor("e", 2)), subscribed(9), snapshot(9))
    assert isinstance(change, Jumped)
    assert change.reason == "unannounced"
    latest = asked(mode="latest")
    changes = feed(latest, subscribed(2), snapshot(2), snapshot(9), snapshot(9), snapshot(12, "failed"))
    assert [(type(change), change.seq) for change in changes] == [(Snapshot, 2), (Snapshot, 9), (Snapshot, 12)]
    assert latest.phase is Phase.ENDED


def test_an_unknown_task_is_an_error_unless_the_gateway_holds_the_subscription() -> None:
    """A held one is seen from its first transition, also after a reconnect."""
    with pytest.raises(UnknownTask):
        feed(asked(), unknown(waiting=False))
    watching = asked()
    assert feed(watching, unknown(waiting=True)) == []
    assert watching.phase is Phase.HELD
    watching.interrupt()
    assert watching.request(2, 500) == {
        "type": "subscribe", "id": 2, "tasks": [{"task_id": "t", "after": {"epoch": "e", "seq": 0}}],
        "mode": "all", "wait_ms": 500,
    }  # fmt: skip
    watching.understood(2)
    assert [change.seq for change in feed(watching, unknown(waiting=True), transition(1))] == [1]


def test_a_held_task_that_does_not_appear_is_an_error() -> None:
    """The gateway says so when the wait is over."""
    watching = asked()
    feed(watching, unknown(waiting=True))
    with pytest.raises(UnknownTask):
        feed(watching, unknown(waiting=False))


def test_a_task_that_was_seen_and_is_unknown_now_is_an_error() -> None:
    """Its history is gone: waiting for it to begin again would hide that."""
    with pytest.raises(UnknownTask):
        feed(asked(Cursor("e", 3)), unknown(waiting=True))


def test_a_worker_is_taken_for_live_until_something_else_is_said() -> None:
    """By a snapshot or a word; every transition but a cancel request is a sign of life, a new subscription is not."""
    watching = asked()

    def after(*messages: dict[str, Any]) -> tuple[Liveness, int | None]:
        feed(watching, *messages)
        return watching.worker.liveness, watching.worker.beat_age_ms

    word = {"type": "liveness", "task_id": "t", "liveness": "late", "beat_age_ms": 70_000}
    cancel = {"status": "cancelling", "cancel": {"stage": "recorded", "reason": None}}
    assert after(word) == ("live", None)  # of an earlier subscription
    assert after(subscribed(1), snapshot(1, liveness="late")) == ("late", 7)
    assert after(word | {"liveness": "live", "beat_age_ms": 3}) == ("live", 3)
    assert after(word) == ("late", 70_000)
    assert after(transition(2) | cancel) == ("late", 70_000)
    assert after(transition(2)) == ("late", 70_000)  # seen before
    assert after(transition(3) | {"cancel": {"stage": "refused", "reason": None}}) == ("live", None)
    assert after(word) == ("late", 70_000)
    watching.interrupt()
    watching.request(2, None)
    assert after(word | {"liveness": "live"}) == ("late", 70_000)
    watching.understood(2)
    assert after(subscribed(3, recovered=True)) == ("late", 70_000)
    assert after(word | {"beat_age_ms": 80_000}) == ("late", 80_000)
    assert after(word, transition(4, "lost")) == ("lost", None)
    assert watching.phase is Phase.ENDED


# ── any course of events ─────────────────────────────────────────────────────────────────────────────────


class WatchingThroughAnything(RuleBasedStateMachine):
    """Lost, repeated and skipped messages, broken connections and a rewound ledger: in order once, or told."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0
        self.head = 1
        self.ended = False
        self.watching = Watching("t", None, "all")
        self.wire_id = 0
        self.inbox: list[dict[str, Any] | int] = []
        self.streaming = False
        self.changes: list[Change] = []

    @property
    def epoch(self) -> str:
        return f"e{self.epochs}"

    def status_of(self, seq: int) -> str:
        return "completed" if self.ended and seq == self.head else "running"

    @precondition(lambda self: not self.ended)
    @rule(last=st.booleans())
    def commit(self, last: bool) -> None:
        self.head += 1
        self.ended = last and self.head > 4
        if self.streaming:
            self.inbox.append(transition(self.head, self.status_of(self.head)))

    @precondition(lambda self: self.watching.phase is Phase.NEEDED)
    @rule()
    def subscribe(self) -> None:
        """The model gateway answers as the wire protocol says."""
        self.wire_id += 1
        request = self.watching.request(self.wire_id, None)
        after = request["tasks"][0].get("after")
        verdict = "ended" if self.ended else "live"
        goes_on = after is not None and after["epoch"] == self.epoch and after["seq"] <= self.head
        said = subscribed(self.head, epoch=self.epoch, verdict=verdict, recovered=goes_on)
        self.inbox += [self.wire_id, said]
        if goes_on:
            self.inbox += [transition(n, self.status_of(n)) for n in range(after["seq"] + 1, self.head + 1)]
        else:
            if after is not None:
                origin = Cursor(after["epoch"], after["seq"])
                self.inbox.append(jumped(origin, self.head, epoch=self.epoch))
            self.inbox.append(snapshot(self.head, self.status_of(self.head)))
        self.streaming = True

    @precondition(lambda self: self.inbox)
    @rule()
    def read(self) -> None:
        message = self.inbox.pop(0)
        if isinstance(message, int):
            self.watching.understood(message)
        elif (change := self.watching.receive(message)) is not None:
            self.changes.append(change)

    @precondition(lambda self: any(self.skippable()))
    @rule(data=st.data())
    def skip_a_transition(self, data: st.DataObject) -> None:
        """A fault that must show as a gap, never as a missing change."""
        where = [index for index, skippable in enumerate(self.skippable()) if skippable]
        del self.inbox[data.draw(st.sampled_from(where))]

    @precondition(lambda self: any(self.skippable()))
    @rule(data=st.data())
    def repeat_a_transition(self, data: st.DataObject) -> None:
        where = [index for index, skippable in enumerate(self.skippable()) if skippable]
        index = data.draw(st.sampled_from(where))
        self.inbox.insert(data.draw(st.integers(index, len(self.inbox))), self.inbox[index])

    @rule()
    def lose_the_connection(self) -> None:
        self.inbox.clear()
        self.streaming = False
        self.watching.interrupt()

    @precondition(lambda self: not self.ended and self.head > 1)
    @rule(to=st.integers(1, 100))
    def rewind_the_ledger(self, to: int) -> None:
        """An older backup: another history, another epoch, and every connection ends."""
        self.epochs += 1
        self.head = 1 + to % self.head
        self.lose_the_connection()

    @invariant()
    def every_change_follows_the_one_before_or_says_that_it_does_not(self) -> None:
        for before, after in zip(self.changes, self.changes[1:], strict=False):
            if isinstance(after, Transition):
                assert after.cursor == Cursor(before.cursor.epoch, before.seq + 1)
            else:
                assert isinstance(after, Jumped)
                assert after.origin == before.cursor
                assert after.cursor.epoch != before.cursor.epoch

    def teardown(self) -> None:
        """Once the connection holds, the end is seen."""
        if not self.ended:
            self.lose_the_connection()
            self.head += 1
            self.ended = True
        for _ in range(1000):
            if self.watching.phase is Phase.ENDED:
                break
            if self.watching.phase is Phase.NEEDED:
                self.inbox.clear()
                self.subscribe()
            elif self.inbox:
                self.read()
            else:
                self.lose_the_connection()
        self.every_change_follows_the_one_before_or_says_that_it_does_not()
        assert self.changes[-1].status.terminal
        assert self.changes[-1].cursor == Cursor(self.epoch, self.head)

    def skippable(self) -> list[bool]:
        return [isinstance(message, dict) and message["type"] == "transition" for message in self.inbox]


TestWatchingThroughAnything = WatchingThroughAnything.TestCase
