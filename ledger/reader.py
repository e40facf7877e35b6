"""Everything that is read from the ledger for people: snapshots, replays, history. Writes nothing, remembers no task.

All methods raise `Unavailable` when the database cannot be reached within the read lane's limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg

from ledger.epoch import History, Loss
from ledger.errors import OutcomeUnknown, Unavailable
from ledger.machine import Status
from ledger.model import Facts, Head, Key, Task, Transition, task_key
from ledger.pool import Lane
from ledger.rows import fitting, head_of, task_of, transition_of
from ledger.sql import query

REPLAY_ROWS = 200
"""Transitions in one replay page, over all the tasks asked for. More take longer in proportion, and bring few more
per second (docs/adr/0011)."""
REPLAY_BYTES = 256 * 1024
"""Payload bytes in one replay page; one transition is always given."""
HISTORY_ROWS = 200
"""Tasks in one history page at most."""
HISTORY_BYTES = 256 * 1024
"""Payload bytes in one history page; one task is always given."""

_WHATEVER_SIZE = 2**31 - 1
_NEWEST = (datetime.max.replace(tzinfo=UTC), "f" * 32)


class HistoryPage(NamedTuple):
    """Tasks, newest first. `more`: the page was full, so older ones may follow its last task."""

    tasks: list[Task]
    more: bool


class Reader:
    """Reads through one lane of connections. `lease_ms` is the lease of tasks whose worker named none.

    `history` hears the epoch of all that is read, before the caller does.
    """

    def __init__(self, lane: Lane, *, lease_ms: int, history: History | None = None) -> None:
        self.of_history = history or History()
        self._lane = lane
        self._lease_ms = lease_ms

    async def epoch(self) -> str:
        """The identity of the ledger's history."""
        rows = await self._fetch("epoch")
        return str(rows[0]["epoch"])

    async def task(self, tenant: str, task_id: str) -> Task | None:
        """The newest snapshot of a task, or None when nobody has heard of it."""
        return next(iter(await self.tasks([task_key(tenant, task_id)])), None)

    async def tasks(self, keys: Sequence[Key]) -> list[Task]:
        """The newest snapshots of those tasks that exist, in no order."""
        return [task_of(row) for row in await self._fetch("snapshots", list(keys), self._lease_ms)]

    async def heads(self, keys: Sequence[Key]) -> dict[Key, Head]:
        """How far each of the tasks has come; those that do not exist are missing."""
        rows = await self._fetch("sequences", list(keys), self._lease_ms)
        return {row["key"].hex: head_of(row) for row in rows if row["key"] is not None}

    async def facts(self, keys: Sequence[Key]) -> dict[Key, Facts]:
        """What grants may depend on, of each of the tasks; those that do not exist are missing."""
        rows = await self._fetch("facts", list(keys))
        return {row["key"].hex: Facts(row["owner"], row["kind"]) for row in rows if row["key"] is not None}

    async def replay(self, cursors: Sequence[tuple[Key, int]], *, limit: int = REPLAY_ROWS) -> list[Transition]:
        """The transitions after each (key, sequence), task by task in the order given, each task's in sequence.

        At most `limit` rows and `REPLAY_BYTES` of payload in all: the last task served, and those after it, may have
        more.
        """
        limit = min(limit, REPLAY_ROWS)
        pages = await self._replay(cursors, limit, limit)
        return [transition for page in pages.values() for transition in page]

    async def pages(
        self, cursors: Sequence[tuple[Key, int]], *, each: int, limit: int = REPLAY_ROWS
    ) -> dict[int, list[Transition]]:
        """As `replay`, at most `each` transitions of a cursor: by its place in `cursors`, those without any missing.

        A task may be asked for at several sequences.
        """
        return await self._replay(cursors, each, min(limit, REPLAY_ROWS))

    async def _replay(self, cursors: Sequence[tuple[Key, int]], each: int, most: int) -> dict[int, list[Transition]]:
        keys, after = [key for key, _ in cursors], [seq for _, seq in cursors]
        pages: dict[int, list[Transition]] = {}
        rows = await self._fetch("replay", keys, after, each, most, REPLAY_BYTES // REPLAY_ROWS)
        if any(row["large"] for row in rows):  # hardly ever; to add up in SQL makes every page a third dearer
            rows = await self._fetch("replay", keys, after, each, fitting(rows, REPLAY_BYTES), _WHATEVER_SIZE)
        for row in rows:
            place = row["ord"] - 1
            pages.setdefault(place, []).append(transition_of(row, keys[place]))
        return pages

    async def history(
        self,
        tenant: str,
        *,
        owner: str | None = None,
        statuses: Sequence[Status] | None = None,
        kind: str | None = None,
        before: tuple[datetime, Key] | None = None,
        limit: int = 50,
    ) -> HistoryPage:
        """A tenant's tasks, newest first, those after the row `before` = (created_at, key) of the page before.

        At most `limit` or `HISTORY_ROWS` tasks and `HISTORY_BYTES` of payload.
        """
        created_at, key = before or _NEWEST
        wanted = (tenant, owner, None if statuses is None else list(statuses), kind, created_at, key)
        limit = min(limit, HISTORY_ROWS)
        rows = await self._fetch("history", *wanted, limit, self._lease_ms, HISTORY_BYTES // HISTORY_ROWS)
        if any(row["large"] for row in rows):
            fits = fitting(rows, HISTORY_BYTES)
            limit = fits if fits < len(rows) else limit
            rows = await self._fetch("history", *wanted, limit, self._lease_ms, _WHATEVER_SIZE)
        return HistoryPage([task_of(row) for row in rows], len(rows) == limit)

    async def rewound(self, loss: Loss) -> None:
        """What was read before is not there any more; see `History.rewound`."""
        await self.of_history.rewound(self._lane.fetch, loss)

    async def _fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        asked_in = self.of_history.epoch
        try:
            rows = await self._lane.fetch(query(name), *arguments)
        except OutcomeUnknown as error:  # a read has no outcome that matters
            raise Unavailable(error.sentence, reason=error.reason, retry_after_ms=error.retry_after_ms) from error
        if rows and not self.of_history.note(rows[0]["epoch"], asked_in):
            raise Unavailable("The ledger's history has changed; ask again.", reason="epoch_changed")
        return rows
