"""What one session watches: its subscriptions, their reads and their frames. Pure.

A subscription is announced with `subscribed` after its first read, and gives out frames in the order of its task.
Modes: `all` (every transition), `latest` (the newest snapshot), `cancels` (a worker attending: cancel requests only).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from gateway.principal import Verb
from gateway.protocol import codec
from gateway.protocol.burst import Burst
from gateway.protocol.effects import Effect, Event, Read, Send, Slot, Unwatch, Want, Watch
from gateway.protocol.errors import ProtocolError
from gateway.protocol.messages import SUBSCRIPTIONS, Cursor
from gateway.protocol.subscription import Mode, Subscription
from ledger.machine import TERMINAL
from ledger.model import Head, Key, task_key

READS_AT_ONCE: Final = 64
"""Subscriptions served by one read of the ledger."""


class Subscriptions:
    """All that a session watches. Methods return effects, to be performed in order."""

    __slots__ = ("_attended", "_by_slot", "_due", "_ended", "_epoch", "_limit", "_untold", "_waits", "_waits_anew")

    def __init__(self, epoch: str, limit: int = SUBSCRIPTIONS) -> None:
        self._epoch = epoch
        self._limit = limit
        self._by_slot: dict[Slot, Subscription] = {}
        self._due: dict[Slot, None] = {}
        self._waits: dict[Slot, float] = {}  # for tasks to appear, until when, in monotonic seconds
        self._ended: dict[Slot, None] = {}
        self._attended = 0  # of them for cancels
        self._waits_anew = False
        self._untold: dict[Slot, None] = {}  # where the client does not know yet how the worker is

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
        sealed: bool = False,
    ) -> list[Effect]:
        """Begin, or begin anew from another cursor. `sealed`: `unseal` has to come before anything is told."""
        key = task_key(tenant, task_id)
        slot = (key, mode == "cancels")
        subscription = Subscription(slot, task_id, mode, cursor, sealed=sealed)
        if cursor is not None and cursor.epoch != self._epoch:
            subscription.jump("other_epoch", cursor)
        watched = self._watches(key)
        self._attended += mode == "cancels" and slot not in self._by_slot
        self._by_slot[slot] = subscription
        self._due[slot] = None
        for pending in (self._ended, self._waits, self._untold):
            pending.pop(slot, None)
        if wait_until is not None:
            self._waits[slot] = wait_until
            self._waits_anew = True
        return [] if watched else [Watch(key)]

    def remove(self, tenant: str, task_id: str) -> list[Effect]:
        """End the watching of a task and the attending to it; nothing happens when there is none."""
        key = task_key(tenant, task_id)
        return [*self._drop((key, False)), *self._drop((key, True))]

    def passes(self, burst: Burst) -> bool:
        """Whether a plain burst goes to the client as it is, because all that it follows was given out before.

        Then it is given out with that, as `deliver` would have done it event by event.
        """
        slot = burst.slot
        subscription = self._by_slot.get(slot)
        if subscription is None or self._attended or slot in self._waits:
            return False
        return subscription.passes(burst.first, burst.last)

    def deliver(self, key_events: Sequence[Event]) -> list[Effect]:
        """Live events of one task, in order."""
        out: list[Effect] = []
        key = key_events[0].transition.key
        for slot in ((key, False), (key, True)):
            subscription = self._by_slot.get(slot)
            if subscription is None:
                continue
            if subscription.sealed:
                subscription.stir()
            else:
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
        if found.head is not None:
            out = self._join(subscription, found, found.head)
        elif self._is_taken_back(subscription):
            out = [*self._announce(subscription, verdict="unknown", seq=0, waiting=False)]
            return [*out, *self._drop(subscription.slot)]
        else:
            out = self._join_unknown(subscription)
        subscription.settle()
        self._note_due(subscription)
        self._note_untold(subscription)
        return out

    # What the task's row has to say

    def seal(self, needs: Callable[[Verb, str], bool]) -> None:
        """What is granted has changed: whatever `needs` it is not told on before its row was read."""
        for slot, subscription in self._by_slot.items():
            was, subscription.barred = subscription.sealed, False
            subscription.sealed = needs("report" if slot[1] else "watch", subscription.task_id)
            if was or subscription.sealed:
                subscription.catchup.fail_read()
                self._note_due(subscription)

    def sealed_keys(self, wants: Iterable[Want]) -> list[Key]:
        """The tasks whose rows have to be read for these."""
        return list(dict.fromkeys(want.slot[0] for want in wants if self.sealed_task(want.slot) is not None))

    def sealed_task(self, slot: Slot) -> str | None:
        """The task id of a sealed subscription."""
        subscription = self._by_slot.get(slot)
        return subscription.task_id if subscription is not None and subscription.sealed else None

    def judge(self, slot: Slot, *, granted: bool, for_ever: bool) -> None:
        """What the row says: that it is granted, or not; then, whether it is of use to look again."""
        self._by_slot[slot].sealed = not granted
        self._by_slot[slot].barred = for_ever and not granted

    def see(self, key: Key, head: Head) -> None:
        """How the worker of a watched task is just now; who attends to the task is the worker."""
        subscription = self._by_slot.get((key, False))
        if subscription is not None and not subscription.sealed and head.seq >= subscription.catchup.delivered:
            subscription.see(head)
            self._note_untold(subscription)

    @property
    def has_rest(self) -> bool:
        """Whether there may be something to `sweep`, to `tell` or to read."""
        return bool(self._due or self._ended or self._untold)

    @property
    def has_words(self) -> bool:
        """Whether `tell` would give any."""
        return any(self._by_slot[slot].waits_to_tell for slot in self._untold)

    def tell(self) -> list[Effect]:
        """Say how workers are, where the client does not know.

        Only when all frames have left: only the newest word matters, and no transition on the way may be newer than it.
        """
        untold, self._untold = self._untold, {}
        out: list[Effect] = []
        for slot in untold:
            subscription = self._by_slot[slot]
            if subscription.waits_to_tell:
                out.append(subscription.tell())
            self._note_untold(subscription)
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
            looked = subscription.sealed and subscription.announced  # one that is stirred on and on is never at rest
            if (subscription.catchup.reading or subscription.catchup.due) and not looked:
                self._waits[slot] = now + 1  # nobody could look yet
                continue
            out += self._announce(subscription, verdict="unknown", seq=0, waiting=False)
            out += self._drop(slot)
        return out

    @property
    def waits_anew(self) -> bool:
        """Whether `next_wait` may have become earlier since it was asked for last."""
        return self._waits_anew

    def next_wait(self) -> float | None:
        """When `give_up_waiting` has something to do, in monotonic seconds."""
        self._waits_anew = False
        return min(self._waits.values(), default=None)

    def _join_unknown(self, subscription: Subscription) -> list[Effect]:
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

    def _join(self, subscription: Subscription, found: Read, head: Head) -> list[Effect]:
        catchup = subscription.catchup
        if not subscription.announced and catchup.delivered > head.seq:
            subscription.jump("beyond_head", Cursor(self._epoch, catchup.delivered))
            if found.task is None:
                catchup.fail_read()  # a snapshot is needed after all
                return []
        self._waits.pop(subscription.slot, None)
        if head.ended:
            self._note_end(subscription, head.seq)
        out: list[Effect] = []
        if not subscription.announced:
            out += self._announce(subscription, verdict="ended" if head.ended else "live", seq=head.seq)
        if found.task is not None:
            out += subscription.show(found.task)
        events = catchup.join(found.events, head.seq)
        if not events and catchup.delivered < head.seq:
            # The ledger does not have what it should: say so instead of asking for ever.
            subscription.jump("not_in_ledger", Cursor(self._epoch, catchup.delivered))
        out += self._give(subscription, events)
        subscription.see(head)
        return out

    def _give(self, subscription: Subscription, events: Sequence[Event]) -> Iterator[Effect]:
        """The frames of events that are next in their task."""
        if events:
            self._waits.pop(subscription.slot, None)
            if events[-1].transition.status in TERMINAL:
                self._note_end(subscription, events[-1].seq)
            yield from subscription.give(events)

    def _announce(
        self, subscription: Subscription, *, verdict: str, seq: int, waiting: bool | None = None
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

    def _is_taken_back(self, subscription: Subscription) -> bool:
        """Whether it was told of before, and is not granted any more."""
        if not subscription.sealed or subscription.mode == "cancels":
            return False
        return subscription.announced and subscription.slot not in self._waits

    def _watches(self, key: object) -> bool:
        return any(slot in self._by_slot for slot in ((key, False), (key, True)))

    def _drop(self, slot: Slot) -> list[Effect]:
        if self._by_slot.pop(slot, None) is None:
            return []
        self._attended -= slot[1]
        for pending in (self._due, self._waits, self._ended, self._untold):
            pending.pop(slot, None)
        return [] if self._watches(slot[0]) else [Unwatch(slot[0])]

    def _note_end(self, subscription: Subscription, seq: int) -> None:
        subscription.ends_at = seq
        self._ended[subscription.slot] = None

    def _note_due(self, subscription: Subscription) -> None:
        if subscription.catchup.due and self._by_slot.get(subscription.slot) is subscription:
            self._due[subscription.slot] = None

    def _note_untold(self, subscription: Subscription) -> None:
        if subscription.believed is not subscription.liveness and self._by_slot.get(subscription.slot) is subscription:
            self._untold[subscription.slot] = None
