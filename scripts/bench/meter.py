"""What is read off the machine while something runs: CPU of processes, WAL, latencies. Starts nothing."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import asyncpg
from msgspec import Struct

_TRIES: Final = 20
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Latency(Struct, frozen=True, kw_only=True):
    """Milliseconds; `count` of them were taken."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def latency(seconds: array[float]) -> Latency:
    """Of single latencies in seconds; zeros when there are none."""
    ordered = sorted(seconds)
    if not ordered:
        return Latency(count=0, p50_ms=0.0, p99_ms=0.0, max_ms=0.0)
    return Latency(
        count=len(ordered),
        p50_ms=_milliseconds(ordered[len(ordered) // 2]),
        p99_ms=_milliseconds(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]),
        max_ms=_milliseconds(ordered[-1]),
    )


def tree_cpu_seconds(root_pid: int) -> float:
    """CPU seconds, user and system, that a process and its descendants have used, with those it has waited for."""
    for _ in range(_TRIES):
        pids = list(tree(root_pid))
        seconds = sum(map(_process_cpu_seconds, pids))
        if pids == list(tree(root_pid)):
            break  # else one has ended meanwhile: what it used may be counted twice or not at all
        time.sleep(0.002)
    return seconds


def tree(root_pid: int) -> Iterator[int]:
    """A process and its descendants, as they are now."""
    yield root_pid
    try:
        children = Path(f"/proc/{root_pid}/task/{root_pid}/children").read_text("ascii").split()
    except OSError:
        return  # it has ended
    for child in children:
        yield from tree(int(child))


def _process_cpu_seconds(pid: int) -> float:
    """Of one process; the living part in nanoseconds where the kernel tells, else in ticks of 10 ms."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        waited_for = (int(fields[13]) + int(fields[14])) / _TICKS_PER_SECOND
        if len(threads) == 1:
            try:
                return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0]) / 1e9 + waited_for
            except (OSError, IndexError):
                pass  # a kernel without it
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND + waited_for
    except OSError:
        return 0.0  # it has just ended; its parent will have waited for it


class Reading(Struct, frozen=True, kw_only=True):
    """One look at the clocks: seconds of time and CPU, bytes of WAL since the server was made."""

    at: float
    python_cpu: float
    postgres_cpu: float | None
    wal_bytes: int


class Meter:
    """Reads this process, the server's process tree and its WAL.

    `postmaster_pid` is None when the server is on another machine: then its CPU is not known.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], postmaster_pid: int | None) -> None:
        self._connection = connection
        self._postmaster_pid = postmaster_pid

    async def read(self) -> Reading:
        """All clocks, read one after the other within about a millisecond."""
        wal = await self._connection.fetchval("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        return Reading(
            at=time.perf_counter(),
            python_cpu=time.process_time(),
            postgres_cpu=None if self._postmaster_pid is None else tree_cpu_seconds(self._postmaster_pid),
            wal_bytes=int(wal),
        )


class Cost(Struct, frozen=True, kw_only=True):
    """What a stretch of work took: seconds, units per second, CPU microseconds and WAL bytes per unit."""

    seconds: float
    units: int
    per_second: float
    python_cpu_us: float
    postgres_cpu_us: float | None
    wal_bytes: float


def cost(before: Reading, after: Reading, units: int) -> Cost:
    """Between two readings."""
    seconds, each = after.at - before.at, max(units, 1)
    known = before.postgres_cpu is not None and after.postgres_cpu is not None
    return Cost(
        seconds=round(seconds, 3),
        units=units,
        per_second=round(units / seconds, 1),
        python_cpu_us=round((after.python_cpu - before.python_cpu) / each * 1e6, 2),
        postgres_cpu_us=round(((after.postgres_cpu or 0) - (before.postgres_cpu or 0)) / each * 1e6, 2)
        if known
        else None,
        wal_bytes=round((after.wal_bytes - before.wal_bytes) / each, 1),
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)
