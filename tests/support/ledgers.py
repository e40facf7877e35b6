"""A writer and a reader on pools of their own, as one gateway has them, and what the tables hold of their work."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg

from ledger.errors import OutcomeUnknown
from ledger.model import (
    Report,
    fingerprint,
    task_key,
)
from ledger.pool import Hold, Lane, Pools
from ledger.reader import Reader
from ledger.sql import query
from ledger.writer import Writer
from tests.support.limits import generous
from tests.support.node import TENANT, Asking, Heard, connected


class CountingLane(Lane):
    """A write lane that counts its statements, and of appends the tasks asked for, those applied, and lost answers."""

    statements = 0
    appends = 0
    tasks_asked = 0
    tasks_applied = 0
    lost = 0

    def hold(self, label: str) -> Hold:
        return CountingHold(self, label)


class CountingHold(Hold):
    """What counts for its lane."""

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        lane = cast("CountingLane", self._lane)
        append = sql in (query("append"), query("advance"))
        lane.statements += 1
        try:
            rows = await super().fetch(sql, *args)
        except OutcomeUnknown:
            lane.lost += append
            raise
        if append:
            asked = cast("str", args[0]).count(",") + 1
            lane.appends += 1
            lane.tasks_asked += asked
            lane.tasks_applied += asked if rows[0]["applied"] is None else len(rows[0]["applied"])
        return rows


class Ledger(Asking):
    """A writer and a reader on pools of their own, as one gateway has them."""

    def __init__(self, writer: Writer, lane: CountingLane, reader: Reader, heard: Heard) -> None:
        self.writer = writer
        self.lane = lane
        self.reader = reader
        self.heard = heard
        self.closed = False

    async def close(self, timeout_seconds: float) -> None:
        self.closed = True
        await self.writer.close(timeout_seconds)


@asynccontextmanager
async def ledger(dsn: str, *, heard: Heard | None = None, **given: Any) -> AsyncIterator[Ledger]:
    """A ledger with these settings; closed in the order of a gateway's end."""
    settings = generous(**given)
    lanes = [CountingLane(name, settings, dsn, size=2, writes=name != "read") for name in ("write", "read", "control")]
    pools = Pools(*lanes)
    for lane in lanes:
        await lane.open(1)
    heard = heard or Heard()
    writer = Writer(pools.write, heard, settings)
    writer.start()
    it = Ledger(writer, lanes[0], Reader(pools.read, lease_ms=60_000), heard)
    try:
        yield it
    finally:
        if not it.closed:
            await it.close(2.0)
        await pools.close()


def report(task_id: str = "a", *, tenant: str = TENANT, **members: Any) -> Report:
    """A report; with an `n` or a `key` it gets its digests as the gateway would make them."""
    key = members.pop("key", None)
    if key is not None:
        members["idem"] = fingerprint("key", key)
    if key is not None or members.get("n") is not None:
        members["digest"] = fingerprint(
            [(name, str(members[name])) for name in ("progress", "message") if name in members]
        )
    return Report(tenant=tenant, task_id=task_id, **members)


@asynccontextmanager
async def place_held(dsn: str, task_id: str, *, ahead: int = 1) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Hold the place of a task's next transition, or of one further ahead: an append to it waits on the server."""
    async with connected(dsn) as connection:
        holding = connection.transaction()
        await holding.start()
        held = await connection.fetchval(
            "insert into ledger.transition (key, seq, status, attempt, n, digest)"
            " select key, seq + $2, status, attempt, n, key from ledger.head where key = $1 returning seq",
            task_key(TENANT, task_id),
            ahead,
        )
        assert held is not None
        yield connection
        await holding.rollback()


async def appends_waiting(dsn: str) -> list[int]:
    """The server processes that wait for a row lock with an append."""
    async with connected(dsn) as connection:
        rows = await connection.fetch(
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            " and query like '%Group commit%'"
        )
    return [row["pid"] for row in rows]


async def sequences(dsn: str) -> dict[str, list[int]]:
    """Every task's transitions as the tables have them, in order; checks that the task's head agrees with the last."""
    async with connected(dsn) as connection:
        rows = await connection.fetch(
            "select t.tenant || '/' || t.task_id as name, t.seq,"
            " coalesce(array_agg(p.seq order by p.seq) filter (where p.seq is not null), '{}') as seqs"
            " from ledger.head t left join ledger.transition p using (key) group by t.key, t.tenant, t.task_id, t.seq"
        )
    for row in rows:
        assert row["seqs"] == list(range(1, row["seq"] + 1)), f"{row['name']} has holes: {row['seqs']}"
    return {row["name"]: row["seqs"] for row in rows}


async def messages(dsn: str, tenant: str = TENANT) -> Counter[str]:
    """How often each message stands in the ledger. Every report of a test says another one, or none says any."""
    async with connected(dsn) as connection:
        rows = await connection.fetch(
            "select p.message from ledger.transition p join ledger.task using (key)"
            " where tenant = $1 and p.message is not null",
            tenant,
        )
    return Counter(row["message"] for row in rows)
