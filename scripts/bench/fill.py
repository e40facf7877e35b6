"""Stores transitions by the million before something is measured, consistent in every row.

The first tasks go through the writer, twenty transitions each. The rest are copies of them made by SQL, under other
task ids and keys and at earlier times, so that every head matches its transitions and every column is as the writer
writes it, whatever the schema. Rows go in through the indexes, 5,000 tasks interleaved: as a ledger grows, and not as
an index is rebuilt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import asyncpg

from scripts.bench.place import CannotMeasure, Place
from scripts.bench.workloads import TASKS, Workload
from scripts.bench.writing import accepted, running_writer

STEPS: Final = 20
PREFIX: Final = "filled"
SECONDS_APART: Final = 60
"""Between the times of one copy and the next."""
_STREAMS: Final = 2
_COLUMNS: Final = """
select a.attname as name, a.atttypid = 'timestamptz'::regtype as is_time, format_type(a.atttypid, null) as type
from pg_attribute a
where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attnum
"""
_TASK_ID: Final = "(task_id || '-' || $1::integer)"
_KEY: Final = f"substr(encode(sha256(convert_to(tenant || chr(31) || {_TASK_ID}, 'UTF8')), 'hex'), 1, 32)"
_AGREES: Final = """
select count(*) from (
    select key, count(*) as steps, max(seq) as newest from ledger.transition group by key
) t
full join ledger.head using (key)
where t.steps is distinct from t.newest or t.newest is distinct from head.seq
"""


async def fill(place: Place, rows: int, *, tasks: int = TASKS) -> int:
    """Bring the empty base database to at least so many transitions; how many there are then.

    `tasks` are worked on at once.

    Raises `CannotMeasure` when heads and transitions do not agree afterwards.
    """
    if rows <= 0:
        return 0
    dsn = place.url(place.base)
    tasks = min(tasks, -(-rows // STEPS))
    copies = -(-rows // (tasks * STEPS)) - 1
    async with running_writer(place, dsn) as bench:
        await accepted(bench, Workload("short", PREFIX, tasks=tasks, steps=STEPS).take(tasks * STEPS))
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "create schema bench;"
            "create unlogged table bench.task as select * from ledger.task;"
            "create unlogged table bench.transition as"
            " select row_number() over (order by at, seq, key) as place, t.* from ledger.transition t;"
            "analyze bench.task; analyze bench.transition"
        )
        oldest_first: Iterator[int] = iter(range(copies, 0, -1))
        await asyncio.gather(*(_copy(dsn, oldest_first) for _ in range(_STREAMS)))
        await connection.execute("drop schema bench cascade")
        for table in ("task", "transition"):
            await connection.execute(f"vacuum (analyze) ledger.{table}")
        await connection.execute("checkpoint")
        if wrong := await disagreeing(connection):
            raise CannotMeasure(f"{wrong} tasks do not agree with their transitions after filling")
        return int(await connection.fetchval("select count(*) from ledger.transition"))
    finally:
        await connection.close()


async def disagreeing(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """How many tasks have a hole in their sequence, or a head that is not at its end. Reads the whole ledger."""
    return int(await connection.fetchval(_AGREES, timeout=600))


async def _copy(dsn: str, copies: Iterator[int]) -> None:
    """Make the copies that the iterator gives, shared with the other streams."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("set synchronous_commit = off; set work_mem = '64MB'")
        tasks = await _insert(connection, "task", {"key": _KEY, "task_id": _TASK_ID}, "bench.task")
        renamed = f"(select key, {_KEY} as renamed from bench.task) as k"  # noqa: S608 - constants of this module
        source = f"bench.transition join {renamed} using (key) order by place"
        transitions = await _insert(connection, "transition", {"key": "renamed"}, source)
        for number in copies:
            async with connection.transaction():
                await connection.execute(tasks, number)
                await connection.execute(transitions, number)
    finally:
        await connection.close()


async def _insert(
    connection: asyncpg.Connection[asyncpg.Record], table: str, changed: dict[str, str], source: str
) -> str:
    """A statement that copies all rows of a source into a table: $1 is the number of the copy."""
    names, values = [], []
    for column in await connection.fetch(_COLUMNS, f"ledger.{table}"):
        name = column["name"]
        value = changed.get(name, name)
        if name == "key":
            value = f"decode({value}, 'hex')" if column["type"] == "bytea" else f"({value})::{column['type']}"
        if column["is_time"]:
            value = f"{name} - $1::integer * interval '{SECONDS_APART} seconds'"
        names.append(name)
        values.append(value)
    return f"insert into ledger.{table} ({', '.join(names)}) select {', '.join(values)} from {source}"  # noqa: S608 - names are the catalogue's
