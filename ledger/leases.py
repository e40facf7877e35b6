"""Workers' signs of life: many beats, one statement per second.

A beat makes no transition; it only moves `beat_at` of its task. Beats are hints about the present and are dropped, not
kept, while the database is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from ledger.errors import LedgerError
from ledger.model import Key
from ledger.pool import Lane
from ledger.sql import query

log = structlog.get_logger(__name__)

BEAT_INTERVAL_SECONDS = 1.0
BEATS_PER_STATEMENT = 5_000  # a bound on memory and on the row locks of one statement


class Beats:
    """Gathers beats and writes them through one lane."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._keys: set[Key] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write; needs a running event loop."""
        self._task = asyncio.create_task(self._run(), name="ledger-beats")

    def add(self, keys: Iterable[Key]) -> None:
        """The workers of these tasks are there. Beyond the bound the rest is dropped; the next beat comes soon."""
        for key in keys:
            if len(self._keys) >= BEATS_PER_STATEMENT:
                return
            self._keys.add(key)

    async def close(self) -> None:
        """Stop; beats not yet written are dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT_INTERVAL_SECONDS)
            if not self._keys:
                continue
            keys, self._keys = self._keys, set()
            try:
                await self._lane.execute(query("beat"), list(keys))
            except LedgerError as error:
                log.info("beats_dropped", tasks=len(keys), reason=error.reason)
