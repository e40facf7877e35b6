"""The writer, measured as the gateway runs it: its pools, its shards, the hub as its listener, one process, uvloop, and
the same settings of the garbage collector.

The driver is in the same process, as the gateway's sessions are; what it costs alone is measured too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
from msgspec import Struct

from gateway.bus.local import LocalBus
from gateway.hub import Hub
from ledger.machine import Status
from ledger.model import Key, Receipt, Request, Transition
from ledger.pool import Pools
from ledger.reader import Reader
from ledger.settings import LedgerSettings
from ledger.writer import Writer
from scripts.bench.drive import ClosedLoop, NullWriter, Tally, open_loop
from scripts.bench.meter import Cost, Latency, Meter, cost, latency
from scripts.bench.place import CannotMeasure, Place
from scripts.bench.workloads import TASKS, Workload

SUPPLY_MOST = 1_500_000
"""Requests made before the clock starts, about half a kilobyte each; a faster writer is measured for a shorter time."""


class Written(Struct, frozen=True, kw_only=True):
    """One workload through the writer. `refused` counts answers other than a commit, by code: it should be empty."""

    workload: str
    window: int
    closed: Cost
    closed_latency: Latency
    transitions_per_commit: float
    open_per_second: float
    open_latency: Latency
    making_us: float
    """CPU to make one request from a worker's message, digest included: before the clock, in none of the others."""
    driver_us: float
    """CPU of the driver alone per request, which is part of `python_cpu_us`."""
    refused: dict[str, int]


class Counted(Hub):
    """The hub, with its commits counted."""

    commits = 0

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[Key, int]]) -> None:
        """As the hub's."""
        self.commits += 1
        super().committed(transitions, heads)


class Bench(Struct, kw_only=True):
    """A running writer, its reader, and the clocks."""

    writer: Writer
    reader: Reader
    listener: Counted
    meter: Meter
    connection: asyncpg.Connection[asyncpg.Record]
    settings: LedgerSettings

    async def stored(self) -> int:
        """How many transitions the ledger holds."""
        return int(await self.connection.fetchval("select count(*) from ledger.transition", timeout=600))


@asynccontextmanager
async def running_writer(place: Place, dsn: str) -> AsyncIterator[Bench]:
    """A writer on a database, wired as `gateway.runtime` does it, with the settings of the environment."""
    settings = LedgerSettings.from_environment(os.environ)
    pools = await Pools.open(settings, dsn)
    connection = await asyncpg.connect(dsn)
    try:
        lease_ms = settings.patience.lease_ms
        listener = Counted(Reader(pools.control, lease_ms=lease_ms), LocalBus())
        writer = Writer(pools.write, listener, settings)
        writer.start()
        try:
            yield Bench(
                writer=writer,
                reader=Reader(pools.read, lease_ms=lease_ms),
                listener=listener,
                meter=Meter(connection, place.postmaster_pid),
                connection=connection,
                settings=settings,
            )
        finally:
            await writer.close(10.0)
    finally:
        await connection.close()
        await pools.close()


async def accepted(bench: Bench, supply: Sequence[Request], window: int = 4_000) -> Tally:
    """Send a supply through the writer outside any measurement. Raises `CannotMeasure` when not all was accepted."""
    loop = ClosedLoop(bench.writer.post, supply, window)
    await loop.run(seconds=600)
    await loop.finish()
    if loop.tally.committed != len(supply):
        raise CannotMeasure(f"{loop.tally.committed} of {len(supply)} accepted: {dict(loop.tally.outcomes)}")
    return loop.tally


async def measure_workload(bench: Bench, name: str, *, seconds: float, window: int, tasks: int = TASKS) -> Written:
    """Saturate the writer for so long, then offer half of that rate for so long."""
    stored = await bench.stored()
    workload = Workload(name, f"{name}-{secrets.token_hex(4)}", tasks=tasks)
    opening = workload.opening()
    await accepted(bench, opening)
    warm = await _closed(bench, workload.take(_supply(50_000, seconds)), seconds=min(1.0, seconds), window=window)
    supply, making_us = _made(workload, _supply(warm.cost.per_second * 1.5, seconds))
    commits = bench.listener.commits
    closed = await _closed(bench, [*warm.left, *supply], seconds=seconds, window=window)
    commits = bench.listener.commits - commits
    open_per_second = closed.cost.per_second / 2
    wanted = max(1, int(open_per_second * seconds))
    rest = [*closed.left, *workload.take(max(0, wanted - len(closed.left)))]
    set_supply_aside()
    tally = await open_loop(bench.writer.post, rest[:wanted], open_per_second)
    gc.unfreeze()
    committed = len(opening) + warm.tally.committed + closed.tally.committed + tally.committed
    if await bench.stored() - stored != committed:
        raise CannotMeasure(f"the ledger holds {await bench.stored() - stored} of {committed} acknowledged transitions")
    return Written(
        workload=name,
        window=window,
        closed=closed.cost,
        closed_latency=closed.latency,
        transitions_per_commit=round(closed.tally.committed / max(commits, 1), 1),
        open_per_second=round(open_per_second, 1),
        open_latency=latency(tally.latencies),
        making_us=making_us,
        driver_us=await _driver_us(supply, window),
        refused=dict(warm.tally.outcomes + closed.tally.outcomes + tally.outcomes),
    )


class _Saturated(Struct, kw_only=True):
    cost: Cost
    latency: Latency
    tally: Tally
    left: list[Request]


async def _closed(bench: Bench, supply: list[Request], *, seconds: float, window: int) -> _Saturated:
    """The closed loop between two readings; what is answered after the second is not counted in its cost."""
    set_supply_aside()
    loop = ClosedLoop(bench.writer.post, supply, window)
    before = await bench.meter.read()
    await loop.run(seconds)
    units = loop.tally.committed
    after = await bench.meter.read()
    taken = latency(loop.tally.latencies[:units])
    await loop.finish()
    gc.unfreeze()
    return _Saturated(cost=cost(before, after, units), latency=taken, tally=loop.tally, left=supply[loop.sent :])


def set_supply_aside() -> None:
    """Keep the collector from walking the ready-made requests again and again: the product has no such heap."""
    gc.collect()
    gc.freeze()


def _supply(per_second: float, seconds: float) -> int:
    return int(min(SUPPLY_MOST, max(1_000, per_second * seconds)))


def _made(workload: Workload, count: int) -> tuple[list[Request], float]:
    """So many requests, and the CPU microseconds that making one took."""
    began = time.process_time()
    supply = workload.take(count)
    return supply, round((time.process_time() - began) / count * 1e6, 2)


async def _driver_us(supply: list[Request], window: int) -> float:
    """CPU microseconds of the driver per request, with a writer that does nothing."""
    some = supply[:100_000]
    receipt = Receipt(task_id="x", seq=1, status=Status.RUNNING, attempt=1, repeat=False)
    loop = ClosedLoop(NullWriter(receipt).post, some, window)
    set_supply_aside()
    began = time.process_time()
    await loop.run(seconds=10)
    await loop.finish()
    gc.unfreeze()
    await asyncio.sleep(0)
    return round((time.process_time() - began) / max(1, loop.tally.committed) * 1e6, 2)
