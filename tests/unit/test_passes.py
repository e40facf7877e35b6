"""When a burst goes to the client as it is, and what the session knows of that afterwards."""

from __future__ import annotations

import json

from gateway.protocol import codec
from gateway.protocol.burst import Burst
from gateway.protocol.messages import Cursor
from gateway.protocol.subscription import Mode
from gateway.protocol.subscriptions import Subscriptions
from ledger.machine import Liveness
from ledger.model import Report, task_key
from tests.property.paper_gateway import SILENT_MS, PaperTasks

EPOCH = "e-1"
KEY = task_key("tenant", "a")


class Stage:
    """Subscriptions and the ledger they read; task `a` has come to 3."""

    def __init__(self) -> None:
        self.tasks = PaperTasks()
        self.of = Subscriptions(EPOCH)
        self.burst(3)

    def burst(self, times: int) -> Burst:
        """So many more transitions."""
        before = self.tasks.head(KEY)
        for _ in range(times):
            self.tasks.commit(Report(tenant="tenant", task_id="a"))
        return Burst(self.tasks.events[KEY][before:])

    def watch(self, mode: Mode = "all", cursor: Cursor | None = None) -> None:
        """Subscribe, and read."""
        self.of.add("tenant", "a", mode=mode, cursor=cursor)
        self.read()

    def read(self) -> None:
        """Serve what is due once."""
        wants = self.of.due_reads()
        for found in self.tasks.answer(wants, {KEY: self.tasks.look(KEY)}, 100):
            self.of.read(found)


def test_what_is_next_passes_once() -> None:
    """And again only what follows it."""
    stage = Stage()
    stage.watch()
    first, second, third = stage.burst(2), stage.burst(1), stage.burst(4)
    assert not stage.of.passes(second)
    assert stage.of.passes(first)
    assert not stage.of.passes(first)
    assert stage.of.passes(second)
    assert stage.of.passes(third)
    assert stage.of.deliver(third.events) == []


def test_nothing_passes_where_more_is_to_be_done() -> None:
    """Before the read, during it, to the newest state, to a worker, to one who waits, to nobody."""
    stage = Stage()
    assert not stage.of.passes(stage.burst(1))
    stage.of.add("tenant", "a", mode="all", cursor=Cursor(EPOCH, 4))
    assert not stage.of.passes(stage.burst(1))
    stage.of.due_reads()
    assert not stage.of.passes(stage.burst(1))
    newest = Stage()
    newest.watch("latest")
    assert not newest.of.passes(newest.burst(1))
    worker = Stage()
    worker.watch("cancels")
    worker.watch()
    assert not worker.of.passes(worker.burst(1))
    worker.of.remove("tenant", "a")
    worker.watch()
    assert worker.of.passes(worker.burst(1))


def test_a_task_that_was_waited_for_passes_from_its_second_burst_on() -> None:
    """With the first the wait ends."""
    stage = Stage()
    stage.tasks = PaperTasks()
    stage.of.add("tenant", "a", mode="all", wait_until=5.0)
    assert bool(stage.of.waits_anew)
    assert stage.of.next_wait() == 5.0
    assert not bool(stage.of.waits_anew)
    stage.read()
    first, second = stage.burst(2), stage.burst(1)
    assert not stage.of.passes(first)
    assert len(stage.of.deliver(first.events)) == 2
    assert stage.of.next_wait() is None
    assert stage.of.passes(second)


def test_a_burst_shows_that_the_worker_lives_unless_something_newer_was_seen() -> None:
    """A worker that was seen late after a later transition is late still when an earlier one comes."""
    stage = Stage()
    stage.watch()
    assert not bool(stage.of.has_rest)
    burst, later = stage.burst(1), stage.burst(1)
    stage.tasks.late.add(KEY)
    head = stage.tasks.look(KEY)
    assert head is not None
    assert (head.seq, head.liveness, head.beat_age_ms) == (5, Liveness.LATE, SILENT_MS)
    stage.of.see(KEY, head)
    assert bool(stage.of.has_rest)
    assert stage.of.passes(burst)
    assert not stage.of.has_words
    assert len(stage.of.deliver(later.events)) == 1
    assert stage.of.passes(stage.burst(1))
    assert not stage.of.has_words
    assert stage.of.tell() == []
    assert not bool(stage.of.has_rest)


def test_a_transition_has_the_same_members_in_a_frame_and_in_a_body() -> None:
    """But for the type."""
    (event,) = Stage().burst(1).events
    members = json.loads(codec.json_bytes(codec.transition_members(event.transition)))
    assert {"type": "transition", **members} == json.loads(event.frame)
