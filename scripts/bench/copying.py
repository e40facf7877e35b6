"""The writer's own rows by COPY into the same table with its indexes: the most that PostgreSQL takes in.

The rows are those that the writer stored (`steady`), in the order in which it did, with every column as it was but the
key, which is another of the same length. They are encoded (binary) before the clock starts and sent as they are: the
feeder only moves bytes. COPY compares nothing, updates no task and answers nobody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

import asyncpg
from msgspec import Struct

from scripts.bench.meter import Meter, cost
from scripts.bench.place import CannotMeasure, Place
from scripts.bench.workloads import Workload
from scripts.bench.writing import accepted, running_writer

ROWS_PER_COMMIT: Final = 500
KEY_BYTES: Final = 16
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_COLUMNS: Final = """
select a.attname
from pg_attribute a
where a.attrelid = 'ledger.transition'::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attname <> 'key', a.attnum
"""


class CopyPoint(Struct, frozen=True, kw_only=True):
    """One way of copying: `streams` connections at once, a commit per so many rows (0: one for all of a stream)."""

    streams: int
    rows_per_commit: int
    rows: int
    per_second: float
    postgres_cpu_us: float | None
    wal_bytes: float


class _Rows(Struct, frozen=True, kw_only=True):
    """A binary COPY of rows whose first column is the key, and the names of the columns."""

    encoded: bytes
    columns: list[str]


async def measure_copy(place: Place, *, rows_wanted: int, tasks: int) -> list[CopyPoint]:
    """One stream and two, with a commit per 500 rows and with one for all; each beginning where the writer did."""
    rows = await _rows_of_the_writer(place, rows_wanted, tasks)
    return [
        await _point(place, rows, streams=streams, rows_per_commit=rows_per_commit)
        for streams in (1, 2)
        for rows_per_commit in (ROWS_PER_COMMIT, 0)
    ]


async def _rows_of_the_writer(place: Place, wanted: int, tasks: int) -> _Rows:
    """Let the writer store so many reports, and take them out again, in the order in which they lie."""
    workload = Workload("steady", f"copied-{secrets.token_hex(4)}", tasks=tasks)
    out = bytearray()

    async def collect(data: bytes) -> None:
        out.extend(data)

    async with place.workspace() as dsn, running_writer(place, dsn) as bench:
        await accepted(bench, workload.opening())
        stored = await bench.stored()
        await accepted(bench, workload.take(wanted))
        columns = [row["attname"] for row in await bench.connection.fetch(_COLUMNS)]
        await bench.connection.execute("set synchronize_seqscans = off; set max_parallel_workers_per_gather = 0")
        await bench.connection.copy_from_query(
            f"select {', '.join(columns)} from ledger.transition offset {stored}",  # noqa: S608 - the catalogue's names
            output=collect,
            format="binary",
            timeout=600,
        )
    return _Rows(encoded=bytes(out), columns=columns)


def _under_other_keys(rows: _Rows) -> tuple[list[bytes], int]:
    """The rows in chunks of `ROWS_PER_COMMIT`, without header and trailer, each key changed alike; and their number."""
    data, mask = bytearray(rows.encoded), secrets.randbits(KEY_BYTES * 8)
    at = begun = len(_HEADER)
    count, chunks = 0, []
    while data[at : at + 2] != _TRAILER:
        fields = int.from_bytes(data[at : at + 2], "big")
        key = slice(at + 6, at + 6 + KEY_BYTES)
        data[key] = (int.from_bytes(data[key], "big") ^ mask).to_bytes(KEY_BYTES, "big")
        at += 2
        for _ in range(fields):
            at += 4 + max(0, int.from_bytes(data[at : at + 4], "big", signed=True))
        count += 1
        if count % ROWS_PER_COMMIT == 0:
            chunks.append(bytes(data[begun:at]))
            begun = at
    if begun < at:
        chunks.append(bytes(data[begun:at]))
    return chunks, count


async def _point(place: Place, rows: _Rows, *, streams: int, rows_per_commit: int) -> CopyPoint:
    chunks, count = _under_other_keys(rows)
    async with place.workspace() as dsn:
        connections = [await asyncpg.connect(dsn) for _ in range(streams)]
        observer = await asyncpg.connect(dsn)
        try:
            stored = await observer.fetchval("select count(*) from ledger.transition", timeout=600)
            meter = Meter(observer, place.postmaster_pid)
            before = await meter.read()
            await asyncio.gather(
                *(
                    _stream(connection, rows.columns, chunks[number::streams], one_commit=rows_per_commit == 0)
                    for number, connection in enumerate(connections)
                )
            )
            after = await meter.read()
            stored = await observer.fetchval("select count(*) from ledger.transition", timeout=600) - stored
            if stored != count:
                raise CannotMeasure(f"COPY stored {stored} of {count} rows")
        finally:
            for connection in (*connections, observer):
                await connection.close()
    taken = cost(before, after, count)
    return CopyPoint(
        streams=streams,
        rows_per_commit=rows_per_commit,
        rows=count,
        per_second=taken.per_second,
        postgres_cpu_us=taken.postgres_cpu_us,
        wal_bytes=taken.wal_bytes,
    )


async def _stream(
    connection: asyncpg.Connection[asyncpg.Record], columns: list[str], chunks: Sequence[bytes], *, one_commit: bool
) -> None:
    for commit in [chunks] if one_commit else [[chunk] for chunk in chunks]:
        await connection.copy_to_table(
            "transition",
            schema_name="ledger",
            columns=columns,
            source=_copy_data(commit),
            format="binary",
            timeout=600,
        )


async def _copy_data(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    yield _HEADER
    for chunk in chunks:
        yield chunk
    yield _TRAILER
