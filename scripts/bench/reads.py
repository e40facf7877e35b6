"""The verb `reads`: snapshots, replay and history on a large ledger, one call at a time."""

from __future__ import annotations

import argparse
import random
import secrets
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.replay import PAGE as SESSION_PAGE
from ledger.machine import Status
from ledger.model import task_key
from ledger.reader import REPLAY_ROWS, HistoryPage, Reader
from scripts.bench.fill import PREFIX, STEPS, fill
from scripts.bench.machine import described
from scripts.bench.meter import cost, latency
from scripts.bench.paper import Paper, median, plain, write_json
from scripts.bench.place import CannotMeasure, Place
from scripts.bench.workloads import OWNERS, TENANT, Workload
from scripts.bench.writing import Bench, accepted, running_writer

HELP = "snapshots, replay and history pages on ten million stored transitions"
DESCRIPTION = """\
Latency of ledger.reader.Reader as the gateway calls it, one call at a time over one connection, Python objects made of
the rows included. Before it: both tables are read once whole, and each call is made a hundred times uncounted, with
other arguments of the same kind. Every call is for other tasks or another page, chosen at random.

snapshot                    of a task of 20 transitions, with its payloads
replay 50, one task         50 transitions of a task of 2,000, from a random place
replay page, one task       a whole page of them
replay page, session back   what one session is given at once when it comes back to 25 tasks of 20 transitions
replay page, many tasks     a whole page of such tasks: what several sessions share, or a node that has missed hints
history 50                  a page of 50 tasks of an owner or of the whole tenant: the first, or one at a random depth

p99 is to be within the goal. Beside it stands the CPU of this process and of PostgreSQL per read: where others use the
machine too, it tells more than p99.
"""
GOAL_MS = 5.0
"""For the p99 of each of them, at ten million stored transitions."""
BACK_TO = 25
"""Tasks of a session that comes back."""
LONG_TASKS = 20
LONG_STEPS = 2_000
WARM_CALLS = 100
PAGE = 50

_FIGURES = ("p50_ms", "max_ms", "python_cpu_us", "postgres_cpu_us", "p99_ms")

Call = Callable[[], Awaitable[object]]


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this verb; `--seconds` means nothing here."""
    parser.add_argument("--rows", type=int, default=10_000_000, help="transitions stored first (default %(default)s)")
    parser.add_argument("--calls", type=int, default=1_000, help="calls of each kind (default %(default)s)")


async def measure(place: Place, options: argparse.Namespace, paper: Paper) -> int:
    """Fill, warm, read; prints the medians of `--runs`."""
    await place.prepare()
    paper.say(f"filling to {options.rows:,}")
    place.stored_rows = await fill(place, options.rows)
    machine = described(place)
    runs: list[dict[str, Any]] = []
    async with place.workspace() as dsn, running_writer(place, dsn) as bench:
        long = Workload("hot", f"long-{secrets.token_hex(4)}", tasks=LONG_TASKS)
        await accepted(bench, [*long.opening(), *long.take(LONG_TASKS * (LONG_STEPS - 2))])
        await bench.connection.execute("vacuum (analyze) ledger.task", timeout=600)
        await bench.connection.execute("vacuum (analyze) ledger.transition", timeout=600)
        await bench.connection.execute("checkpoint", timeout=600)
        for table in ("task", "transition"):
            await bench.connection.fetchval(f"select sum(length(t::text)) from ledger.{table} t", timeout=600)  # noqa: S608 - two constants
        calls = await _calls(place, bench, long)
        for number in range(options.runs):
            paper.say(f"run {number + 1} of {options.runs}")
            runs.append({name: await _timed(bench, call, options.calls) for name, call in calls.items()})
    middle = median(runs)
    write_json(options.json, {"verb": "reads", "machine": machine, "runs": runs, "median": middle})
    rows = [[name, *(each[figure] for figure in _FIGURES), GOAL_MS] for name, each in middle.items()]
    columns = ("read", "p50 ms", "max ms", "Python us", "PostgreSQL us", "p99 ms", "goal ms")
    paper.table(f"Reads of {place.stored_rows:,} transitions, warm", columns, rows)
    return 0


async def _timed(bench: Bench, call: Call, count: int) -> dict[str, Any]:
    for _ in range(min(WARM_CALLS, count)):
        await call()
    taken: array[float] = array("d")
    before = await bench.meter.read()
    for _ in range(count):
        began = time.perf_counter()
        found = await call()
        taken.append(time.perf_counter() - began)
        if not found:
            raise CannotMeasure("a read found nothing where something is stored")
    spent = cost(before, await bench.meter.read(), count)
    return {
        **plain(latency(taken)),
        "goal_ms": GOAL_MS,
        "python_cpu_us": spent.python_cpu_us,
        "postgres_cpu_us": spent.postgres_cpu_us,
    }


async def _calls(place: Place, bench: Bench, long: Workload) -> dict[str, Call]:
    reader: Reader = bench.reader
    choice = random.Random(17)  # noqa: S311 - which rows are read
    keys = [row["key"].hex for row in await bench.connection.fetch(_SOME_TASKS, f"{PREFIX}%", 20_000)]
    ids = [row["task_id"] for row in await bench.connection.fetch(_SOME_TASKS, f"{PREFIX}%", 20_000)]
    long_keys = [task_key(TENANT, long.task_id(place)) for place in range(LONG_TASKS)]
    whole = min(PAGE, place.stored_rows // STEPS // OWNERS // 2)  # a small ledger has no whole page of an owner
    cursors = {
        owner: [
            (row["created_at"], row["key"].hex)
            for row in await bench.connection.fetch(_CURSORS, TENANT, owner, 2_000, whole)
        ]
        for owner in (None, *(f"user-{number}" for number in range(OWNERS)))
    }
    owners = [owner for owner in cursors if owner is not None and cursors[owner]]

    async def of_history(page: Awaitable[HistoryPage]) -> object:
        return (await page).tasks

    def of_one(rows: int) -> Call:
        return lambda: reader.replay([(choice.choice(long_keys), choice.randrange(LONG_STEPS - rows))], limit=rows)

    def of_session() -> Awaitable[object]:
        back = [(key, 0) for key in choice.sample(keys, BACK_TO)]
        return reader.pages(back, each=SESSION_PAGE, limit=SESSION_PAGE)

    def of_many() -> Awaitable[object]:
        return reader.replay([(key, 0) for key in choice.sample(keys, -(-REPLAY_ROWS // STEPS))])

    def of_owner(statuses: Sequence[Status] | None = None) -> Awaitable[object]:
        return of_history(reader.history(TENANT, owner=choice.choice(owners), statuses=statuses, limit=PAGE))

    def of_owner_deep() -> Awaitable[object]:
        owner = choice.choice(owners)
        return of_history(reader.history(TENANT, owner=owner, before=choice.choice(cursors[owner]), limit=PAGE))

    def of_tenant() -> Awaitable[object]:
        return of_history(reader.history(TENANT, limit=PAGE))

    def of_tenant_deep() -> Awaitable[object]:
        return of_history(reader.history(TENANT, before=choice.choice(cursors[None]), limit=PAGE))

    return {
        "snapshot": lambda: reader.task(TENANT, choice.choice(ids)),
        "replay 50, one task": of_one(50),
        "replay page, one task": of_one(REPLAY_ROWS),
        "replay page, session back": of_session,
        "replay page, many tasks": of_many,
        "history 50, owner, first": of_owner,
        "history 50, owner, completed": lambda: of_owner([Status.COMPLETED]),
        "history 50, owner, deep": of_owner_deep,
        "history 50, tenant, first": of_tenant,
        "history 50, tenant, deep": of_tenant_deep,
    }


_SOME_TASKS = "select key, task_id from ledger.task where task_id like $1 order by key limit $2"
# $4: not those behind which there would be no whole page.
_CURSORS = """
select created_at, key from (
    select created_at, key, row_number() over (order by created_at, key) as from_the_end
    from ledger.task where tenant = $1 and ($2::text is null or owner = $2)
) t
where from_the_end > $4 order by random() limit $3
"""
