"""Ends the tasks that were left alone: by a silent worker, past their deadline, or with a cancel that nobody answers.

Every node has a reaper; the one whose session holds an advisory lock looks at the tasks that are due. It decides by
PostgreSQL's clock alone, and ends a task by a request to the writer like any other (`Lapse`), which is compared with
the task's sequence: a report that comes before it wins, and two reapers at once are harmless.

It never counts time in which the ledger could not be reached against anybody: see `Reaper.since`. It works on a direct
connection of its own, since an advisory lock belongs to a session, and never through a lane.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from ledger.batch import Answer
from ledger.errors import Busy, LedgerError, Unavailable
from ledger.model import Lapse, Rejection
from ledger.pool import LaneConnection
from ledger.pool.dial import Dialer
from ledger.pool.failure import DRIVER_ERRORS, classify
from ledger.settings import LedgerSettings
from ledger.sql import query
from ledger.writer import Writer

log = structlog.get_logger(__name__)

LOCK_KEY: Final = int.from_bytes(b"ledgerwr", "big")
"""The advisory lock of the one reaper: another than that of the migrations."""
LOOK_SECONDS: Final = 1.0
"""Between two looks at most, and so about how long it takes until another node goes on after one was killed."""
TASKS_PER_LOOK: Final = 1_000
"""At most; a look that takes the server too long is repeated with half as many."""
LEAST_PER_LOOK: Final = 50
LAPSES_AT_ONCE: Final = 250
"""Requests of ours in the writer's queue at most: half of a batch, so that reports always find room beside them."""
ANSWER_SECONDS: Final = 3.0
"""For the answers to those; the writer gives up earlier by itself."""
GAP_SECONDS: Final = 5.0
"""Longer between two looks, and something was away: the server, the link, or this process. The server ends our session
then, so that the lock of a node that hangs, or is behind a dead link, goes to another one."""
CLOSE_SECONDS: Final = 1.0
FAULT_LOG_SECONDS: Final = 60.0
LOCKED_SECONDS: Final = 0.1


class Reaper:
    """One node's reaper; `start` it after the writer, and `close` it before."""

    def __init__(self, writer: Writer, settings: LedgerSettings, dsn: str) -> None:
        """`dsn` is the URL of the database without a pooler."""
        self._writer = writer
        self._patience = settings.patience
        self._dial = Dialer(settings, dsn, "reaper")
        self._connection: LaneConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._looked_at: datetime | None = None
        self._tasks_per_look = TASKS_PER_LOOK
        self._failed = False
        self._fault_logged_at = self._ended_logged_at = float("-inf")
        self._ended: Counter[str] = Counter()
        self.holds = False
        """Whether this node is the one that ends tasks."""
        self.since: datetime | None = None
        """Since when, by PostgreSQL's clock, this node has reached the ledger without a gap; None: it does not.

        Silence counts from here at the earliest: whoever could not be heard before has his whole lease from now on.
        """

    def start(self) -> None:
        """Begin; needs a running event loop."""
        self._task = asyncio.create_task(self._run(), name="ledger-reaper")

    async def close(self) -> None:
        """Stop, and let go of the lock."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
        connection = self._connection
        self._forget("closed")
        self._log_ended()
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=CLOSE_SECONDS)
            except DRIVER_ERRORS:
                connection.terminate()

    async def step(self) -> float:
        """One look; returns in how many seconds the next one is due.

        Raises `Unavailable` when the ledger cannot be reached; then the next one begins anew.
        """
        try:
            due_in_seconds = await self._pulse()
            if not self.holds or due_in_seconds > 0:
                return min(due_in_seconds, LOOK_SECONDS)
            lapses, looked_at = await self._look()
        except (*DRIVER_ERRORS, LedgerError) as error:
            reason = classify(error, sent=False).reason
            self._tasks_per_look = max(LEAST_PER_LOOK, self._tasks_per_look // 2)
            self._cut(reason)
            raise Unavailable(f"The reaper cannot reach the ledger ({reason}).", reason=reason) from error
        except BaseException:
            self._cut("interrupted")
            raise
        if not await self._end(lapses):
            return LOOK_SECONDS
        return 0.0 if looked_at else LOCKED_SECONDS

    async def _run(self) -> None:
        while True:
            try:
                seconds = await self.step()
                if self._failed:
                    log.info("reaper_restored")
                self._failed = False
                if time.monotonic() >= self._ended_logged_at + LOOK_SECONDS:
                    self._log_ended()
            except Unavailable as error:
                if not self._failed:
                    log.warning("reaper_unreachable", reason=error.reason)
                self._failed = True
                seconds = _jittered(LOOK_SECONDS)
            except Exception:
                # A fault of ours must not end the loop; nor may it fill the log.
                if time.monotonic() >= self._fault_logged_at + FAULT_LOG_SECONDS:
                    self._fault_logged_at = time.monotonic()
                    log.exception("reaper_fault")
                seconds = LOOK_SECONDS
            await asyncio.sleep(seconds)

    async def _pulse(self) -> float:
        """Ask for the time, the lock, and when the next task is due: in how many seconds."""
        connection = self._connection
        if connection is None:
            connection = self._connection = await self._dial(connection_class=LaneConnection)
            await connection.execute(f"set idle_session_timeout = {int(GAP_SECONDS * 1000)}")
        began = time.monotonic()
        row = await connection.fetchrow(query("pulse"), LOCK_KEY, self.holds)
        assert row is not None  # noqa: S101 - a select without a from has one row
        at: datetime = row["at"]
        if self._looked_at is not None and at - self._looked_at > timedelta(seconds=GAP_SECONDS):
            self.since = None
        self._looked_at = at
        if self.since is None:
            self.since = at + timedelta(seconds=time.monotonic() - began)  # the commit may have waited until just now
        if row["holds"] and not self.holds:
            log.info("reaper_began", since=self.since)
        self.holds = row["holds"]
        return LOOK_SECONDS if row["due_in"] is None else max(0.0, row["due_in"])

    async def _look(self) -> tuple[list[Lapse], int]:
        """What is over, of the tasks that are due; and how many were looked at."""
        patience, connection = self._patience, self._connection
        assert connection is not None  # noqa: S101 - there was a pulse
        rows = await connection.fetch(
            query("due"), patience.lease_ms, patience.grace_ms, patience.cancel_ms, self.since, self._tasks_per_look
        )
        self._tasks_per_look = min(TASKS_PER_LOOK, self._tasks_per_look + LEAST_PER_LOOK)
        lapses = [
            Lapse(tenant=row["tenant"], task_id=row["task_id"], seq=row["seq"], why=row["why"])
            for row in rows
            if row["why"] is not None
        ]
        return lapses, len(rows)

    async def _end(self, lapses: Sequence[Lapse]) -> bool:
        """Have these tasks ended, some at a time; false when the writer could not answer. They will be due again."""
        error: BaseException | None = None
        for begin in range(0, len(lapses), LAPSES_AT_ONCE):
            some = lapses[begin : begin + LAPSES_AT_ONCE]
            for lapse, answer in zip(some, await self._submit(some), strict=False):
                if isinstance(answer, BaseException):
                    error = answer
                elif not isinstance(answer, Rejection):
                    self._ended[lapse.why] += 1
                elif answer.code != "superseded":
                    log.warning("lapse_refused", task_id=lapse.task_id, reason=answer.message)
            if error is not None:
                break
        if error is None:
            return True
        reason = error.reason if isinstance(error, LedgerError) else type(error).__name__
        log.info("tasks_not_ended", reason=reason)
        if not isinstance(error, Busy):
            self._cut(reason)  # workers cannot be heard here either; and another node may have a way to write
        return False

    async def _submit(self, lapses: Sequence[Lapse]) -> list[Answer | BaseException]:
        """The answers to these in their order, or errors; the last one may be that of all that follow."""
        waiting: list[asyncio.Future[Answer]] = []
        refused: list[LedgerError] = []
        for lapse in lapses:
            try:
                waiting.append(self._writer.submit(lapse))
            except LedgerError as error:
                refused.append(error)
                break
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answers = await asyncio.gather(*waiting, return_exceptions=True)
        except TimeoutError as error:
            return [error]
        return [*answers, *refused]

    def _log_ended(self) -> None:
        if self._ended:
            self._ended_logged_at = time.monotonic()
            log.info("tasks_ended", **self._ended)
            self._ended.clear()

    def _cut(self, reason: str) -> None:
        """The connection cannot be trusted any more, and with it went the lock."""
        if self._connection is not None:
            self._connection.terminate()
        self._forget(reason)

    def _forget(self, reason: str) -> None:
        if self.holds:
            log.info("reaper_ended", reason=reason)
        self._connection, self.holds, self.since, self._looked_at = None, False, None, None


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.25, 1.0)  # noqa: S311 - spreads load, guards nothing
