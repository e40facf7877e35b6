"""What a worker's connection says: attends, reports, beats; and hears: replies and cancels. A `Peer`."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Protocol

from ledgerwire import wire
from ledgerwire.delivery import Delivery
from ledgerwire.errors import LedgerwireError
from ledgerwire.journal import Journal
from ledgerwire.model import CancelState, Receipt
from ledgerwire.reporting import Pending, Series
from ledgerwire.settings import Timing

_log = logging.getLogger("ledgerwire")


class Holder(Protocol):
    """A task as the reporter needs it: something that holds an attempt and wants to know."""

    task_id: str

    def settled(self, pending: Pending, receipt: Receipt | None, error: LedgerwireError | None) -> None:
        """One of its reports is done with."""

    def heard(self, cancel: CancelState) -> None:
        """A cancel request is open."""

    def let_go(self, error: LedgerwireError) -> None:
        """Nothing can be reported any more."""


class Reporter:
    """The state of a worker: the tasks it holds, and its unacknowledged messages."""

    def __init__(
        self,
        limit: int,
        timing: Timing,
        dice: random.Random,
        clock: Callable[[], float],
        wake: Callable[[], None],
        journal: Journal | None = None,
    ) -> None:
        self.delivery = Delivery(limit, timing, dice, wake, journal)
        self.ended_by: LedgerwireError | None = None
        self.degraded = False
        self._timing = timing
        self._clock = clock
        self._wake = wake
        self._held: dict[int, tuple[Series, Holder]] = {}
        self._to_attend: dict[str, None] = {}
        self._attending: dict[int, list[str]] = {}
        self._attend_again_at: float | None = None
        self._next_beat_at = 0.0

    # ── for tasks ───────────────────────────────────────────────────────────────────────────────────────────

    def hold(self, holder: Holder) -> Series:
        """Begin an attempt: a series for its reports; its cancels are attended from now on."""
        series = self.delivery.queue.series(holder.task_id)
        self._held[series.serial] = (series, holder)
        self._to_attend[holder.task_id] = None
        self._wake()
        return series

    def release(self, series: Series) -> None:
        """End an attempt: no more beats and cancels for it. What is queued still goes out."""
        self._held.pop(series.serial, None)

    # ── Peer ────────────────────────────────────────────────────────────────────────────────────────────────

    def welcomed(self, welcome: wire.Welcome) -> None:
        self.degraded = False
        self.delivery.queue.frame_bytes = welcome.frame_bytes
        self._to_attend = dict.fromkeys(holder.task_id for _, holder in self._held.values())
        self._attend_again_at = None
        self._next_beat_at = (
            self._clock()
        )  # at once: for the gateway these tasks were silent while there was no connection

    async def received(self, message: wire.Message) -> None:
        match message["type"]:
            case "reply":
                self._replied(wire.reply(message))
                self._wake()
            case "cancel":
                task_id, cancel = wire.task_id(message), wire.cancel_request(message)
                for _, holder in list(self._held.values()):
                    if holder.task_id == task_id:
                        holder.heard(cancel)
            case "notice" if message.get("kind") in ("degraded", "restored"):
                self.degraded = message["kind"] == "degraded"
            case _:
                pass  # a later version of the server may say more

    def outgoing(self, now: float, at_most: int) -> list[bytes]:
        frames = self._attends(now)
        frames += self.delivery.due(now, at_most)
        if now >= self._next_beat_at:
            frames += self._beats(now)
        return frames

    def next_due(self, now: float) -> float | None:
        moments = [self.delivery.next_due(now)]
        if self._held:
            moments.append(max(0.0, self._next_beat_at - now))
        if self._attend_again_at is not None:
            moments.append(max(0.0, self._attend_again_at - now))
        return min((moment for moment in moments if moment is not None), default=None)

    async def renew(self, token: str) -> None:
        await self.delivery.refresh(token, self._timing.reply_seconds)

    def lost(self) -> None:
        self._attending.clear()
        self.delivery.queue.lost()

    def ended(self, error: LedgerwireError) -> None:
        self.ended_by = error
        for settled in self.delivery.end(error):
            self._tell(settled.pending, settled.receipt, settled.error)
        for _, holder in list(self._held.values()):
            holder.let_go(error)

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _replied(self, reply: wire.Reply) -> None:
        attended = self._attending.pop(reply.id, None) if reply.id is not None else None
        if attended is not None:
            if reply.rejection is not None:
                self._attend_rejected(attended, reply)
            return
        if reply.id is None and reply.rejection is not None:
            _log.warning("the gateway could not read a frame of this client: %s", reply.rejection)
        for settled in self.delivery.settle(reply, self._clock()):
            self._tell(settled.pending, settled.receipt, settled.error)

    def _attend_rejected(self, task_ids: list[str], reply: wire.Reply) -> None:
        rejection = reply.rejection
        if rejection is not None and rejection.retryable:
            self._to_attend.update(dict.fromkeys(task_ids))
            self._attend_again_at = self._clock() + max(1.0, reply.retry_after_seconds)
        else:
            _log.warning("cancels will only come with replies (tasks: %d): %s", len(task_ids), rejection)

    def _tell(self, pending: Pending, receipt: Receipt | None, error: LedgerwireError | None) -> None:
        held = self._held.get(pending.series.serial)
        if held is None:
            if error is not None and not pending.waited:
                _log.warning("a report of task %s had no effect: %s", pending.series.task_id, error)
            return
        series, holder = held
        holder.settled(pending, receipt, error)
        if series.ended is not None:
            holder.let_go(series.ended)
        elif receipt is not None and receipt.cancel is not None:
            holder.heard(receipt.cancel)

    def _attends(self, now: float) -> list[bytes]:
        if not self._to_attend or (self._attend_again_at is not None and now < self._attend_again_at):
            return []
        frames = []
        for chunk in wire.chunks(self._to_attend):
            wire_id = self.delivery.queue.next_wire_id()
            self._attending[wire_id] = chunk
            frames.append(wire.encode({"type": "attend", "id": wire_id, "task_ids": chunk}))
        self._to_attend = {}
        self._attend_again_at = None
        return frames

    def _beats(self, now: float) -> list[bytes]:
        self._next_beat_at = now + self._timing.beat_seconds
        quiet_since = now - self._timing.beat_seconds
        return wire.beats(
            (series.task_id, series.attempt)
            for series, _ in self._held.values()
            if series.attempt is not None and series.under_way is None and series.last_sent_at <= quiet_since
        )
