"""Requests that step aside: somebody's open transaction holds the place of their task, and the others shall go on.

They wait for no longer than they would in the queue, and keep their order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ledger.errors import LedgerError
from ledger.model import Key
from ledger.pending import Pending
from ledger.pool import Hold
from ledger.sql import query

FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 0.25
"""How late a transaction's end may be noticed; to look costs a short statement, however many tasks are parked."""


class Parked:
    """By task, in the order in which they came; `wake` is called when it is time to `look`."""

    def __init__(self, connection: Hold, wake: Callable[[], None]) -> None:
        self._connection = connection
        self._wake = wake
        self._entries: dict[Key, list[Pending]] = {}
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self.due = False
        """Whether it is time to look."""

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    @property
    def entries(self) -> list[Pending]:
        """All of them."""
        return [entry for entries in self._entries.values() for entry in entries]

    async def part(self, batch: Sequence[Pending], forget: Callable[[Iterable[Key]], None]) -> list[Pending] | None:
        """The batch without those whose tasks are held, which step aside; None where it is not known which are.

        `forget` is called with the tasks that are held. Raises as `Hold.fetch`.
        """
        keys = {entry.key for entry in batch}
        held = keys if len(keys) == 1 else await self._held(keys)
        forget(held)
        self.park([entry for entry in batch if entry.key in held])
        return [entry for entry in batch if entry.key not in held] if held else None

    def park(self, entries: Iterable[Pending]) -> None:
        """These step aside, behind what is here of their tasks."""
        for entry in entries:
            self._entries.setdefault(entry.key, []).append(entry)
        if self._entries and self._timer is None:
            self._look_later()

    def others(self, batch: Sequence[Pending]) -> Sequence[Pending]:
        """The batch without what has to step aside because an earlier one of its task has."""
        if not self._entries:
            return batch
        self.park([entry for entry in batch if entry.key in self._entries])
        return [entry for entry in batch if entry.key not in self._entries]

    def apart_from(self, batch: Sequence[Pending]) -> Sequence[Pending]:
        """What of the batch has not stepped aside."""
        aside = set(self.entries)
        return [entry for entry in batch if entry not in aside]

    async def look(self) -> tuple[list[Pending], list[Pending]]:
        """Where it is time to, what is parked no more: to be tried again, in order; and what has waited too long.

        Where one request of a task has waited too long all others of it are to be tried, behind it.
        """
        if not self.due:
            return [], []
        try:
            held = await self._held(self._entries)
        except LedgerError:
            held = set(self._entries)
        now = time.monotonic()
        back: list[Pending] = []
        for key, entries in list(self._entries.items()):
            if key not in held or any(entry.deadline <= now for entry in entries):
                back += self._entries.pop(key)
        self._timer, self.due = None, False
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        if self._entries:
            self._look_later()
        else:
            self._pause_seconds = FIRST_PAUSE_SECONDS
        return [entry for entry in back if entry.deadline > now], [entry for entry in back if entry.deadline <= now]

    async def _held(self, keys: Iterable[Key]) -> set[Key]:
        return {row["key"].hex for row in await self._connection.fetch(query("held"), list(keys))}

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause_seconds, self._ring)

    def _ring(self) -> None:
        self.due = True  # not by the clock: uvloop's timers may be early by a part of a millisecond
        self._wake()
