"""One lane of connections: bounded in number, in waiting, and in time; errors leave it classified.

A lane hands out a connection for the length of an `async with`, or runs one statement. It never retries a
statement, never swallows a cancellation, never listens (LISTEN needs a connection of its own), and never
keeps a connection whose state it cannot know.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import asyncpg

from ledger.errors import LedgerError, OutcomeUnknown, Refused, Unavailable
from ledger.pool.dial import Dialer, LaneConnection
from ledger.pool.failure import DRIVER_ERRORS, Failure, Verdict, classify
from ledger.pool.status import WAITERS_SHOWN, LaneStatus, Waiter, Waiting
from ledger.settings import LedgerSettings

# Told to callers of a full lane or an absent database; spread, so that they do not return together.
RETRY_AFTER_MS: Final = (250, 1_000)

# The session is at fault, not the statement: this node became read-only (a new connection finds the primary),
# or the session's prepared statements are not those that the driver believes in.
_POOLER: Final = frozenset({"26000", "42P05"})
_ENDS_THE_SESSION: Final = _POOLER | {"25006"}


class Lane:
    """A bounded set of connections for one kind of work. Made by `Pools.open`."""

    def __init__(self, name: str, settings: LedgerSettings, dsn: str, *, size: int, writes: bool) -> None:
        self.name = name
        self._settings = settings
        self._size = size
        self._writes = writes
        self._turns = asyncio.Semaphore(size)
        self._waiters: dict[object, tuple[str, float]] = {}
        self._checked_out = 0
        self.timeouts = 0
        """Callers that waited for a turn in vain."""
        self._held = 0  # in a `Hold`, and not in use
        self._distrusted_before = 0.0  # a connection last used before this is replaced …
        self._doubted_before = 0.0  # … and before this, asked
        self._pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
            # No floor: with one, asyncpg could not open while the server is away, and would log a traceback
            # for each failed attempt to restore it.
            min_size=0,
            max_size=size,
            max_queries=sys.maxsize,  # connections retire by age; 50,000 statements are seconds for us
            max_inactive_connection_lifetime=settings.recycle_seconds,
            connection_class=LaneConnection,
            connect=Dialer(settings, dsn, name),
        )

    async def open(self, connections: int) -> None:
        """Try to open so many connections at once. Raises `Unavailable` when the server is not reachable."""
        self._pool = await self._pool  # with no floor, this only makes the bookkeeping
        # Begun together, so each of them finds no connection to share and opens its own.
        await asyncio.gather(*(self._touch() for _ in range(connections)))

    @asynccontextmanager
    async def acquire(self, label: str = "") -> AsyncIterator[LaneConnection]:
        """A connection for the length of the block, all of it within `request_deadline_seconds`.

        `label` tells the operator who waits or holds (default: the name of the task). Raises `Unavailable`
        when no connection can be had in time, and turns what the driver raises in the block into
        `Unavailable`, `OutcomeUnknown` or `Refused`, with the original as `__cause__`. Other errors pass.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.request_deadline_seconds
        connection = await self._take(label or _task_name())
        self._checked_out += 1
        keep = False
        try:
            async with asyncio.timeout_at(deadline):
                yield connection
            keep = True
        except LedgerError:
            keep = True
            raise
        except Exception as exc:
            error, keep = self._judged(exc, connection)
            if error is None:
                raise
            raise error from exc
        finally:
            self._checked_out -= 1
            await self._give_back(connection, keep=keep)

    def hold(self, label: str) -> Hold:
        """One place of the lane for a loop that sends statement after statement."""
        return Hold(self, label)

    async def fetch(self, sql: str, *args: object, label: str = "") -> list[asyncpg.Record]:
        """Run one statement and return its rows. Raises as `acquire` does."""
        async with self.acquire(label) as connection:
            return await connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object, label: str = "") -> asyncpg.Record | None:
        """Run one statement and return its first row, None when there is none. Raises as `acquire` does."""
        async with self.acquire(label) as connection:
            return await connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object, label: str = "") -> Any:
        """Run one statement and return the first column of its first row. Raises as `acquire` does."""
        async with self.acquire(label) as connection:
            return await connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object, label: str = "") -> str:
        """Run one statement and return its command tag. Raises as `acquire` does."""
        async with self.acquire(label) as connection:
            return await connection.execute(sql, *args)

    def status(self) -> LaneStatus:
        """The figures of this moment. No I/O."""
        now = time.monotonic()
        idle = self._pool.get_idle_size() + self._held
        who = [Waiter(label=label, seconds=round(now - since, 3)) for label, since in self._waiters.values()]
        return LaneStatus(
            pool_size=idle + self._checked_out,
            checked_in=idle,
            checked_out=self._checked_out,
            overflow=0,
            max=self._size,
            waiting=Waiting(
                count=len(who),
                longest_seconds=who[0]["seconds"] if who else 0.0,
                who=who[:WAITERS_SHOWN],
            ),
        )

    async def close(self) -> None:
        """Let the holders finish, then close every connection. Cancelled, it cuts them off instead."""
        await self._pool.close()

    def _judged(self, exc: Exception, connection: LaneConnection) -> tuple[LedgerError | None, bool]:
        """What an exception amounts to (None: it is not the database's), and whether the connection can be kept."""
        if not isinstance(exc, DRIVER_ERRORS) and not _is_lost(connection):
            return None, True
        failure = classify(exc)
        if failure.reason in {"timeout", "read_only"}:
            # The same link or the same node is behind the idle connections; new ones find out at login, where a
            # failure has a clear outcome.
            self._distrusted_before = time.monotonic()
        keep = failure.verdict is not Verdict.UNKNOWN and failure.sqlstate not in _ENDS_THE_SESSION
        return self._raised(exc, failure), keep

    async def _touch(self) -> None:
        async with self.acquire("open"):
            pass

    async def _take(self, label: str) -> LaneConnection:
        """Wait for a turn, then find or open a connection that can be trusted."""
        place = object()
        self._waiters[place] = (label, time.monotonic())
        try:
            async with asyncio.timeout(self._settings.acquire_timeout_seconds):
                await self._turns.acquire()
        except TimeoutError as exc:
            self.timeouts += 1
            raise Unavailable(
                f"all {self._size} connections of the {self.name} lane are busy",
                reason="acquire_timeout",
                retry_after_ms=_retry_after_ms(),
            ) from exc
        finally:
            del self._waiters[place]
        try:
            # A turn means that there is a free place, so this waits for nothing but a login.
            async with asyncio.timeout(self._settings.acquire_timeout_seconds + self._settings.connect_timeout_seconds):
                return await self._trusted_connection()
        except BaseException as exc:
            self._turns.release()
            if isinstance(exc, LedgerError) or not isinstance(exc, Exception):
                raise
            if isinstance(exc, TimeoutError):
                self._doubted_before = time.monotonic()  # whatever swallows a login may swallow the next statement
            raise self._raised(exc, classify(exc, sent=False)) from exc

    async def _trusted_connection(self) -> LaneConnection:
        while True:  # ends: each turn of the loop closes an old connection, and a new one is trusted
            connection = cast("LaneConnection", await self._pool.acquire())
            try:
                if await self._can_be_used(connection):
                    return connection
            except BaseException:
                _cut(connection)
                raise
            _cut(connection)

    async def _can_be_used(self, connection: LaneConnection) -> bool:
        now = time.monotonic()
        if now >= connection.retires_at or connection.used_at < self._distrusted_before:
            return False
        if (
            now - connection.used_at <= self._settings.liveness_idle_seconds
            and connection.used_at >= self._doubted_before
        ):
            return True
        try:
            # A part of the time to connect, so that there is time left to open a new one.
            await connection.execute("select 1", timeout=self._settings.connect_timeout_seconds / 4)
        except Exception:  # noqa: BLE001 - whatever went wrong, the connection cannot be used
            # What dropped this one has dropped those that were idle with it: do not ask each of them in turn.
            self._distrusted_before = now
            return False
        return True

    async def _give_back(self, connection: LaneConnection, *, keep: bool) -> None:
        try:
            connection.note_use()
            if not keep or time.monotonic() >= connection.retires_at:
                # Not released: asyncpg would wait for its cancel request to be answered, up to a whole
                # command_timeout. The server ends the statement by its own clock.
                _cut(connection)
            else:
                await self._pool.release(
                    cast("asyncpg.pool.PoolConnectionProxy[asyncpg.Record]", connection),
                    timeout=self._settings.acquire_timeout_seconds,
                )
        except Exception:  # noqa: BLE001, S110 - asyncpg has closed it, and the outcome is decided already
            pass
        finally:
            self._turns.release()

    def _raised(self, exc: Exception, failure: Failure) -> LedgerError:
        """The ledger's error for a classified one. A lane that only reads has no unknown outcome."""
        if failure.verdict is Verdict.REJECTED:
            message = str(exc.args[0]) if exc.args else type(exc).__name__
            return Refused(f"the database refuses this data: {message[:300]}", reason=failure.reason)
        if failure.verdict is Verdict.UNKNOWN and self._writes:
            return OutcomeUnknown(
                f"the answer of the database was lost ({failure.reason}); repeat with the same key",
                reason=failure.reason,
                retry_after_ms=_retry_after_ms(),
            )
        hint = "; behind a pooler set LEDGERWIRE_STATEMENT_CACHE_SIZE=0" if failure.sqlstate in _POOLER else ""
        return Unavailable(
            f"the database cannot answer now ({failure.reason}){hint}",
            reason=failure.reason,
            retry_after_ms=_retry_after_ms(),
        )


class Hold:
    """A connection kept from one statement to the next, which costs half as much as to ask the lane for each.

    It is replaced where the lane would not have handed it out again. For one caller at a time; `close` gives it back.
    """

    def __init__(self, lane: Lane, label: str) -> None:
        self._lane = lane
        self._label = label
        self._connection: LaneConnection | None = None

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Run one statement and return its rows. Raises as `Lane.acquire` does."""
        lane = self._lane
        connection = await self._trusted()
        lane._checked_out += 1
        keep = False
        try:
            rows = await connection.fetch(sql, *args)  # within the command timeout
            keep = True
            return rows
        except Exception as exc:
            error, keep = lane._judged(exc, connection)
            if error is None:
                raise
            raise error from exc
        finally:
            lane._checked_out -= 1
            if keep:
                connection.note_use()
                self._keep(connection)
            else:
                await lane._give_back(connection, keep=False)

    async def close(self) -> None:
        """Give the connection back to the lane."""
        if self._connection is not None:
            await self._lane._give_back(self._taken(), keep=True)

    async def _trusted(self) -> LaneConnection:
        if self._connection is None:
            return await self._lane._take(self._label)
        connection = self._taken()
        try:
            # Lost while it lay here, it is behind the pool's proxy no more.
            if not _is_lost(connection) and await self._lane._can_be_used(connection):
                return connection
        except BaseException:
            await self._lane._give_back(connection, keep=False)
            raise
        await self._lane._give_back(connection, keep=False)
        return await self._lane._take(self._label)

    def _keep(self, connection: LaneConnection) -> None:
        self._connection = connection
        self._lane._held += 1

    def _taken(self) -> LaneConnection:
        connection, self._connection = self._connection, None
        self._lane._held -= 1
        return cast("LaneConnection", connection)


def _is_lost(connection: LaneConnection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has taken the lost connection back already
        return True


def _cut(connection: LaneConnection) -> None:
    """Close without waiting; its place goes back to the pool."""
    try:
        connection.terminate()
    except asyncpg.InterfaceError:  # as in `_is_lost`
        pass


def _retry_after_ms() -> int:
    return random.randint(*RETRY_AFTER_MS)  # noqa: S311 - spreads load, guards nothing


def _task_name() -> str:
    task = asyncio.current_task()
    return task.get_name() if task else ""
