"""The verb `growth`: what a transition costs in a small ledger and in a large one."""

from __future__ import annotations

import argparse
from typing import Any

from scripts.bench.fill import fill
from scripts.bench.machine import described
from scripts.bench.paper import Paper, figure, median, plain, write_json
from scripts.bench.place import Place
from scripts.bench.workloads import NAMES, TASKS
from scripts.bench.writing import measure_workload, running_writer

HELP = "what a transition costs at ten thousand and at ten million stored ones"
DESCRIPTION = """\
Fills a ledger to each number of transitions of --rows and measures the writer there, as the verb `ledger` does it:
transitions/s, CPU us of Python and of PostgreSQL, and WAL bytes per transition. The last column is the change from the
first number to the last, in per cent.
"""
_FIGURES = ("per_second", "python_cpu_us", "postgres_cpu_us", "wal_bytes")


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "--rows",
        nargs="+",
        type=int,
        default=[10_000, 10_000_000],
        metavar="N",
        help="store so many transitions first (default 10000 10000000)",
    )
    parser.add_argument("--tasks", type=int, default=TASKS, help="tasks at work at once (default %(default)s)")
    parser.add_argument("--window", type=int, default=4_000, help="requests in flight (default %(default)s)")
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=NAMES,
        default=["steady", "short"],
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default steady short): see `ledger --help`",
    )


async def measure(place: Place, options: argparse.Namespace, paper: Paper) -> int:
    """One size after the other; prints the medians of `--runs` at each."""
    sizes: list[dict[str, Any]] = []
    machine = described(place)
    for rows in options.rows:
        await place.prepare()
        paper.say(f"filling to {rows:,}")
        place.stored_rows = await fill(place, rows, tasks=options.tasks)
        runs = []
        for number in range(options.runs):
            paper.say(f"run {number + 1} of {options.runs} at {place.stored_rows:,}")
            run = {}
            for name in options.workloads:
                async with place.workspace() as dsn, running_writer(place, dsn) as bench:
                    run[name] = plain(
                        await measure_workload(
                            bench, name, seconds=options.seconds, window=options.window, tasks=options.tasks
                        )
                    )
            runs.append(run)
        sizes.append({"stored_rows": place.stored_rows, "runs": runs, "median": median(runs)})
        await place.drop_base()
    write_json(options.json, {"verb": "growth", "machine": machine, "sizes": sizes})
    first, last = sizes[0], sizes[-1]
    for name in options.workloads:
        rows_of_table = []
        for label in _FIGURES:
            values = [size["median"][name]["closed"][label] for size in sizes]
            rows_of_table.append([label, *values, _change(values[0], values[-1])])
        columns = [name, *(figure(size["stored_rows"]) for size in sizes), "change"]
        paper.table(f"From {first['stored_rows']:,} to {last['stored_rows']:,} transitions", columns, rows_of_table)
    return 0


def _change(first: float | None, last: float | None) -> str:
    return f"{(last / first - 1) * 100:+.0f} %" if first and last is not None else "–"
