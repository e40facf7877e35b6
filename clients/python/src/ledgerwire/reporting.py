"""Reports on their way: numbered, kept until acknowledged, re-sent in order. Decides only; does no I/O.

A **series** is what must stay in order: the reports of one attempt, or one create or cancel alone. Of each
series at most one message is under way (stop-and-wait). Pipelining would be unsafe: were n=1 answered `busy`
while n=2, already sent, is accepted, the repeated n=1 would be answered `superseded` and be lost. Different
series go side by side, so only one task's rate is bound to the round trip, not a worker's.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ledgerwire import wire
from ledgerwire.backoff import FullJitter
from ledgerwire.errors import Fenced, LedgerwireError, QueueFull, Rejected, TaskEnded, fresh
from ledgerwire.model import Receipt

INTERNAL_TRIES_MAX: Final = 20
"""A fault of the server that one report provokes each time must not hold up the reports after it for ever."""


class Stalled(Exception):
    """A reply is overdue: the connection is to be abandoned; what is unacknowledged goes over a new one."""


@dataclass(slots=True, eq=False)
class Pending:
    """One message that is not acknowledged yet. `number` is its n; an opening report has a key instead."""

    serial: int
    series: Series
    type: str
    body: wire.Message
    number: int | None = None
    opening: bool = False
    terminal: bool = False
    counted: bool = True
    waited: bool = False
    """Somebody awaits the outcome; else it is told to the holder of the task."""
    entry: int | None = None
    """Its id in the journal."""
    tries: int = 0
    sent_at: float = 0.0

    def message(self, wire_id: int) -> wire.Message:
        """The message as it is sent now."""
        message: wire.Message = {"type": self.type, "id": wire_id, **self.body}
        if self.number is not None:
            message["attempt"] = self.series.attempt
            message["n"] = self.number
        return message


@dataclass(slots=True, eq=False)
class Series:
    """Messages that must be accepted in order."""

    serial: int
    task_id: str
    queue: deque[Pending] = field(default_factory=deque)
    attempt: int | None = None
    numbered: int = 0
    under_way: int | None = None
    """The wire id of the head of the queue, while its reply is awaited."""
    last_sent_at: float = 0.0
    closing: bool = False
    """A report that ends the task was taken; nothing may follow it."""
    ended: LedgerwireError | None = None
    """Why nothing can be reported any more."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A message is done with: exactly one of the two is set, or neither for a bare ok."""

    pending: Pending
    receipt: Receipt | None = None
    error: LedgerwireError | None = None


class Unacknowledged:
    """All series of one client: what to send now, what a reply means. `limit` bounds the counted messages."""

    def __init__(self, limit: int, backoff: FullJitter, dice: random.Random) -> None:
        self.frame_bytes = wire.FRAME_BYTES_DEFAULT
        self._limit = limit
        self._backoff = backoff
        self._dice = dice
        self._serials = 0
        self._wire_ids = 0
        self._counted = 0
        self._total = 0
        self._ready: dict[int, Series] = {}
        self._delayed: list[tuple[float, int, Series]] = []
        self._under_way: dict[int, Pending] = {}
        self._ended: LedgerwireError | None = None

    def __len__(self) -> int:
        return self._total

    @property
    def room(self) -> int:
        """How many counted messages can be taken."""
        return max(0, self._limit - self._counted)

    def next_wire_id(self) -> int:
        """An id for a message that is sent outside of a series; never the same twice."""
        self._wire_ids += 1
        return self._wire_ids

    # ── taking ──────────────────────────────────────────────────────────────────────────────────────────────

    def series(self, task_id: str) -> Series:
        """A new, empty series."""
        self._serials += 1
        return Series(self._serials, task_id)

    def offer(
        self,
        series: Series,
        kind: str,
        body: Mapping[str, Any],
        *,
        opening: bool = False,
        terminal: bool = False,
        counted: bool = True,
    ) -> Pending:
        """Take a message and number it, unless it is an opening report, a create or a cancel.

        Raises what ended the series or the client; TaskEnded after a terminal report was taken; QueueFull
        when `counted` and there is no room; TypeError for what JSON cannot say; Rejected for what fits no
        frame.
        """
        if refusal := self._ended or series.ended:
            raise fresh(refusal)
        if series.closing:
            sentence = f"This attempt has already reported the end of task {series.task_id}."
            raise TaskEnded("task_ended", sentence)
        if counted and not self.room:
            sentence = f"{self._limit} reports are waiting for their acknowledgement"
            raise QueueFull(sentence)
        frozen = wire.freeze(body, self.frame_bytes)
        pending = Pending(0, series, kind, frozen, opening=opening, terminal=terminal, counted=counted)
        if kind == "report" and not opening:
            pending.number = series.numbered + 1
        return self._enqueue(pending)

    def restore(self, task_id: str, attempt: int) -> Series:
        """The series of an attempt that an earlier process has made; to be filled by `resume`."""
        series = self.series(task_id)
        series.attempt = attempt
        return series

    def resume(self, series: Series, number: int, body: wire.Message, *, terminal: bool, entry: int) -> None:
        """Take a report of an earlier process again, under its number. It is not counted: it was taken before."""
        self._enqueue(
            Pending(0, series, "report", body, number, terminal=terminal, counted=False, entry=entry),
        )

    def retract(self, pending: Pending) -> None:
        """Undo the offer that was made last."""
        series = pending.series
        series.queue.pop()
        series.numbered -= pending.number is not None
        series.closing = False
        self._forget(pending)
        if not series.queue:
            self._ready.pop(series.serial, None)

    def withdraw(self, series: Series, error: LedgerwireError) -> list[Settled]:
        """Give up a series: what was not sent never will be; what is under way is not sent again."""
        return self._end_series(series, error)

    # ── sending ─────────────────────────────────────────────────────────────────────────────────────────────

    def due(self, now: float, at_most: int) -> list[wire.Message]:
        """The messages to send now; each counts as under way from here on."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, series = heapq.heappop(self._delayed)
            if series.queue and series.under_way is None:
                self._ready[series.serial] = series
        messages: list[wire.Message] = []
        while self._ready and len(messages) < at_most:
            series = self._ready.pop(next(iter(self._ready)))
            pending = series.queue[0]
            wire_id = self.next_wire_id()
            series.under_way = wire_id
            series.last_sent_at = pending.sent_at = now
            self._under_way[wire_id] = pending
            messages.append(pending.message(wire_id))
        return messages

    def next_due(self, now: float, reply_seconds: float) -> float | None:
        """Seconds until `due` or `check_replies` has something to say; None: not before something happens."""
        moments = []
        if self._ready:
            moments.append(now)
        if self._delayed:
            moments.append(self._delayed[0][0])
        if self._under_way:
            moments.append(next(iter(self._under_way.values())).sent_at + reply_seconds)
        return max(0.0, min(moments) - now) if moments else None

    def check_replies(self, now: float, reply_seconds: float) -> None:
        """Raises Stalled when the oldest message under way has waited for its reply for too long."""
        for pending in self._under_way.values():
            if now - pending.sent_at >= reply_seconds:
                sentence = f"no reply to a {pending.type} for {reply_seconds:g} s"
                raise Stalled(sentence)
            break

    # ── learning ────────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, reply: wire.Reply, now: float) -> list[Settled]:
        """What a reply decides: one message; its whole series when that ends; none that is to be retried."""
        pending = self._under_way.pop(reply.id, None) if reply.id is not None else None
        if pending is None:
            return []
        series = pending.series
        series.under_way = None
        rejection = reply.rejection
        if rejection is None:
            if pending.opening and reply.receipt is not None:
                series.attempt = reply.receipt.attempt
            return [self._finish(pending, Settled(pending, receipt=reply.receipt))]
        if self._to_be_retried(pending, rejection):
            pending.tries += 1
            wait = self._backoff.delay(pending.tries, self._dice)
            moment = now + max(wait, reply.retry_after_seconds)
            heapq.heappush(self._delayed, (moment, series.serial, series))
            return []
        if pending.opening or isinstance(rejection, (Fenced, TaskEnded)):
            return self._end_series(series, rejection)
        if pending.terminal:
            series.closing = False
        return [self._finish(pending, Settled(pending, error=rejection))]

    def lost(self) -> None:
        """The connection is gone: whatever was under way is unsent again, in its old place."""
        again = sorted(self._under_way.values(), key=lambda pending: pending.serial)
        self._under_way.clear()
        for pending in again:
            pending.series.under_way = None
            self._ready[pending.series.serial] = pending.series

    def end(self, error: LedgerwireError) -> list[Settled]:
        """Nothing will be sent any more: what waits gets `error`, and so does whatever is offered later."""
        self._ended = error
        waiting = {pending.series.serial: pending.series for pending in self._under_way.values()}
        waiting.update((series.serial, series) for _, _, series in self._delayed)
        waiting.update(self._ready)
        self._delayed.clear()
        return [settled for series in waiting.values() for settled in self._end_series(series, error)]

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def _to_be_retried(pending: Pending, rejection: Rejected) -> bool:
        if rejection.code == "internal":
            return rejection.retryable and pending.tries < INTERNAL_TRIES_MAX
        return rejection.retryable

    def _enqueue(self, pending: Pending) -> Pending:
        series = pending.series
        self._serials += 1
        pending.serial = self._serials
        series.numbered = pending.number or series.numbered
        series.closing = pending.terminal
        series.queue.append(pending)
        self._total += 1
        self._counted += pending.counted
        if len(series.queue) == 1:
            self._ready[series.serial] = series
        return pending

    def _finish(self, pending: Pending, settled: Settled) -> Settled:
        series = pending.series
        series.queue.popleft()
        self._forget(pending)
        if series.queue:
            self._ready[series.serial] = series
        return settled

    def _end_series(self, series: Series, error: LedgerwireError) -> list[Settled]:
        series.ended = error
        self._ready.pop(series.serial, None)
        if series.under_way is not None:
            self._under_way.pop(series.under_way, None)
            series.under_way = None
        settled = [Settled(pending, error=fresh(error)) for pending in series.queue]
        for pending in series.queue:
            self._forget(pending)
        series.queue.clear()
        return settled

    def _forget(self, pending: Pending) -> None:
        self._total -= 1
        self._counted -= pending.counted
