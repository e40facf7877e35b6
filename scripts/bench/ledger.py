"""The verb `ledger`: the writer, pgbench, COPY and the peers, one after the other on one machine in one run."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any, Final

from scripts.bench import copying, nats, pgbench, redis, writing
from scripts.bench.fill import fill
from scripts.bench.machine import described
from scripts.bench.paper import Paper, median, plain, ratio, write_json
from scripts.bench.place import CannotMeasure, Place
from scripts.bench.workloads import NAMES, TASKS

HELP = "durable appends: the writer at saturation and at half of it, pgbench, COPY and, where installed, peers"
DESCRIPTION = """\
What one run measures, all on one freshly made PostgreSQL with its default, durable settings:

writer   reports through ledger.writer.Writer with the gateway's pools, shards and hub, in this process, under uvloop.
         transitions/s   acknowledged after their commit, with --window in flight (closed loop)
         p50, p99        from submit to the answer, at that window
         Python us       CPU of this process per transition; "driver" is the part that sends and counts
         PG us           CPU of all processes of the server per transition
         WAL B           bytes of write-ahead log per transition
         half of it      latency from the scheduled time, at half of that rate (open loop; nothing is omitted; the
                         schedule is looked at every millisecond, which is in it)
         making          CPU to make a request of a worker's message, digest included; in no other figure
pgbench  -M prepared, the writer's statement for one report per transaction, clients on tasks of their own
COPY     the writer's rows into the same table with its indexes, from ready bytes
peers    the same payload bytes, synced before the answer: Redis Streams (appendfsync always), NATS JetStream
         (sync_interval always). They compare nothing and know no states.

steady   5,000 running tasks, one numbered report each in turn
short    tasks of ten transitions, from create to completed; 5,000 at a time
hot      the same reports as steady, all for 20 tasks
"""

_WRITER_LINES: Final[tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...]] = (
    ("transitions/s", lambda one: one["closed"]["per_second"]),
    ("  p50 ms", lambda one: one["closed_latency"]["p50_ms"]),
    ("  p99 ms", lambda one: one["closed_latency"]["p99_ms"]),
    ("  Python us", lambda one: one["closed"]["python_cpu_us"]),
    ("    of it driver", lambda one: one["driver_us"]),
    ("  PG us", lambda one: one["closed"]["postgres_cpu_us"]),
    ("  WAL B", lambda one: one["closed"]["wal_bytes"]),
    ("  transitions per commit", lambda one: one["transitions_per_commit"]),
    ("half of it: transitions/s", lambda one: one["open_per_second"]),
    ("  p50 ms", lambda one: one["open_latency"]["p50_ms"]),
    ("  p99 ms", lambda one: one["open_latency"]["p99_ms"]),
    ("  max ms", lambda one: one["open_latency"]["max_ms"]),
    ("making a request, us", lambda one: one["making_us"]),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="store so many transitions first (default 0)")
    parser.add_argument("--tasks", type=int, default=TASKS, help="tasks at work at once (default %(default)s)")
    parser.add_argument("--window", type=int, default=4_000, help="requests in flight (default %(default)s)")
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=NAMES,
        default=list(NAMES),
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default all)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"of {', '.join(PARTS)} (default all)",
    )
    parser.add_argument(
        "--clients",
        nargs="+",
        type=int,
        default=list(pgbench.CLIENTS),
        metavar="N",
        help=f"clients of pgbench (default {' '.join(map(str, pgbench.CLIENTS))})",
    )


async def measure(place: Place, options: argparse.Namespace, paper: Paper) -> int:
    """Run it `--runs` times, print the medians; 1 when nothing of what was asked for could be measured."""
    runs: list[dict[str, Any]] = []
    await place.prepare()
    place.stored_rows = await fill(place, options.rows, tasks=options.tasks)
    machine = described(place)
    for number in range(options.runs):
        run: dict[str, Any] = {"not_measured": {}}
        for part in options.parts:
            paper.say(f"run {number + 1} of {options.runs}: {part}")
            try:
                run |= {name: plain(value) for name, value in (await PARTS[part](place, options)).items()}
            except CannotMeasure as reason:
                run["not_measured"][part] = str(reason)
        runs.append(run)
    middle = median(runs)
    write_json(options.json, {"verb": "ledger", "machine": machine, "runs": runs, "median": middle})
    _print(paper, machine, middle)
    return 0 if len(middle) > 1 else 1


async def _writer(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    measured = []
    for name in options.workloads:
        async with place.workspace() as dsn, writing.running_writer(place, dsn) as bench:
            measured.append(
                await writing.measure_workload(
                    bench, name, seconds=options.seconds, window=options.window, tasks=options.tasks
                )
            )
    return {"writer": {each.workload: each for each in measured}}


async def _pgbench(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    points = await pgbench.measure_pgbench(place, seconds=options.seconds, clients=options.clients, tasks=options.tasks)
    return {"pgbench": points}


async def _copy(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    rows = int(min(1_000_000, max(2_000, 60_000 * options.seconds)))
    return {"copy": await copying.measure_copy(place, rows_wanted=rows, tasks=options.tasks)}


async def _redis(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    return {"redis": await redis.measure_redis(place, seconds=options.seconds)}


async def _nats(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    return {"nats": await nats.measure_nats(place, seconds=options.seconds)}


PARTS: dict[str, Callable[[Place, argparse.Namespace], Awaitable[dict[str, Any]]]] = {
    "writer": _writer,
    "pgbench": _pgbench,
    "copy": _copy,
    "redis": _redis,
    "nats": _nats,
}


def _print(paper: Paper, machine: dict[str, Any], middle: dict[str, Any]) -> None:
    load = machine["load_before"][0]
    paper.say(
        f"\n{machine['cores_usable']} cores, {machine['cpu']}, kernel {machine['kernel']}, load {load:.1f} before;"
        f" PostgreSQL {machine['postgres']}; {machine['stored_rows']:,} transitions stored"
    )
    writer = middle.get("writer", {})
    if writer:
        _print_writer(paper, writer)
    steady = writer.get("steady", {}).get("closed", {}).get("per_second")
    rows = [
        (
            name, point["per_second"], point.get("p50_ms", point.get("latency_ms")), point.get("p99_ms"),
            point.get("postgres_cpu_us", point.get("server_cpu_us")), point.get("wal_bytes"),
            steady and ratio(steady, point["per_second"]),
        )
        for name, point in _others(middle)
    ]  # fmt: skip
    if rows:
        columns = ("beside it", "transitions/s", "p50 ms", "p99 ms", "server us", "WAL B", "the writer (steady) is")
        paper.table("The same rows and bytes by other ways (pgbench: mean latency)", columns, rows)
    for part, reason in middle["not_measured"].items():
        paper.say(f"{part}: not measured: {reason}")


def _print_writer(paper: Paper, writer: dict[str, Any]) -> None:
    each = list(writer.values())
    rows: list[list[object]] = [[label, *(read(one) for one in each)] for label, read in _WRITER_LINES]
    paper.table("The writer: durable, answered after the commit", ["", *writer], rows)
    for name, one in writer.items():
        if one["refused"]:
            paper.say(f"{name}: not all were accepted: {one['refused']}")


def _others(middle: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Everything that is not the writer, in words, with its figures; the best of each kind is marked."""
    rows = []
    for kind, worded in _KINDS.items():
        points = middle.get(kind, [])
        best = max((point["per_second"] for point in points), default=0)
        for point in points:
            mark = " (best)" if point["per_second"] == best else ""
            rows.append((f"{worded(point)}{mark}", point))
    return rows


def _copy_in_words(point: dict[str, Any]) -> str:
    commit = f"a commit per {point['rows_per_commit']}" if point["rows_per_commit"] else "one commit for all"
    return f"COPY, {_counted(point['streams'], 'stream')}, {commit}"


def _peer_in_words(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda point: (
        f"{name}, {_counted(point['connections'], 'connection')}, {point['window']:,} in flight on each"
    )


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


_KINDS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "pgbench": lambda point: f"pgbench, {_counted(point['clients'], 'client')}",
    "copy": _copy_in_words,
    "redis": _peer_in_words("Redis Streams"),
    "nats": _peer_in_words("NATS JetStream"),
}
