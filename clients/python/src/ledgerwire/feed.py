"""One watched task between the connection and its consumer: a bounded buffer, and who waits for what."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from ledgerwire.errors import LedgerwireError, UnknownTask, fresh
from ledgerwire.model import Change, Cursor, WorkerLiveness
from ledgerwire.watching import Mode, Phase, Watching

_log = logging.getLogger("ledgerwire")

OnLiveness: TypeAlias = Callable[[WorkerLiveness], None]
WAIT_MS_MAX = 600_000
_HELD_MARGIN_SECONDS = 2.0


class Feed:
    """Holds at most `limit` changes. A feed that stays full is set aside: unsubscribed, and asked for again
    from its cursor when the consumer has taken half, so that one slow consumer neither grows memory nor holds
    up other tasks.
    """

    def __init__(
        self,
        task_id: str,
        after: Cursor | None,
        mode: Mode,
        *,
        deadline: float | None,
        limit: int,
        unknown_answers: int,
        on_liveness: OnLiveness | None,
    ) -> None:
        self.watching = Watching(task_id, after, mode)
        self._on_liveness = on_liveness
        self.deadline = deadline
        """Until when an unknown task is waited for; None: not at all."""
        self._unknown_left = self._unknown_answers = unknown_answers
        self.not_before = 0.0
        self.failures = 0
        self.asked_at = 0.0
        self.set_aside = False
        self._limit = limit
        self._buffer: deque[Change] = deque()
        self._error: LedgerwireError | None = None
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    # ── for the consumer ────────────────────────────────────────────────────────────────────────────────────

    async def take(self) -> Change | None:
        """The next change; None after the last one. Raises what ended the feed.

        The wait has no limit of its own: the connection's watchdog and `Timing.unreachable_seconds` bound it.
        """
        while not self._buffer:
            if self._error is not None:
                raise fresh(self._error)
            if self.watching.phase is Phase.ENDED:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        change = self._buffer.popleft()
        self._taken.set()
        return change

    @property
    def resumable(self) -> bool:
        """Whether a feed that was set aside has room enough to go on."""
        return self.set_aside and len(self._buffer) <= self._limit // 2

    # ── for the watcher ─────────────────────────────────────────────────────────────────────────────────────

    def needs_request(self, now: float) -> bool:
        """Whether a `subscribe` is to be sent now."""
        return self.open and self.watching.phase is Phase.NEEDED and not self.set_aside and now >= self.not_before

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return self._error is None and self.watching.phase is not Phase.ENDED

    @property
    def full(self) -> bool:
        """Whether another change has no room."""
        return len(self._buffer) >= self._limit

    async def room(self, timeout_seconds: float) -> bool:
        """Wait for the consumer to take something. False when it does not in time."""
        self._taken.clear()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._taken.wait()
        except TimeoutError:
            return False
        return True

    def offer(self, change: Change) -> None:
        """Put a change where the consumer finds it."""
        self._buffer.append(change)
        self.failures = 0
        self._arrived.set()

    def speak(self, before: WorkerLiveness) -> None:
        """Tell the consumer how the worker is, if that is news."""
        worker = self.watching.worker
        if self._on_liveness is not None and worker.liveness is not before.liveness:
            try:
                self._on_liveness(worker)
            except Exception:  # noqa: BLE001 - a mistake of the consumer must not end the connection of all feeds
                _log.exception("on_liveness failed for task %s", worker.task_id)

    def fail(self, error: LedgerwireError) -> None:
        """End the feed with an error, which the consumer gets after the changes that are there."""
        self._error = self._error or error
        self._arrived.set()

    def progressed(self) -> None:
        """The subscription has come further without a change to show."""
        if self.watching.phase in {Phase.STREAMING, Phase.ENDED}:
            self.deadline = None
            self._unknown_left = self._unknown_answers
        self._arrived.set()

    def wait_ms(self, now: float) -> int | None:
        """For how long the gateway should hold a subscription of an unknown task."""
        if self.deadline is None:
            return None
        return max(1, min(WAIT_MS_MAX, math.ceil((self.deadline - now) * 1000)))

    def waited_in_vain(self, now: float) -> bool:
        """Whether the gateway has held the subscription for longer than it was asked to."""
        return self._in_vain_at is not None and now > self._in_vain_at

    def unanswered(self, now: float, reply_seconds: float) -> bool:
        """Whether the answer to a `subscribe` is overdue."""
        asked = self.watching.phase in {Phase.ASKED, Phase.UNDERSTOOD}
        return asked and now - self.asked_at >= reply_seconds

    def next_due(self, now: float, reply_seconds: float) -> float | None:
        """Seconds until one of the questions above may get another answer."""
        if not self.open:
            return None
        moments = []
        if self.watching.phase is Phase.NEEDED and not self.set_aside:
            moments.append(self.not_before)
        if self.watching.phase in {Phase.ASKED, Phase.UNDERSTOOD}:
            moments.append(self.asked_at + reply_seconds)
        if self._in_vain_at is not None:
            moments.append(self._in_vain_at)
        return max(0.0, min(moments) - now) if moments else None

    @property
    def _in_vain_at(self) -> float | None:
        waiting = self.open and self.watching.phase in {Phase.ASKED, Phase.UNDERSTOOD, Phase.HELD}
        if self.deadline is None or not waiting:
            return None
        return max(self.deadline, self.asked_at) + _HELD_MARGIN_SECONDS

    def unknown(self, now: float, error: UnknownTask) -> None:
        """The gateway knows no such task: the last such answer in a row, or the end of the wait, ends the feed."""
        self._unknown_left -= 1
        if self._unknown_left <= 0 or (self.deadline is not None and now >= self.deadline):
            self.fail(error)
