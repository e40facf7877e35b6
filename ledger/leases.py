"""Workers' signs of life: many beats, one statement per second.

A beat makes no transition; it only moves `beat_at` of its task, and only for the attempt that holds it. Beats are hints
about the present and are dropped, not kept, while the database is away.
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
BEATS_PER_STATEMENT = 2_000  # a bound on the row locks of one statement
BEATS_HELD = 50_000  # a bound on memory, about 10 MB


Held = tuple[Key, int | None, str | None]
"""A task, the attempt that holds it (None: any), and a condition on its row: `owner:…`, `kind:…`, or None."""


class Beats:
    """Gathers beats and writes them through one lane."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._held: dict[object, dict[Held, None]] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write; needs a running event loop."""
        self._task = asyncio.create_task(self._run(), name="ledger-beats")

    def add(self, held: Iterable[Held], sender: object = None) -> None:
        """The workers that hold these tasks are there.

        Beyond the bound a beat is dropped of the sender that has most: a flood costs nobody else the signs of life.
        """
        its = self._held.setdefault(sender, {})
        for each in held:
            if each in its:
                continue
            if self._count < BEATS_HELD:
                self._count += 1
            else:
                if len(its) >= BEATS_HELD // len(self._held):
                    return
                max(self._held.values(), key=len).popitem()
            its[each] = None

    async def close(self) -> None:
        """Stop; beats not yet written are dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT_INTERVAL_SECONDS)
            held = [each for its in self._held.values() for each in its]
            self._held, self._count = {}, 0
            for begin in range(0, len(held), BEATS_PER_STATEMENT):
                some = held[begin : begin + BEATS_PER_STATEMENT]
                try:
                    self.add(await self._write(some))
                except LedgerError as error:
                    log.info("beats_dropped", tasks=len(some), reason=error.reason)
                except Exception:
                    log.exception("beats_fault", tasks=len(some))  # the beats of later seconds do not depend on it

    async def _write(self, some: list[Held]) -> list[Held]:
        """Write these; returns those whose row somebody else was writing."""
        keys, attempts, conditions = zip(*some, strict=True)
        rows = await self._lane.fetch(query("beat"), keys, attempts, conditions, label="beats")
        return [(row["key"].hex, row["attempt"], None) for row in rows]
