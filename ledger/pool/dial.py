"""Opens the connections of one lane: prepared for short statements, and never as a storm.

What asyncpg leaves to its user is done here: session limits that also work behind a PgBouncer, a pause after
a failed attempt, and the next host of a list when the first one does not even refuse. This module never
retries by itself; the caller of a lane decides whether it has the time.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from ledger.errors import Unavailable
from ledger.pool.failure import classify
from ledger.settings import LedgerSettings

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

# After failures in a row the next attempt waits a random part of a growing pause (full jitter), so that the
# lanes of many processes do not meet again and again. The longest is what a caller may lose once the server
# is back.
FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 0.5

# A connection is replaced at an age between this part of `recycle_seconds` and the whole.
EARLIEST_PART: Final = 0.8

# Every statement of ours finds its rows by an index, in order, and stops when it has enough. Left to itself, PostgreSQL
# plans it anew each time, reads the whole of a small table to join it, or sorts all of a task to replay a page.
INDEX_PLANS: Final = (
    "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_bitmapscan = off;"
    "set enable_hashjoin = off; set enable_mergejoin = off"
)

_HOSTS: Final = re.compile(r"^(?P<before>[a-z]+://(?:[^/?#]*@)?)(?P<first>[^/?#,]+),(?P<others>[^/?#]+)")


class LaneConnection(_Connection):
    """A connection that knows its age, and whose release costs no round trip.

    Callers get it behind asyncpg's pool proxy, which passes reads and calls on but no assignments; that is
    why `note_use` is a method.
    """

    __slots__ = ("retires_at", "used_at")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.used_at = time.monotonic()
        self.retires_at = float("inf")

    def note_use(self) -> None:
        """Remember now (on the monotonic clock, in seconds) as the time of the last use."""
        self.used_at = time.monotonic()

    def get_reset_query(self) -> str:
        """Nothing: no caller leaves session state behind, so there is nothing to reset at release."""
        return ""


class Dialer:
    """What asyncpg's pool calls for each new connection of a lane."""

    def __init__(self, settings: LedgerSettings, dsn: str, lane: str) -> None:
        self._settings = settings
        self._dsn = dsn
        self._application_name = f"{settings.application_name}/{lane}"
        self._lock_timeout_ms = settings.append_lock_timeout_ms if lane == "write" else settings.lock_timeout_ms
        self._failures = 0
        self._paused_until = 0.0
        self._last_failure: Exception | None = None

    async def __call__(self, *_: object, **kwargs: Any) -> LaneConnection:
        """Connect within `connect_timeout_seconds`, or raise what asyncpg raises.

        Raises `Unavailable` without an attempt while the pause after a failed one lasts.
        """
        pause_seconds = self._paused_until - time.monotonic()
        if pause_seconds > 0:
            raise Unavailable(
                "the database could not be reached a moment ago",
                reason=classify(self._last_failure, sent=False).reason if self._last_failure else "",
                retry_after_ms=1 + int(pause_seconds * 1_000),
            ) from self._last_failure
        try:
            async with asyncio.timeout(self._settings.connect_timeout_seconds):
                connection = await self._connect(**kwargs)
        except Exception as exc:
            self._note_failure(exc)
            raise
        self._failures, self._last_failure = 0, None
        return connection

    async def _connect(self, **kwargs: Any) -> LaneConnection:
        settings = self._settings
        connection: LaneConnection = await asyncpg.connect(
            self._dsn,
            **kwargs,
            command_timeout=settings.command_timeout_seconds,
            statement_cache_size=settings.statement_cache_size,
            # The only parameter that a PgBouncer lets through at login.
            server_settings={"application_name": self._application_name},
        )
        try:
            # The limits are SET after the login, because a PgBouncer refuses a login that carries them. One
            # round trip per connection, exact on a direct connection and in session pooling. In transaction
            # pooling the values land on whichever server connection is used, which is harmless because all
            # lanes set the same ones; there `alter role … set statement_timeout` makes them exact.
            await connection.execute(
                f"set statement_timeout = {settings.statement_timeout_ms};"
                f"set lock_timeout = {self._lock_timeout_ms};"
                f"set idle_in_transaction_session_timeout = {settings.idle_in_transaction_timeout_ms};"
                "set jit = off;" + INDEX_PLANS  # compiling costs more than our short statements take
            )
        except BaseException:
            connection.terminate()
            raise
        part = random.uniform(EARLIEST_PART, 1.0)  # noqa: S311 - spreads load, guards nothing
        connection.retires_at = time.monotonic() + settings.recycle_seconds * part
        return connection

    def _note_failure(self, exc: Exception) -> None:
        self._failures += 1
        self._last_failure = exc
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10))
        self._paused_until = time.monotonic() + random.uniform(0, longest)  # noqa: S311 - as above
        if isinstance(exc, TimeoutError):
            # asyncpg tries the hosts in order under one timeout, so a first host that swallows packets (its
            # machine is gone) would use up the time of every attempt. The next attempt begins behind it.
            self._dsn = _HOSTS.sub(r"\g<before>\g<others>,\g<first>", self._dsn)
