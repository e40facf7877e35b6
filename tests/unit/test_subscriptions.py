"""What one session watches, case by case: how a subscription begins, what it is told, and when it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.protocol.effects import Deliver, Effect, Event, Read, Send, Unwatch, Want, Watch
from gateway.protocol.errors import ProtocolError
from gateway.protocol.messages import Cursor
from gateway.protocol.subscriptions import READS_AT_ONCE, Subscriptions
from ledger.machine import Status
from ledger.model import CancelRequest, Report, task_key
from tests.property.paper_gateway import SILENT_MS, PaperTasks

EPOCH = "e-1"
KEY = task_key("tenant", "a")


class Stage:
    """Subscriptions, the ledger they read, and what they have said."""

    def __init__(self, limit: int = 10) -> None:
        self.tasks = PaperTasks()
        self.of = Subscriptions(EPOCH, limit)

    def report(self, **members: Any) -> Event:
        """One more transition of task `a`; returns its event."""
        self.tasks.commit(Report(tenant="tenant", task_id="a", **members))
        return self.tasks.events[KEY][-1]

    def reports(self, times: int) -> list[Event]:
        """So many more."""
        return [self.report(progress=float(n)) for n in range(times)]

    def cancel(self) -> Event:
        """Somebody asks for the end."""
        self.tasks.commit(CancelRequest(tenant="tenant", task_id="a", reason="why"))
        return self.tasks.events[KEY][-1]

    def read(self, *, rows: int = 100, live: Sequence[Event] = ()) -> list[Effect]:
        """Serve what is due once; the live events come after the ledger was read."""
        wants = self.of.due_reads()
        reads = self.tasks.answer(wants, {want.slot[0]: self.tasks.look(want.slot[0]) for want in wants}, rows)
        if live:
            assert self.of.deliver(live) == []
        return [effect for found in reads for effect in self.of.read(found)]


def told(effects: Sequence[Effect]) -> list[dict[str, Any]]:
    """The frames in effects, as a client reads them; a snapshot only by its sequence."""
    frames = [json.loads(effect.frame) for effect in effects if isinstance(effect, Send | Deliver)]
    return [{"type": "snapshot", "seq": one["task"]["seq"]} if one["type"] == "snapshot" else one for one in frames]


def seqs(effects: Sequence[Effect]) -> list[int]:
    """The sequences that effects deliver."""
    return [effect.seq for effect in effects if isinstance(effect, Deliver)]


def subscribed(verdict: str, seq: int, *, recovered: bool, **members: bool) -> dict[str, Any]:
    """The announcement of task `a`."""
    plain = {"type": "subscribed", "task_id": "a", "verdict": verdict, "epoch": EPOCH, "seq": seq}
    return {**plain, "recovered": recovered, **members}


def jumped(reason: str, cursor: Cursor, to: int) -> dict[str, Any]:
    """The notice of a jump in task `a`."""
    ends = {"from": {"epoch": cursor.epoch, "seq": cursor.seq}, "to": {"epoch": EPOCH, "seq": to}}
    return {"type": "notice", "kind": "jumped", "task_id": "a", "reason": reason, **ends}


def test_without_a_cursor_it_begins_with_a_snapshot() -> None:
    """Then every transition."""
    stage = Stage()
    stage.reports(3)
    assert stage.of.add("tenant", "a", mode="all") == [Watch(KEY)]
    assert told(stage.read()) == [subscribed("live", 3, recovered=False), {"type": "snapshot", "seq": 3}]
    assert seqs(stage.of.deliver([stage.report()])) == [4]
    assert not stage.of.has_due_reads


def test_with_a_cursor_it_goes_on_behind_it() -> None:
    """Exactly the transitions after it, a page at a time."""
    stage = Stage()
    stage.reports(5)
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 2))
    first = stage.read(rows=2)
    assert told(first)[0] == subscribed("live", 5, recovered=True)
    assert seqs(first) == [3, 4]
    assert seqs(stage.read()) == [5]
    assert not stage.of.has_due_reads


def test_a_cursor_at_the_head_gets_nothing_but_the_announcement() -> None:
    """Also with `latest`, which goes on from there."""
    for mode in ("all", "latest"):
        stage = Stage()
        stage.reports(2)
        stage.of.add("tenant", "a", mode="latest" if mode == "latest" else "all", cursor=Cursor(EPOCH, 2))
        assert told(stage.read()) == [subscribed("live", 2, recovered=True)]
        assert seqs(stage.of.deliver([stage.report()])) == [3]


@pytest.mark.parametrize("mode", ["all", "latest"])
@pytest.mark.parametrize(("cursor", "reason"), [(Cursor("e-0", 1), "other_epoch"), (Cursor(EPOCH, 9), "beyond_head")])
def test_a_cursor_that_cannot_be_continued_is_told_in_words(mode: Any, cursor: Cursor, reason: str) -> None:
    """From where to where, and why; then a snapshot."""
    stage = Stage()
    stage.reports(3)
    stage.of.add("tenant", "a", mode=mode, cursor=cursor)
    said = [*told(stage.read()), *told(stage.read() if stage.of.has_due_reads else [])]
    assert said == [
        subscribed("live", 3, recovered=False),
        jumped(reason, cursor, 3),
        {"type": "snapshot", "seq": 3},
    ]
    assert not stage.of.has_due_reads


def test_an_unknown_task_gets_its_verdict_and_no_subscription() -> None:
    """Whatever the cursor; one that is ahead of nothing is told so."""
    for cursor in (None, Cursor(EPOCH, 0)):
        stage = Stage()
        stage.of.add("tenant", "a", mode="all", cursor=cursor)
        effects = stage.read()
        assert told(effects) == [subscribed("unknown", 0, recovered=False, waiting=False)]
        assert effects[-1] == Unwatch(KEY)
        assert stage.of.task_keys() == set()
    stage = Stage()
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 4))
    assert told(stage.read()) == [
        subscribed("unknown", 0, recovered=False, waiting=False),
        jumped("beyond_head", Cursor(EPOCH, 4), 0),
    ]


def test_a_task_that_appears_while_it_is_read_is_not_unknown() -> None:
    """The live event says so, and it is read again."""
    stage = Stage()
    stage.of.add("tenant", "a", mode="all")
    wants = stage.of.due_reads()
    assert stage.of.deliver([stage.report()]) == []
    assert stage.of.read(Read(want=wants[0], head=None)) == []
    assert told(stage.read()) == [subscribed("live", 1, recovered=False), {"type": "snapshot", "seq": 1}]


def test_a_task_is_waited_for_from_its_first_transition() -> None:
    """Announced once; when it appears there is nothing more to wait for."""
    stage = Stage()
    stage.of.add("tenant", "a", mode="all", wait_until=50.0)
    assert told(stage.read()) == [subscribed("unknown", 0, recovered=True, waiting=True)]
    assert stage.of.next_wait() == 50.0
    assert seqs(stage.of.deliver(stage.reports(2))) == [1, 2]
    assert stage.of.next_wait() is None
    assert stage.of.give_up_waiting(60.0) == []


def test_a_task_that_appears_while_it_is_read_is_waited_for_no_longer() -> None:
    """The announcement is of the read, the transition follows at once."""
    stage = Stage()
    stage.of.add("tenant", "a", mode="all", wait_until=50.0)
    wants = stage.of.due_reads()
    stage.of.deliver([stage.report()])
    effects = stage.of.read(Read(want=wants[0], head=None))
    assert told(effects)[0] == subscribed("unknown", 0, recovered=True, waiting=True)
    assert seqs(effects) == [1]
    assert stage.of.next_wait() is None


def test_the_newest_state_of_a_task_that_appears_is_a_snapshot() -> None:
    """With `latest` there is nothing to build on: it is read."""
    stage = Stage()
    stage.of.add("tenant", "a", mode="latest", wait_until=50.0)
    stage.read()
    assert stage.of.deliver(stage.reports(2)) == []
    assert told(stage.read()) == [{"type": "snapshot", "seq": 2}]
    (newest,) = stage.of.deliver([*stage.reports(2)])
    assert isinstance(newest, Deliver)
    assert (newest.seq, newest.replaces) == (4, True)


def test_waiting_ends_with_its_time() -> None:
    """The client is told, and nothing is watched any more."""
    stage = Stage()
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 0), wait_until=50.0)
    stage.read()
    assert stage.of.give_up_waiting(49.9) == []
    effects = stage.of.give_up_waiting(50.0)
    assert told(effects) == [subscribed("unknown", 0, recovered=False, waiting=False)]
    assert effects[-1] == Unwatch(KEY)
    assert stage.of.next_wait() is None


def test_waiting_does_not_end_before_somebody_could_look() -> None:
    """While the ledger cannot be read, or is being read, the time is prolonged by a second."""
    stage = Stage()
    stage.of.add("tenant", "a", mode="all", wait_until=50.0)
    assert stage.of.give_up_waiting(50.0) == []
    assert stage.of.next_wait() == 51.0
    wants = stage.of.due_reads()
    assert stage.of.give_up_waiting(51.0) == []
    stage.of.read_failed(wants)
    assert stage.of.give_up_waiting(52.0) == []
    assert told(stage.read()) == [subscribed("unknown", 0, recovered=True, waiting=True)]
    assert len(told(stage.of.give_up_waiting(53.0))) == 1


def test_a_hole_in_the_ledger_is_told_and_passed_over() -> None:
    """Where transitions are missing for good, a snapshot is better than asking for ever."""
    stage = Stage()
    events = stage.reports(4)
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 1))
    (want,) = stage.of.due_reads()
    assert told(stage.of.read(Read(want=want, head=stage.tasks.look(KEY)))) == [subscribed("live", 4, recovered=True)]
    assert stage.of.deliver(events) == []
    assert told(stage.read()) == [
        subscribed("live", 4, recovered=False),
        jumped("not_in_ledger", Cursor(EPOCH, 1), 4),
        {"type": "snapshot", "seq": 4},
    ]
    assert seqs(stage.of.deliver([stage.report()])) == [5]


def test_to_subscribe_again_is_to_begin_anew() -> None:
    """A read for the one before is not for this one; the hub is not asked twice."""
    stage = Stage()
    stage.reports(3)
    stage.of.add("tenant", "a", mode="all", wait_until=50.0)
    wants = stage.of.due_reads()
    assert stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 1)) == []
    assert stage.of.next_wait() is None
    late = stage.tasks.answer(wants, {}, 10)
    assert stage.of.read(late[0]) == []
    stage.of.read_failed(wants)
    assert seqs(stage.read()) == [2, 3]


def test_what_comes_for_a_subscription_that_has_ended_is_ignored() -> None:
    """Reads, failures, live events and drops; to end it again does nothing."""
    stage = Stage()
    stage.reports(2)
    stage.of.add("tenant", "a", mode="all")
    wants = stage.of.due_reads()
    assert stage.of.remove("tenant", "a") == [Unwatch(KEY)]
    assert stage.of.remove("tenant", "a") == []
    assert stage.of.read(stage.tasks.answer(wants, {}, 10)[0]) == []
    stage.of.read_failed(wants)
    stage.of.rewind((KEY, False), 1)
    assert stage.of.deliver(stage.reports(1)) == []
    assert not stage.of.has_due_reads


def test_frames_that_were_dropped_are_read_again() -> None:
    """From the first of them."""
    stage = Stage()
    stage.reports(2)
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 0))
    assert seqs(stage.read()) == [1, 2]
    assert seqs(stage.of.deliver(stage.reports(2))) == [3, 4]
    stage.of.rewind((KEY, False), 2)
    assert seqs(stage.read()) == [2, 3, 4]


def test_so_many_are_read_at_once_and_the_rest_next() -> None:
    """In the order in which they became due."""
    of = Subscriptions(EPOCH)
    for n in range(READS_AT_ONCE + 2):
        of.add("tenant", f"t-{n}", mode="all")
    first = of.due_reads()
    assert [want.slot[0] for want in first] == [task_key("tenant", f"t-{n}") for n in range(READS_AT_ONCE)]
    assert of.has_due_reads
    assert len(of.due_reads()) == 2
    assert not of.has_due_reads


def test_there_is_room_for_so_many() -> None:
    """A worker's attending counts as well; what is there already, and is only begun anew, does not."""
    stage = Stage(limit=2)
    stage.of.add("tenant", "a", mode="all")
    stage.of.check_room("tenant", ["a", "b"], attending=False)
    stage.of.add("tenant", "a", mode="cancels")
    stage.of.check_room("tenant", ["a"], attending=True)
    with pytest.raises(ProtocolError, match="This connection watches 2 tasks; 2 are allowed") as refused:
        stage.of.check_room("tenant", ["b"], attending=False)
    assert refused.value.code == "too_many_subscriptions"


def test_one_task_is_watched_once_for_client_and_worker() -> None:
    """The hub is told of the first interest and of the last; to unsubscribe ends both."""
    stage = Stage()
    stage.reports(1)
    assert stage.of.add("tenant", "a", mode="cancels") == [Watch(KEY)]
    assert stage.of.add("tenant", "a", mode="all") == []
    assert stage.of.task_keys() == {KEY}
    assert stage.of.remove("tenant", "a") == [Unwatch(KEY)]
    assert stage.of.task_keys() == set()


def test_a_worker_hears_of_cancels_and_of_nothing_else() -> None:
    """The one that is open, those that come, and again after a gap: never more than there are requests."""
    stage = Stage()
    stage.of.add("tenant", "a", mode="cancels")
    assert stage.read() == []
    assert stage.of.deliver(stage.reports(2)) == []
    stage.read()
    asked = stage.cancel()
    assert told(stage.of.deliver([asked])) == [{"type": "cancel", "task_id": "a", "seq": 3, "reason": "why"}]
    assert stage.of.deliver([stage.report(cancel="refused")]) == []
    stage.cancel()
    assert stage.of.deliver([stage.report()]) == []
    assert told(stage.read()) == [{"type": "cancel", "task_id": "a", "seq": 5, "reason": "why"}]


@pytest.mark.parametrize("answer", [{"cancel": "refused"}, {"status": Status.COMPLETED}, {"status": Status.CANCELLED}])
def test_a_worker_is_not_told_of_a_cancel_that_was_answered(answer: dict[str, Any]) -> None:
    """Whoever attends after that has nothing to do."""
    stage = Stage()
    stage.report()
    stage.cancel()
    stage.report(**answer)
    stage.of.add("tenant", "a", mode="cancels")
    assert stage.read() == []
    stage = Stage()
    stage.cancel()
    stage.report(cancel="delivered")
    stage.of.add("tenant", "a", mode="cancels")
    assert told(stage.read()) == [{"type": "cancel", "task_id": "a", "seq": 1, "reason": "why"}]


def test_a_worker_is_told_nothing_of_a_history_that_was_rewound() -> None:
    """Its task is gone from the ledger: there is nothing to announce to it, and it goes on listening."""
    stage = Stage()
    stage.reports(2)
    stage.of.add("tenant", "a", mode="cancels")
    stage.read()
    stage.of.rewind((KEY, True), 2)
    (want,) = stage.of.due_reads()
    assert want == Want((KEY, True), None)
    assert stage.of.read(Read(want=want, head=None)) == []
    assert stage.of.task_keys() == {KEY}


def test_a_subscription_ends_with_its_task_when_all_frames_have_left() -> None:
    """Until then they may be dropped and be needed again."""
    stage = Stage()
    stage.reports(1)
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 1))
    stage.read()
    end = stage.report(status=Status.COMPLETED)
    assert seqs(stage.of.deliver([end])) == [2]
    stage.of.rewind((KEY, False), 2)
    assert stage.of.sweep() == []
    assert stage.of.task_keys() == {KEY}
    assert seqs(stage.read()) == [2]
    assert stage.of.sweep() == [Unwatch(KEY)]
    assert stage.of.sweep() == []


def test_a_subscription_of_an_ended_task_ends_after_its_snapshot() -> None:
    """There is nothing else to come."""
    stage = Stage()
    stage.report(status=Status.FAILED)
    stage.of.add("tenant", "a", mode="latest")
    assert told(stage.read()) == [subscribed("ended", 1, recovered=False), {"type": "snapshot", "seq": 1}]
    assert stage.of.sweep() == [Unwatch(KEY)]


def liveness(word: str, beat_age_ms: int | None = SILENT_MS) -> dict[str, Any]:
    """The word on the worker of task `a`."""
    return {"type": "liveness", "task_id": "a", "liveness": word, "beat_age_ms": beat_age_ms}


def seen(stage: Stage) -> None:
    """The hub has looked at task `a`, and tells."""
    head = stage.tasks.look(KEY)
    assert head is not None
    stage.of.see(KEY, head)


def has_words(stage: Stage) -> bool:
    """Whether there is something to tell."""
    return stage.of.has_words


@pytest.mark.parametrize("mode", ["all", "latest"])
def test_a_worker_that_falls_silent_is_told_once_and_again_when_it_is_back(mode: Any) -> None:
    """When all frames have left; what changes to and fro until then is not told at all."""
    stage = Stage()
    stage.reports(2)
    stage.of.add("tenant", "a", mode=mode)
    assert told(stage.read()) == [subscribed("live", 2, recovered=False), {"type": "snapshot", "seq": 2}]
    seen(stage)
    assert not has_words(stage)
    stage.tasks.fall_silent(KEY)
    seen(stage)
    assert has_words(stage)
    assert told(stage.of.tell()) == [liveness("late")]
    seen(stage)
    assert not has_words(stage)
    assert stage.of.tell() == []
    stage.tasks.late.clear()
    seen(stage)
    stage.tasks.fall_silent(KEY)
    seen(stage)
    assert stage.of.tell() == []
    stage.tasks.late.clear()
    seen(stage)
    assert told(stage.of.tell()) == [liveness("live", 0)]


@pytest.mark.parametrize("mode", ["all", "latest"])
def test_a_transition_is_a_sign_of_life_and_a_cancel_request_is_none(mode: Any) -> None:
    """After it the client takes the worker for alive without another word; a snapshot says so itself."""
    stage = Stage()
    stage.report()
    stage.of.add("tenant", "a", mode=mode)
    stage.read()
    stage.tasks.fall_silent(KEY)
    seen(stage)
    stage.of.tell()
    (asked,) = stage.of.deliver([stage.cancel()])
    assert isinstance(asked, Deliver)
    assert json.loads(asked.frame).get("task", {}).get("liveness") == ("late" if mode == "latest" else None)
    seen(stage)
    assert not has_words(stage)
    (refused,) = stage.of.deliver([stage.report(cancel="refused")])
    assert isinstance(refused, Deliver)
    assert json.loads(refused.frame).get("task", {}).get("liveness") == ("live" if mode == "latest" else None)
    seen(stage)
    assert not has_words(stage)
    stage.tasks.fall_silent(KEY)
    seen(stage)
    assert told(stage.of.tell()) == [liveness("late")]


def test_who_joins_late_is_told_by_the_snapshot_and_who_resumes_by_a_word_behind_what_was_missed() -> None:
    """A transition that was missed is no sign of life now."""
    stage = Stage()
    stage.reports(3)
    stage.tasks.fall_silent(KEY)
    stage.of.add("tenant", "a", mode="all")
    (_, snapshot) = stage.read()
    assert isinstance(snapshot, Send)
    assert json.loads(snapshot.frame)["task"]["liveness"] == "late"
    assert stage.of.tell() == []
    for latest in (False, True):
        stage.of.add("tenant", "a", mode="latest" if latest else "all", cursor=Cursor(EPOCH, 3))
        assert told(stage.read()) == [subscribed("live", 3, recovered=True)]
        assert told(stage.of.tell()) == [liveness("late")]
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 1))
    assert seqs(stage.read(rows=1)) == [2]
    assert not has_words(stage)
    assert stage.of.tell() == []
    assert seqs(stage.read(rows=1)) == [3]
    assert told(stage.of.tell()) == [liveness("late")]


def test_no_word_comes_before_the_announcement_nor_to_whom_it_does_not_concern() -> None:
    """Not while the first read is under way, not to the worker itself, not of a task that is not watched."""
    stage = Stage()
    stage.report()
    stage.tasks.fall_silent(KEY)
    seen(stage)
    stage.of.add("tenant", "a", mode="cancels")
    stage.read()
    seen(stage)
    assert stage.of.tell() == []
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 1))
    wants = stage.of.due_reads()
    seen(stage)
    assert not has_words(stage)
    assert stage.of.tell() == []
    stage.of.read_failed(wants)
    assert stage.of.tell() == []
    assert told(stage.read()) == [subscribed("live", 1, recovered=True)]
    assert told(stage.of.tell()) == [liveness("late")]


def test_what_was_seen_before_a_transition_is_no_news_after_it() -> None:
    """It comes late from the ledger; the next look will tell."""
    stage = Stage()
    stage.report()
    stage.of.add("tenant", "a", mode="all")
    wants = stage.of.due_reads()
    stage.tasks.fall_silent(KEY)
    (late,) = stage.tasks.answer(wants, {}, 10)
    assert late.head is not None
    assert stage.of.deliver([stage.report()]) == []
    assert seqs(stage.of.read(late)) == [2]
    assert not has_words(stage)
    stage.of.see(KEY, late.head)
    assert not has_words(stage)


def test_a_task_that_has_ended_has_no_worker_to_speak_of() -> None:
    """Its last transition says it all."""
    stage = Stage()
    stage.report()
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 1))
    stage.read()
    stage.tasks.fall_silent(KEY)
    seen(stage)
    stage.of.deliver([stage.report(status=Status.COMPLETED)])
    seen(stage)
    assert not has_words(stage)
    assert stage.of.tell() == []
