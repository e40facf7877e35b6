"""What one session watches: its subscriptions, their reads and their frames. Pure.

A subscription is announced with `subscribed` after its first read, and gives out frames in the order of its task.
Modes: `all` (every transition), `latest` (the newest snapshot), `cancels` (a worker attending: cancel requests only).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

from gateway.protocol import codec
from gateway.protocol.catchup import Catchup
from gateway.protocol.effects import Deliver, Effect, Event, Read, Send, Slot, Unwatch, Want, Watch
from gateway.protocol.errors import ProtocolError
from gateway.protocol.messages import SUBSCRIPTIONS, Cursor
from ledger.machine import TERMINAL, CancelStage, Status
from ledger.model import Key, Task, advance, task_key

Mode = Literal["all", "latest", "cancels"]

READS_AT_ONCE: Final = 64
"""Subscriptions served by one read of the ledger."""


class _Subscription:
    __slots__ = ("announced", "catchup", "cursor", "ends_at", "jumped", "mode", "slot", "task", "task_id")

    def __init__(self, slot: Slot, task_id: str, mode: Mode, cursor: Cursor | None) -> None:
        self.slot = slot
        self.task_id = task_id
        self.mode = mode
        self.cursor = cursor  # where the client wants to go on; None: begin with a snapshot
        self.ends_at: int | None = None  # the sequence of the terminal transition, once it is known
        self.announced = mode == "cancels"  # a worker is not told of the task, only of its cancels
        self.jumped: tuple[str, Cursor] | None = None
        self.task: Task | None = None  # `latest`: the snapshot given out last
        self.catchup: Catchup[Event] = Catchup(cursor.seq if cursor is not None else 0)

    @property
    def needs_snapshot(self) -> bool:
        return self.mode != "all" or (self.cursor is None and not self.announced)

    def jump(self, reason: str, cursor: Cursor) -> None:
        """The stream cannot go on at the cursor: begin anew, and say so with the next announcement."""
        self.jumped = (reason, cursor)
        self.cursor = None
        self.announced = self.mode == "cancels"
        self.catchup.reset()


class Subscriptions:
    """All that a session watches. Methods return effects, to be performed in order."""

    def __init__(self, epoch: str, limit: int = SUBSCRIPTIONS) -> None:
        self._epoch = epoch
        self._limit = limit
        self._by_slot: dict[Slot, _Subscription] = {}
        self._due: dict[Slot, None] = {}
        self._waits: dict[Slot, float] = {}  # for tasks to appear, until when, in monotonic seconds
        self._ended: dict[Slot, None] = {}

    def task_keys(self) -> set[Key]:
        """The tasks watched, by key."""
        return {key for key, _ in self._by_slot}

    def check_room(self, tenant: str, task_ids: Iterable[str], *, attending: bool) -> None:
        """Raises `ProtocolError` `too_many_subscriptions` when those of them that are new do not fit."""
        more = {(task_key(tenant, task_id), attending) for task_id in task_ids} - self._by_slot.keys()
        if len(self._by_slot) + len(more) > self._limit:
            raise ProtocolError(
                "too_many_subscriptions",
                f"This connection watches {len(self._by_slot)} tasks; {self._limit} are allowed.",
            )

    def add(
        self,
        tenant: str,
        task_id: str,
        *,
        mode: Mode,
        cursor: Cursor | None = None,
        wait_until: float | None = None,
    ) -> list[Effect]:
        """Begin, or begin anew from another cursor."""
        key = task_key(tenant, task_id)
        slot = (key, mode == "cancels")
        subscription = _Subscription(slot, task_id, mode, cursor)
        if cursor is not None and cursor.epoch != self._epoch:
            subscription.jump("other_epoch", cursor)
        watched = self._watches(key)
        self._by_slot[slot] = subscription
        self._due[slot] = None
        self._ended.pop(slot, None)
        self._waits.pop(slot, None)
        if wait_until is not None:
            self._waits[slot] = wait_until
        return [] if watched else [Watch(key)]

    def remove(self, tenant: str, task_id: str) -> list[Effect]:
        """End the watching of a task and the attending to it; nothing happens when there is none."""
        key = task_key(tenant, task_id)
        return [*self._drop((key, False)), *self._drop((key, True))]

    def deliver(self, key_events: Sequence[Event]) -> list[Effect]:
        """Live events of one task, in order."""
        out: list[Effect] = []
        key = key_events[0].transition.key
        for slot in ((key, False), (key, True)):
            subscription = self._by_slot.get(slot)
            if subscription is not None:
                offer = subscription.catchup.offer
                out += self._give(subscription, [ready for event in key_events for ready in offer(event)])
                self._note_due(subscription)
        return out

    def sweep(self) -> list[Effect]:
        """End the subscriptions of ended tasks. Only when all their frames have left: until then they may be needed."""
        ended, self._ended = self._ended, {}
        out: list[Effect] = []
        for slot in ended:
            subscription = self._by_slot[slot]
            if subscription.ends_at is not None and subscription.catchup.delivered >= subscription.ends_at:
                out += self._drop(slot)
        return out

    def due_reads(self) -> list[Want]:
        """Begin the reads that are needed now, at most `READS_AT_ONCE`; answer each by `read` or `read_failed`."""
        wants: list[Want] = []
        for slot in list(self._due)[:READS_AT_ONCE]:
            del self._due[slot]
            subscription = self._by_slot[slot]
            subscription.catchup.begin_read()
            after = None if subscription.needs_snapshot else subscription.catchup.delivered
            wants.append(Want(slot, after))
        return wants

    @property
    def has_due_reads(self) -> bool:
        """Whether `due_reads` would give any."""
        return bool(self._due)

    def read_failed(self, wants: Sequence[Want]) -> None:
        """The ledger could not be read; the reads are needed again."""
        for want in wants:
            subscription = self._by_slot.get(want.slot)
            if subscription is not None and subscription.catchup.reading:
                subscription.catchup.fail_read()
                self._note_due(subscription)

    def read(self, found: Read) -> list[Effect]:
        """A read has come back."""
        subscription = self._by_slot.get(found.want.slot)
        if subscription is None or not subscription.catchup.reading:
            return []  # ended, or begun anew, in the meantime
        out = self._join_unknown(subscription) if found.head is None else self._join(subscription, found, found.head)
        self._note_due(subscription)
        return out

    def rewind(self, slot: Slot, seq: int) -> None:
        """Frames of this subscription from `seq` on were dropped unsent."""
        subscription = self._by_slot.get(slot)
        if subscription is not None:
            subscription.catchup.rewind(seq)
            self._note_due(subscription)

    def give_up_waiting(self, now: float) -> list[Effect]:
        """End the subscriptions whose task has not appeared in time."""
        out: list[Effect] = []
        for slot in [slot for slot, until in self._waits.items() if until <= now]:
            subscription = self._by_slot[slot]
            if subscription.catchup.reading or subscription.catchup.due:
                self._waits[slot] = now + 1  # nobody could look yet
                continue
            out += self._announce(subscription, verdict="unknown", seq=0, waiting=False)
            out += self._drop(slot)
        return out

    def next_wait(self) -> float | None:
        """When `give_up_waiting` has something to do, in monotonic seconds."""
        return min(self._waits.values(), default=None)

    def _join_unknown(self, subscription: _Subscription) -> list[Effect]:
        """Nobody has heard of the task."""
        catchup = subscription.catchup
        if catchup.delivered > 0:  # but the cursor has
            subscription.jump("beyond_head", Cursor(self._epoch, catchup.delivered))
        events = catchup.join((), 0)
        waiting = subscription.slot in self._waits
        if events and not waiting:
            catchup.rewind(1)  # it has appeared during the read: read again
            return []
        out: list[Effect] = []
        if not subscription.announced:
            out += self._announce(subscription, verdict="unknown", seq=0, waiting=waiting)
            if not waiting:
                return [*out, *self._drop(subscription.slot)]
        return [*out, *self._give(subscription, events)]

    def _join(self, subscription: _Subscription, found: Read, head: int) -> list[Effect]:
        catchup = subscription.catchup
        if not subscription.announced and catchup.delivered > head:
            subscription.jump("beyond_head", Cursor(self._epoch, catchup.delivered))
            if found.task is None:
                catchup.fail_read()  # a snapshot is needed after all
                return []
        self._waits.pop(subscription.slot, None)
        if found.ended:
            self._note_end(subscription, head)
        out: list[Effect] = []
        if not subscription.announced:
            out += self._announce(subscription, verdict="ended" if found.ended else "live", seq=head)
        if found.task is not None:
            out += self._show(subscription, found.task)
            return [*out, *self._give(subscription, catchup.join((), head))]
        events = catchup.join(found.events, head)
        if not events and catchup.delivered < head:
            # The ledger does not have what it should: say so instead of asking for ever.
            subscription.jump("not_in_ledger", Cursor(self._epoch, catchup.delivered))
        return [*out, *self._give(subscription, events)]

    def _show(self, subscription: _Subscription, task: Task) -> Iterator[Effect]:
        """A snapshot was read."""
        catchup = subscription.catchup
        if task.seq > catchup.delivered:
            if subscription.mode != "cancels":
                yield Send(codec.snapshot_frame(task))
            elif task.status is Status.CANCELLING and task.cancel is not None:
                yield Send(codec.frame("cancel", task_id=task.task_id, seq=task.cancel.seq, reason=task.cancel.reason))
            catchup.restart(task.seq)
        if subscription.mode == "latest":
            subscription.task = task

    def _give(self, subscription: _Subscription, events: Sequence[Event]) -> Iterator[Effect]:
        """The frames of events that are next in their task."""
        if not events:
            return
        slot = subscription.slot
        self._waits.pop(slot, None)
        if events[-1].transition.status in TERMINAL:
            self._note_end(subscription, events[-1].seq)
        if subscription.mode == "all":
            for event in events:
                yield Deliver(slot, event.seq, event.frame)
        elif subscription.mode == "cancels":
            for event in events:
                if event.transition.cancel is CancelStage.RECORDED:
                    told = event.transition
                    yield Send(codec.frame("cancel", task_id=told.task_id, seq=told.seq, reason=told.reason))
        else:
            task = subscription.task
            if task is None:  # it has just appeared: there is no snapshot to build on
                subscription.catchup.rewind(events[0].seq)
                return
            for event in events:
                task = advance(task, event.transition)
            subscription.task = task
            yield Deliver(slot, task.seq, codec.snapshot_frame(task), replaces=True)

    def _announce(
        self, subscription: _Subscription, *, verdict: str, seq: int, waiting: bool | None = None
    ) -> Iterator[Effect]:
        subscription.announced = True
        jumped, subscription.jumped = subscription.jumped, None
        # To wait for a task from its first transition on is to continue, too.
        recovered = jumped is None and (subscription.cursor is not None if waiting is None else waiting)
        members: dict[str, object] = {
            "task_id": subscription.task_id,
            "verdict": verdict,
            "epoch": self._epoch,
        }
        members |= {"seq": seq, "recovered": recovered}
        if waiting is not None:
            members["waiting"] = waiting
        yield Send(codec.frame("subscribed", **members))
        if jumped is not None:
            reason, cursor = jumped
            yield Send(codec.jump_notice(subscription.task_id, reason, cursor, Cursor(self._epoch, seq)))

    def _watches(self, key: object) -> bool:
        return any(slot in self._by_slot for slot in ((key, False), (key, True)))

    def _drop(self, slot: Slot) -> list[Effect]:
        if self._by_slot.pop(slot, None) is None:
            return []
        for pending in (self._due, self._waits, self._ended):
            pending.pop(slot, None)
        return [] if self._watches(slot[0]) else [Unwatch(slot[0])]

    def _note_end(self, subscription: _Subscription, seq: int) -> None:
        subscription.ends_at = seq
        self._ended[subscription.slot] = None

    def _note_due(self, subscription: _Subscription) -> None:
        if subscription.catchup.due and self._by_slot.get(subscription.slot) is subscription:
            self._due[subscription.slot] = None
