"""The ledger as one gateway has it (writer, reader, beats, reaper), without HTTP, where time can be made to pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from ledger.leases import Beats
from ledger.model import Receipt, Rejection, Request, Task, Transition, task_key
from ledger.pool import Pools
from ledger.reader import Reader
from ledger.reaper import LOCK_KEY, Reaper
from ledger.writer import Writer
from tests.support.limits import generous
from tests.support.waiting import eventually

TENANT = "t"


class Heard:
    """A listener that keeps what it is told, in `order` with what the test adds there."""

    def __init__(self) -> None:
        self.transitions: list[Transition] = []
        self.commits = 0
        self.known: dict[str, int] = {}
        self.order: list[tuple[str, str, int]] = []

    def watches(self, key: str) -> bool:
        return True

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[str, int]]) -> None:
        self.commits += 1
        self.transitions += transitions
        self.order += [("told", transition.task_id, transition.seq) for transition in transitions]

    def reached(self, key: str, seq: int) -> None:
        self.known[key] = max(seq, self.known.get(key, 0))

    def of(self, task_id: str) -> list[Transition]:
        return [transition for transition in self.transitions if transition.task_id == task_id]

    def seqs(self, task_id: str) -> list[int]:
        return [transition.seq for transition in self.of(task_id)]


class Asking:
    """Who has a writer, and knows how it will answer."""

    writer: Writer

    async def receipt(self, request: Request) -> Receipt:
        answer = await self.writer.submit(request)
        assert isinstance(answer, Receipt), answer
        return answer

    async def rejection(self, request: Request) -> Rejection:
        answer = await self.writer.submit(request)
        assert isinstance(answer, Rejection), answer
        return answer


@dataclass(kw_only=True)
class Node(Asking):
    """What `node` opens. The reaper looks only when it is told to, until it is started."""

    dsn: str
    writer: Writer
    reader: Reader
    beats: Beats
    reaper: Reaper
    heard: Heard

    async def task(self, task_id: str = "a") -> Task:
        task = await self.reader.task(TENANT, task_id)
        assert task is not None
        return task

    async def row(self, task_id: str = "a") -> asyncpg.Record:
        """The task's row, and how it stands to the server's clock."""
        async with connected(self.dsn) as connection:
            row = await connection.fetchrow(
                "select *, now(), extract(epoch from due_at - now())::float as due_in from ledger.head where key = $1",
                task_key(TENANT, task_id),
            )
        assert row is not None
        return row

    async def beat(self, *held: tuple[str, int | None]) -> None:
        """These workers beat; returns when it is written."""
        before = (await self.row("metronome"))["beat_at"]
        self.beats.add(
            [(task_key(TENANT, task_id), attempt, None) for task_id, attempt in (*held, ("metronome", None))]
        )

        async def written() -> bool:
            return bool((await self.row("metronome"))["beat_at"] > before)

        await eventually(written, what="the beats are written")

    async def look(self) -> None:
        """The reaper looks until nothing is due."""
        while await self.reaper.step() == 0:
            pass
        assert self.reaper.holds

    async def pass_time(self, seconds: float) -> None:
        """All that has happened was so much earlier."""
        if self.reaper.since is None:
            await self.reaper.step()
        assert self.reaper.since is not None
        self.reaper.since -= timedelta(seconds=seconds)
        async with connected(self.dsn) as connection:
            await connection.execute(
                "update ledger.task set created_at = created_at - $1::interval, updated_at = updated_at - $1::interval,"
                " beat_at = beat_at - $1::interval, deadline_at = deadline_at - $1::interval,"
                " due_at = due_at - $1::interval",
                timedelta(seconds=seconds),
            )
            await connection.execute("update ledger.transition set at = at - $1::interval", timedelta(seconds=seconds))


@asynccontextmanager
async def node(dsn: str, **given: Any) -> AsyncIterator[Node]:
    """A node with these settings, closed in the order of a gateway's end."""
    settings = generous(**given)
    pools = await Pools.open(settings, dsn)
    heard = Heard()
    writer = Writer(pools.write, heard, settings)
    writer.start()
    reaper = Reaper(writer, settings, settings.direct_database_url or dsn)
    beats = Beats(pools.control)
    beats.start()
    reader = Reader(pools.read, lease_ms=settings.patience.lease_ms)
    try:
        yield Node(dsn=dsn, writer=writer, reader=reader, beats=beats, reaper=reaper, heard=heard)
    finally:
        await beats.close()
        await reaper.close()
        await writer.close(2.0)
        await pools.close()


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


async def advisory_locks(dsn: str) -> int:
    """How many sessions hold the lock of the one reaper."""
    async with connected(dsn) as connection:
        held: int = await connection.fetchval(
            "select count(*) from pg_locks where locktype = 'advisory' and granted and database ="
            " (select oid from pg_database where datname = current_database())"
            " and (classid::bigint << 32) | objid::bigint = $1",
            LOCK_KEY,
        )
    return held
