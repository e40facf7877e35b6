"""One task as one session watches it: where it stands, and what its client believes of the worker. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec.structs import replace

from gateway.protocol import codec
from gateway.protocol.catchup import Catchup
from gateway.protocol.effects import Deliver, Effect, Event, Send, Slot
from gateway.protocol.messages import Cursor
from ledger.machine import Liveness, Status
from ledger.model import Head, Task, advance

Mode = Literal["all", "latest", "cancels"]


class Subscription:
    """Begun by `subscribe` or `attend`; `Subscriptions` holds it until its task has ended."""

    __slots__ = (
        "announced", "barred", "beat_age_ms", "believed", "catchup", "cursor", "ends_at", "jumped", "liveness", "mode",
        "sealed", "seen_at", "slot", "stirred", "task", "task_id",
    )  # fmt: skip

    def __init__(self, slot: Slot, task_id: str, mode: Mode, cursor: Cursor | None, *, sealed: bool = False) -> None:
        self.slot = slot
        self.task_id = task_id
        self.mode: Mode = mode
        self.cursor = cursor  # where the client wants to go on; None: begin with a snapshot
        self.ends_at: int | None = None  # the sequence of the terminal transition, once it is known
        self.announced = mode == "cancels"  # a worker is not told of the task, only of its cancels
        self.jumped: tuple[str, Cursor] | None = None
        self.task: Task | None = None  # `latest`: the snapshot given out last
        self.catchup: Catchup[Event] = Catchup(cursor.seq if cursor is not None else 0)
        self.liveness: Liveness = Liveness.LIVE  # of the worker, as it was seen last …
        self.seen_at = 0  # … when the task had come to this sequence
        self.beat_age_ms: int | None = None
        self.believed: Liveness = Liveness.LIVE  # what the client must take it for: a worker that reports is alive

        self.sealed = sealed  # nothing of the task is told until its row has said that this is granted
        self.barred = False  # and it never will
        self.stirred = False  # something has happened to the sealed task during a read

    def stir(self) -> None:
        """Something has happened to the sealed task: its row may say more than before."""
        if self.barred:
            return
        if self.catchup.reading:
            self.stirred = True
        else:
            self.catchup.due = True

    def settle(self) -> None:
        """A read is over: is another one needed?"""
        if self.stirred:
            self.stirred = False
            self.catchup.due = not self.barred

    @property
    def needs_snapshot(self) -> bool:
        """Whether a read must bring the whole task."""
        return self.mode != "all" or (self.cursor is None and not self.announced)

    @property
    def waits_to_tell(self) -> bool:
        """Whether the client has to hear how the worker is, and has come to where that was seen."""
        if self.believed is self.liveness or self.mode == "cancels" or not self.announced or self.ends_at is not None:
            return False
        return self.catchup.delivered >= self.seen_at and not (self.catchup.due or self.catchup.reading)

    def passes(self, first: int, last: int) -> bool:
        """Whether these transitions are next and go to the client as they are; then they are given out."""
        catchup = self.catchup
        if self.mode != "all" or first != catchup.delivered + 1 or catchup.due or catchup.reading:
            return False
        catchup.delivered = last  # as `Catchup.offer` of each
        self.believed = Liveness.LIVE
        if last > self.seen_at:
            self.seen_at, self.liveness = last, Liveness.LIVE
        return True

    def jump(self, reason: str, cursor: Cursor) -> None:
        """The stream cannot go on at the cursor: begin anew, and say so with the next announcement."""
        self.jumped = (reason, cursor)
        self.cursor = None
        self.announced = self.mode == "cancels"
        self.seen_at = 0
        self.catchup.reset()

    def see(self, head: Head) -> None:
        """Somebody has looked how the worker is."""
        if head.seq >= self.seen_at:
            self.seen_at = head.seq
            self.liveness = head.liveness or Liveness.LIVE
            self.beat_age_ms = head.beat_age_ms

    def tell(self) -> Send:
        """The frame that says how the worker is."""
        self.believed = self.liveness
        if self.task is not None:
            self.task = replace(self.task, liveness=self.liveness, beat_age_ms=self.beat_age_ms)
        return Send(codec.liveness_frame(self.task_id, self.liveness, self.beat_age_ms))

    def show(self, task: Task) -> Iterator[Effect]:
        """The frames of a snapshot that was read."""
        if task.seq > self.catchup.delivered:
            if self.mode != "cancels":
                self.believed = task.liveness or Liveness.LIVE
                yield Send(codec.snapshot_frame(task))
            elif task.status is Status.CANCELLING and task.cancel is not None:
                yield Send(codec.frame("cancel", task_id=task.task_id, seq=task.cancel.seq, reason=task.cancel.reason))
            self.catchup.restart(task.seq)
        if self.mode == "latest":
            self.task = task

    def give(self, events: Sequence[Event]) -> Iterator[Effect]:
        """The frames of events that are next in their task."""
        if self.mode == "cancels":
            for event in events:
                if not event.shows_life:
                    told = event.transition
                    yield Send(codec.frame("cancel", task_id=told.task_id, seq=told.seq, reason=told.reason))
            return
        alive_at = max((event.seq for event in events if event.shows_life), default=0)
        if alive_at:
            self.believed = Liveness.LIVE
        if alive_at > self.seen_at:
            self.seen_at, self.liveness = alive_at, Liveness.LIVE
        if self.mode == "all":
            for event in events:
                yield Deliver(self.slot, event.seq, event.frame)
            return
        task = self.task
        if task is None:  # it has just appeared: there is no snapshot to build on
            self.catchup.rewind(events[0].seq)
            return
        for event in events:
            task = advance(task, event.transition)
        self.task = task
        self.believed = task.liveness or Liveness.LIVE
        yield Deliver(self.slot, task.seq, codec.snapshot_frame(task), replaces=True)
