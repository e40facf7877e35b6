"""What lets the ledger be cut into pieces by task: its keys, and that no hot statement touches another task's rows."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest

from ledger.arguments import advance_arguments, append_arguments, heads_arguments
from ledger.batch import Entry, fold
from ledger.machine import Status
from ledger.model import CancelRequest, Create, Patience, Report, State, task_key
from ledger.pool import Lane, Pools
from ledger.sql import query
from tests.support.limits import generous

TASKS = 20_000
TRANSITIONS = 3
"""Of each task: a beginning, and progress with data, which its row has not taken in."""
ASKED = 50
TENANT = "t"

FILL = """
with made as (
    select encode(sha256(convert_to('t' || e'\\x1f' || 'task-' || i, 'UTF8')), 'hex') as hash, 'task-' || i as task_id,
        'owner-' || i % 100 as owner
    from generate_series(1, $1::integer) i
),
tasks as (
    insert into ledger.task (
        key, tenant, task_id, owner, created, status, seq, attempt, n, data_seq, result_seq, error_seq, beat_at
    )
    select left(hash, 32)::uuid, 't', task_id, owner, true, 'running', 1, 1, 1, 1, 0, 0, now() from made
    returning key
)
insert into ledger.transition (key, seq, status, attempt, n, data, digest)
select key, seq, 'running', 1, seq, '1', gen_random_uuid() from tasks, generate_series(1, $2::integer) seq
"""


@pytest.fixture
async def pools(database: str) -> AsyncIterator[Pools]:
    """The lanes of a gateway, on a ledger with many tasks."""
    pools = await Pools.open(generous(), database)
    connection = await asyncpg.connect(database)
    await connection.execute("set statement_timeout = '60s'")
    await connection.execute(FILL, TASKS, TRANSITIONS)
    await connection.execute("vacuum analyze ledger.task")
    await connection.execute("vacuum analyze ledger.transition")
    await connection.close()
    yield pools
    await pools.close()


def entry(request: Report | Create | CancelRequest) -> Entry:
    """A request on its way."""
    return Entry(task_key(request.tenant, request.task_id), request, f"{1:032x}")


def state(task_id: str) -> State:
    """A filled task, as the writer remembers it: its row is as of the beginning."""
    return State(
        tenant=TENANT, task_id=task_id, created=True, status=Status.RUNNING, seq=TRANSITIONS, attempt=1, n=TRANSITIONS,
        data_seq=TRANSITIONS, anchor=1,
    )  # fmt: skip


async def test_every_primary_and_unique_key_begins_with_the_task_key(database: str) -> None:
    """So a distributed PostgreSQL can keep them, each on the node of the task."""
    connection = await asyncpg.connect(database)
    rows = await connection.fetch("""
        select c.relname as index, a.attname as first
        from pg_index x
        join pg_class c on c.oid = x.indexrelid
        join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]
        where x.indrelid in ('ledger.task'::regclass, 'ledger.transition'::regclass)
            and (x.indisunique or x.indisprimary)
    """)
    await connection.close()
    assert {row["index"] for row in rows} == {"task_pkey", "transition_pkey", "transition_by_idem"}
    assert {row["first"] for row in rows} == {"key"}


async def test_appends_touch_only_rows_of_their_own_tasks(pools: Pools, seed: int) -> None:
    """Progress, and everything else: births, cancels, ends, and tasks that have moved on."""
    names = [f"task-{i}" for i in random.Random(seed).sample(range(1, TASKS), ASKED)]
    heads = {task_key(TENANT, name): state(name) for name in names}
    progress = fold([entry(Report(tenant=TENANT, task_id=name, progress=1.0)) for name in names], heads, {})
    assert len(progress.growth) == ASKED
    await touches(pools.write, "advance", [*advance_arguments(progress.growth), None, None], rows=0)
    rest = fold(
        [
            *(entry(Report(tenant=TENANT, task_id=name, status=Status.COMPLETED, result=b"1")) for name in names[:20]),
            *(entry(CancelRequest(tenant=TENANT, task_id=name)) for name in names[20:]),
            *(
                entry(Create(tenant=TENANT, task_id=f"new-{name}", idem=f"{2:032x}", digest=f"{2:032x}"))
                for name in names
            ),
        ],
        heads,
        {},
    )
    assert len(rest.growth) == 2 * ASKED
    # A row and its last progress are compared, then it is written; where a client spoke, both are looked up again for
    # the worker's last sign of life.
    await touches(pools.write, "append", [*append_arguments(rest.growth, Patience()), None, None], rows=5 * ASKED)


async def test_reads_of_a_task_touch_only_its_own_rows(pools: Pools, seed: int) -> None:
    """What the writer, the hub and a client that comes back read."""
    names = [f"task-{i}" for i in random.Random(seed).sample(range(1, TASKS), ASKED)]
    keys = [task_key(TENANT, name) for name in names]
    asked = [entry(Report(tenant=TENANT, task_id=name, attempt=1, n=2, digest=f"{1:032x}")) for name in names]
    # A repeat of a number looks at the few transitions around its place.
    await touches(pools.write, "heads", heads_arguments(asked), rows=ASKED * (1 + TRANSITIONS))
    await touches(pools.read, "snapshots", [keys, 60_000], rows=4 * ASKED)
    await touches(pools.control, "sequences", [keys, 60_000], rows=2 * ASKED)
    await touches(pools.read, "replay", [keys, [1] * ASKED, 500, 500, 10**6], rows=ASKED * (1 + TRANSITIONS))


async def test_a_page_of_tasks_stops_when_it_is_full(pools: Pools) -> None:
    """Each task with its last progress and its data; no task behind the page is looked at."""
    newest = (datetime.max.replace(tzinfo=UTC), "f" * 32)
    for owner in (None, "owner-7"):
        arguments = [TENANT, owner, ["running"], None, *newest, ASKED, 60_000, 10**6]
        await touches(pools.read, "history", arguments, rows=3 * ASKED)


async def touches(lane: Lane, name: str, arguments: list[Any], *, rows: int) -> None:
    """Run a statement as its lane plans it; every access to a table is by an index on the task's key."""
    async with lane.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        plan = await connection.fetchval(f"explain (analyze, format json) {query(name)}", *arguments)
        await transaction.rollback()
    scans = [node for node in nodes_of(orjson.loads(plan)[0]["Plan"]) if is_scan(node)]
    assert scans or rows == 0, plan
    for scan in scans:
        assert "key" in scan.get("Index Cond", ""), f"{name}: {scan['Node Type']} without the key\n{plan}"
    touched = sum(
        (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"] for scan in scans
    )
    print(f"{name}: {touched:g} rows touched by {len(scans)} scans")  # noqa: T201 - pytest shows it with a failure
    assert touched <= rows, plan


def is_scan(node: dict[str, Any]) -> bool:
    """Whether the node looks for rows of a table: the heap part of a bitmap scan gets its condition from the index.

    The one row of `ledger.epoch` belongs to no task; a distributed PostgreSQL keeps a copy of it on each node. The
    name of the database is in a catalog.
    """
    kind = node["Node Type"]
    if node.get("Relation Name") in {"epoch", "pg_database"}:
        return False
    is_access = kind == "Bitmap Index Scan" or ("Relation Name" in node and kind != "ModifyTable")
    return is_access and kind != "Bitmap Heap Scan"


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All nodes of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)
