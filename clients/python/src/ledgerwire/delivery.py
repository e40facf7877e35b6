"""Waiting for acknowledgements: joins the decisions of `reporting` with futures, and with a journal. One per link."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ledgerwire import wire
from ledgerwire.backoff import FullJitter
from ledgerwire.errors import DeliveryTimeout, LedgerwireError, QueueFull, Rejected
from ledgerwire.journal import Journal
from ledgerwire.model import Receipt
from ledgerwire.reporting import Pending, Series, Settled, Unacknowledged
from ledgerwire.settings import Timing


class Delivery:
    """Takes messages, wakes the connection, and resolves whoever waits for the acknowledgement."""

    def __init__(
        self,
        limit: int,
        timing: Timing,
        dice: random.Random,
        wake: Callable[[], None],
        journal: Journal | None = None,
    ) -> None:
        backoff = FullJitter(timing.reconnect_floor_seconds, timing.reconnect_ceiling_seconds)
        self.queue = Unacknowledged(limit, backoff, dice)
        self._timing = timing
        self._wake = wake
        self._journal = journal
        self._resumed: dict[str, tuple[set[int], asyncio.Event]] = {}
        self._waiters: dict[int, asyncio.Future[Receipt | None]] = {}
        self._for_room: deque[asyncio.Future[None]] = deque()
        self._for_empty: set[asyncio.Future[None]] = set()

    # ── for callers ─────────────────────────────────────────────────────────────────────────────────────────

    def take(self, series: Series, kind: str, body: Mapping[str, Any], **marks: bool) -> Pending:
        """Queue a message without waiting; what has a number is in the journal then, if there is one.

        Raises as `Unacknowledged.offer` and `Journal.append` do.
        """
        pending = self.queue.offer(series, kind, body, **marks)
        if self._journal is not None and pending.number is not None and series.attempt is not None:
            try:
                pending.entry = self._journal.append(
                    task_id=series.task_id,
                    attempt=series.attempt,
                    n=pending.number,
                    terminal=pending.terminal,
                    body=pending.body,
                    must_fit=not pending.counted,
                )
            except BaseException:
                self.queue.retract(pending)
                raise
        self._wake()
        return pending

    async def deliver(
        self, series: Series, kind: str, body: Mapping[str, Any], timeout_seconds: float, **marks: bool
    ) -> Receipt | None:
        """Queue a message, waiting for room if need be, and wait until it is acknowledged.

        Raises DeliveryTimeout; what the gateway answered (Rejected and below); what ended the connection for
        good.
        """
        pending: Pending | None = None
        try:
            async with asyncio.timeout(timeout_seconds):
                pending = await self._take_when_room(series, kind, body, marks)
                waiter: asyncio.Future[Receipt | None] = asyncio.get_running_loop().create_future()
                self._waiters[pending.serial] = waiter
                pending.waited = True
                return await waiter
        except TimeoutError as error:
            state = "queued and goes on being sent" if pending else "not taken, the queue stayed full"
            sentence = f"{kind} for task {series.task_id}: no acknowledgement in {timeout_seconds:g} s ({state})"
            raise DeliveryTimeout(sentence, queued=pending is not None) from error
        finally:
            if pending is not None:
                pending.waited = False
                self._waiters.pop(pending.serial, None)

    async def refresh(self, token: str, timeout_seconds: float) -> None:
        """Replace the token of the open connection. Raises as `deliver`."""
        await self.deliver(self.queue.series("-"), "refresh", {"token": token}, timeout_seconds, counted=False)

    def open_journal(self) -> int:
        """Queue what an earlier process has left in the journal; how many reports that is. Raises JournalError."""
        entries = [] if self._journal is None else self._journal.open()
        attempts: dict[tuple[str, int], Series] = {}
        for entry in entries:
            key = (entry.task_id, entry.attempt)
            if key not in attempts:
                attempts[key] = self.queue.restore(*key)
            self.queue.resume(attempts[key], entry.n, entry.body, terminal=entry.terminal, entry=entry.id)
            self._resumed.setdefault(entry.task_id, (set(), asyncio.Event()))[0].add(entry.id)
        return len(entries)

    def close_journal(self) -> None:
        """Let go of the journal; what is in it stays."""
        if self._journal is not None:
            self._journal.close()

    @property
    def journalled(self) -> int:
        """How many of the unacknowledged messages are in the journal."""
        return 0 if self._journal is None else len(self._journal)

    async def resumed(self, task_id: str) -> None:
        """Wait until the gateway has answered what an earlier process has left of a task."""
        if task_id in self._resumed:
            await self._resumed[task_id][1].wait()

    async def emptied(self, timeout_seconds: float) -> bool:
        """Wait until nothing is unacknowledged. False when the time is over first."""
        if not len(self.queue):
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._for_empty.add(waiter)
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._for_empty.discard(waiter)
        return True

    # ── for the connection ──────────────────────────────────────────────────────────────────────────────────

    def due(self, now: float, at_most: int) -> list[bytes]:
        """The frames to send now. Raises Stalled when a reply is overdue."""
        self.queue.check_replies(now, self._timing.reply_seconds)
        return [wire.encode(message) for message in self.queue.due(now, at_most)]

    def next_due(self, now: float) -> float | None:
        """Seconds until `due` should be asked again; None: when something happens."""
        return self.queue.next_due(now, self._timing.reply_seconds)

    def settle(self, reply: wire.Reply, now: float) -> list[Settled]:
        """Resolve whom a reply concerns."""
        return self._resolve(self.queue.settle(reply, now))

    def withdraw(self, series: Series, error: LedgerwireError) -> None:
        """Give up a series; whoever waits for it gets `error`."""
        self._resolve(self.queue.withdraw(series, error))

    def end(self, error: LedgerwireError) -> list[Settled]:
        """Give up everything, now and later."""
        for _, done in self._resumed.values():
            done.set()
        return self._resolve(self.queue.end(error))

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_when_room(
        self, series: Series, kind: str, body: Mapping[str, Any], marks: Mapping[str, bool]
    ) -> Pending:
        first = True
        while True:
            if self._for_room and first and marks.get("counted", True):
                await self._wait_for_room(first)
            try:
                return self.take(series, kind, body, **marks)
            except QueueFull:
                await self._wait_for_room(first)
            first = False

    async def _wait_for_room(self, first: bool) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._for_room.append(waiter)
        else:  # was first in the line already, and a `post` came between
            self._for_room.appendleft(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._let_in()
            raise
        finally:
            if waiter in self._for_room:
                self._for_room.remove(waiter)

    def _let_in(self) -> None:
        room = self.queue.room
        while self._for_room and room:
            waiter = self._for_room.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1

    def _settle_in_journal(self, settled: list[Settled]) -> None:
        """Only the gateway's own word settles a report; one that was given up, as at the end, stays.

        So does one that this token may not make: the next worker may come with the right one.
        """
        for each in settled:
            if each.error is not None and not isinstance(each.error, Rejected):
                continue
            pending = each.pending
            if pending.entry is None:
                continue
            if self._journal is not None and (each.error is None or each.error.code != "forbidden"):
                self._journal.settle([pending.entry])
            left, done = self._resumed.get(pending.series.task_id, (set(), None))
            left.discard(pending.entry)
            if done is not None and not left:
                del self._resumed[pending.series.task_id]
                done.set()

    def _resolve(self, settled: list[Settled]) -> list[Settled]:
        self._settle_in_journal(settled)
        for each in settled:
            waiter = self._waiters.get(each.pending.serial)
            if waiter is None or waiter.done():
                continue
            if each.error is not None:
                waiter.set_exception(each.error)
            else:
                waiter.set_result(each.receipt)
        if settled:
            self._let_in()
        if not len(self.queue):
            for flushing in self._for_empty:
                if not flushing.done():
                    flushing.set_result(None)
        return settled
