"""What is said in SQL, heard by every node whatever its bus (`ledger/sql/migrations/0006_sql_inbox.sql`).

PostgreSQL's own bus hears it by the way; another one has an ear beside it. After a word of it the inbox is read again
and again for half a second, else once a second.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gateway.bus import hints
from gateway.bus.port import Bus, BusState, OnGap, OnHint
from gateway.bus.postgres import PostgresBus

log = structlog.get_logger(__name__)

SAID_IN_SQL: Final = hints.opening("sql").encode()
ENTRIES_AT_ONCE: Final = 100
"""Of the inbox in one transaction: tens of milliseconds, and their hints fit into one notification."""
AWAKE_SECONDS: Final = 0.5
"""In which those who speak in SQL need not say so again, see `ledger.may_ring`."""
LOOK_SECONDS: Final = 0.02
LOOK_SELDOM_SECONDS: Final = 1.0
"""For what was said long before its commit."""


class Ear(PostgresBus):
    """PostgreSQL's bus, which reads the inbox too."""

    _look_at = _awake_until = 0.0

    async def _follow(self) -> float:
        """Read the inbox, if it is time to."""
        now = asyncio.get_running_loop().time()
        if now >= self._look_at:
            (row,) = await self._ask("read_inbox", ENTRIES_AT_ONCE)
            for change in row["unmade"] or ():
                log.warning(
                    "table_change_not_mirrored", change=change, detail="Told once; see ledger.attached() in SQL."
                )
            if row["entries"]:
                self._awake_until = now + AWAKE_SECONDS
            pause = LOOK_SECONDS if now < self._awake_until else LOOK_SELDOM_SECONDS
            self._look_at = now if row["entries"] == ENTRIES_AT_ONCE else now + pause
        return self._look_at - now

    def _take(self, message: bytes) -> None:
        if message.startswith(SAID_IN_SQL):
            self._look_at = 0.0
            self._awake_until = asyncio.get_running_loop().time() + AWAKE_SECONDS
            self._wake.set()
        super()._take(message)


class WithEar:
    """Hints go out by `bus` alone, and come by both. How the ear is stands in the log."""

    def __init__(self, bus: Bus, ear: Bus) -> None:
        self._bus = bus
        self._ear = ear
        self.announce = bus.announce
        self.interest = bus.interest
        self.no_interest = bus.no_interest

    @property
    def remote(self) -> bool:
        """As the bus."""
        return self._bus.remote

    @property
    def wants_frames(self) -> bool:
        """As the bus."""
        return self._bus.wants_frames

    @property
    def state(self) -> BusState:
        """As the bus."""
        return self._bus.state

    async def start(self, on_hint: OnHint, on_gap: OnGap) -> None:
        """Begin both."""
        await self._ear.start(on_hint, on_gap)
        await self._bus.start(on_hint, on_gap)

    async def close(self) -> None:
        """Stop both."""
        await self._bus.close()
        await self._ear.close()
