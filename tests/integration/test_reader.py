"""What is read from the ledger: snapshots with the payloads in force, replay pages, history pages. No HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ledger.errors import Unavailable
from ledger.machine import CancelStage, Liveness, Status
from ledger.model import (
    Cancel,
    CancelRequest,
    Create,
    Head,
    Receipt,
    Report,
    Request,
    Task,
    Transition,
    fingerprint,
    task_key,
)
from ledger.pool import Pools
from ledger.reader import HISTORY_ROWS, REPLAY_BYTES, REPLAY_ROWS, Reader
from ledger.writer import Writer
from tests.support.limits import QUICK, generous
from tests.support.postgres import Cluster, address_of, create_database, drop_database, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import WAIT_SECONDS


class _Nobody:
    def watches(self, key: str) -> bool:
        return False

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[str, int]]) -> None:
        """Nobody listens here."""

    def reached(self, key: str, seq: int) -> None:
        """Nobody listens here."""


class Ledger:
    """One tenant's reader and writer."""

    def __init__(self, reader: Reader, writer: Writer, tenant: str) -> None:
        self.reader = reader
        self.writer = writer
        self.tenant = tenant

    def key(self, task_id: str) -> str:
        return task_key(self.tenant, task_id)

    async def write(self, *requests: Request) -> None:
        answers = await asyncio.gather(*(self.writer.submit(request) for request in requests))
        assert all(isinstance(answer, Receipt) for answer in answers), answers

    def report(self, task_id: str = "a", **members: Any) -> Report:
        return Report(tenant=self.tenant, task_id=task_id, **members)

    def create(self, task_id: str, **members: Any) -> Create:
        digest = fingerprint(task_id)
        return Create(tenant=self.tenant, task_id=task_id, idem=digest, digest=digest, **members)

    async def task(self, task_id: str = "a") -> Task:
        task = await self.reader.task(self.tenant, task_id)
        assert task is not None
        return task


@asynccontextmanager
async def ledger(dsn: str, tenant: str, **given: Any) -> AsyncIterator[Ledger]:
    settings = generous(**given)
    pools = await Pools.open(settings, dsn)
    writer = Writer(pools.write, _Nobody(), settings)
    writer.start()
    try:
        yield Ledger(Reader(pools.read, lease_ms=60_000), writer, tenant)
    finally:
        await writer.close(2.0)
        await pools.close()


@pytest.fixture(scope="module")
def shared_database(cluster: Cluster) -> Iterator[str]:
    """One database for all: each test keeps to a tenant of its own."""
    dsn = asyncio.run(create_database(cluster))
    yield dsn
    asyncio.run(drop_database(cluster, dsn))


@pytest.fixture
async def it(shared_database: str, request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    async with ledger(shared_database, request.node.name) as running:
        yield running


# Snapshots


async def test_a_snapshot_has_the_payloads_in_force(it: Ledger) -> None:
    """Data, result and error are each the newest that was given, whichever transition brought it."""
    await it.write(it.create("a", kind="import", owner="alice", data=b'{"n": 0}'))
    created = await it.task()
    assert (created.data, created.result, created.error) == (b'{"n": 0}', None, None)
    await it.write(
        it.report(status=Status.RUNNING, data=b'{"n": 1}', error=b'"first"'),
        it.report(progress=10, stage="s", message="m"),
        it.report(data=b'{"n":   2, "n": 3}'),
        it.report(progress=20),
    )
    running = await it.task()
    assert (running.data, running.result, running.error) == (b'{"n":   2, "n": 3}', None, b'"first"'), "kept as it came"
    assert (running.progress, running.stage, running.message) == (20, "s", "m")
    await it.write(it.report(status=Status.COMPLETED, result=b"[1, 2]", stage=None))
    ended = await it.task()
    assert (ended.kind, ended.owner, ended.status, ended.seq, ended.attempt) == ("import", "alice", "completed", 6, 0)
    assert (ended.data, ended.result, ended.error) == (b'{"n":   2, "n": 3}', b"[1, 2]", b'"first"')
    assert (ended.stage, ended.message) == (None, "m")
    assert ended.created_at == created.created_at
    assert ended.updated_at > running.updated_at > created.updated_at
    assert ended.beat_at == ended.updated_at


async def test_a_payload_can_be_cleared_with_null(it: Ledger) -> None:
    """`null` is what was said last, not nothing said."""
    await it.write(it.report(data=b"[1]", error=b"{}"), it.report(data=b"null", error=b"null"), it.report(progress=1))
    task = await it.task()
    assert (task.data, task.result, task.error) == (b"null", None, b"null")


async def test_snapshots_of_many_tasks_come_at_once(it: Ledger) -> None:
    """Those that exist come, each with its own payloads; the others are missing, and so are those of other tenants."""
    await it.write(*(it.report(f"task-{i}", data=str(i).encode(), progress=i) for i in range(30)))
    await it.write(Report(tenant="somebody-else", task_id="task-99", progress=1))
    found = await it.reader.tasks([it.key(f"task-{i}") for i in range(0, 60, 2)] + [it.key("task-99")])
    assert {(task.task_id, task.data) for task in found} == {(f"task-{i}", str(i).encode()) for i in range(0, 30, 2)}
    heads = await it.reader.heads([it.key("task-1"), it.key("task-31")])
    age_ms = heads[it.key("task-1")].beat_age_ms
    assert age_ms is not None
    assert age_ms >= 0
    head = Head(seq=1, status=Status.RUNNING, liveness=Liveness.LIVE, beat_age_ms=age_ms)
    assert heads == {it.key("task-1"): head}


async def test_a_snapshot_tells_how_far_a_cancel_has_come(it: Ledger) -> None:
    """The stage moves, the sequence and the reason of the request stay."""
    await it.write(it.report(), CancelRequest(tenant=it.tenant, task_id="a", reason="too slow"))
    assert (await it.task()).cancel == Cancel(stage=CancelStage.RECORDED, seq=2, reason="too slow")
    await it.write(it.report(cancel="delivered"))
    assert (await it.task()).cancel == Cancel(stage=CancelStage.DELIVERED, seq=2, reason="too slow")
    await it.write(it.report(status=Status.CANCELLED))
    task = await it.task()
    assert (task.status, task.cancel) == ("cancelled", Cancel(stage=CancelStage.HONOURED, seq=2, reason="too slow"))


# Replay


async def all_pages(it: Ledger, cursors: list[tuple[str, int]], **given: Any) -> tuple[list[Transition], list[int]]:
    """Read on from where each page ended until there is no more; also the sizes of the pages."""
    out: list[Transition] = []
    sizes = []
    while page := await it.reader.replay(cursors, **given):
        out += page
        sizes.append(len(page))
        reached = {transition.key: transition.seq for transition in page}
        cursors = [(key, reached.get(key, after)) for key, after in cursors]
    return out, sizes


async def test_replay_gives_pages_of_rows(it: Ledger) -> None:
    """However small the pages are, together they are every transition after each cursor, once, in order of the task."""
    await it.write(*(it.report(f"task-{i % 3}", progress=i % 100, message=str(i)) for i in range(90)))
    cursors = [(it.key("task-2"), 0), (it.key("task-0"), 25), (it.key("nobody"), 0), (it.key("task-1"), 30)]
    expected = [("task-2", seq) for seq in range(1, 31)] + [("task-0", seq) for seq in range(26, 31)]
    for limit, most in ((1, 35), (7, 5), (500, 1)):
        got, sizes = await all_pages(it, cursors, limit=limit)
        assert sorted((step.task_id, step.seq) for step in got) == sorted(expected)
        assert max(sizes) <= limit
        assert len(sizes) == most
    whole = await it.reader.replay(cursors)
    assert [(step.task_id, step.seq) for step in whole] == expected, "in the order of the cursors"
    assert [step.message for step in whole[:30]] == [str(i) for i in range(2, 90, 3)]


async def test_a_replay_page_has_a_bound_that_no_caller_can_lift(it: Ledger) -> None:
    """Asking for more rows than a page may have gets a page."""
    await it.write(*(it.report(progress=i % 100) for i in range(REPLAY_ROWS + 20)))
    page = await it.reader.replay([(it.key("a"), 0)], limit=10 * REPLAY_ROWS)
    assert [step.seq for step in page] == list(range(1, REPLAY_ROWS + 1))
    assert len((await all_pages(it, [(it.key("a"), 0)]))[0]) == REPLAY_ROWS + 20


async def test_replay_gives_pages_of_bytes(it: Ledger) -> None:
    """A page ends before its payloads are too many bytes, but always has one transition."""
    large = b'"' + b"x" * 20_000 + b'"'
    await it.write(*(it.report("large", data=large, result=large if i % 2 else None) for i in range(40)))
    await it.write(it.report("huge", data=b'"' + b"y" * (2 * REPLAY_BYTES) + b'"'), it.report("huge", progress=1))
    got, sizes = await all_pages(it, [(it.key("large"), 0)])
    assert [step.seq for step in got] == list(range(1, 41))
    assert [step.result is not None for step in got] == [False, True] * 20
    assert len(sizes) >= 40 * 1.5 * 20_000 / REPLAY_BYTES
    assert max(sizes) <= 12
    got, sizes = await all_pages(it, [(it.key("huge"), 0), (it.key("large"), 39)])
    assert [(step.task_id, step.seq) for step in got] == [("huge", 1), ("huge", 2), ("large", 40)]
    assert sizes[0] == 1


# History


async def pages(it: Ledger, *, limit: int, between: Any = None, **filters: Any) -> list[Task]:
    """All pages, joined; `between` is awaited after each."""
    out: list[Task] = []
    before: tuple[datetime, str] | None = None
    while page := await it.reader.history(it.tenant, before=before, limit=limit, **filters):
        assert len(page) <= limit
        out += page
        before = (page[-1].created_at, page[-1].key)
        if between is not None:
            await between()
    return out


async def made_at_once(dsn: str, it: Ledger) -> None:
    """Give all tasks of the tenant the same time, as those of one batch have it anyway."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("update ledger.task set created_at = '2026-01-01Z' where tenant = $1", it.tenant)
    finally:
        await connection.close()


async def test_history_is_newest_first_and_filtered(it: Ledger) -> None:
    """By owner, by status, by kind, and by all of them; of one tenant only."""
    for i in range(12):  # one commit each, so that each has a time of its own
        await it.write(it.create(f"task-{i:02}", owner=("alice", "bob")[i % 2], kind=("import", "export", None)[i % 3]))
    await it.write(*(it.report(f"task-{i:02}", status=Status.COMPLETED, result=b"1") for i in range(0, 12, 4)))
    await it.write(it.report("task-01"), it.report("task-02", data=b"[2]"))
    await it.write(Create(tenant="somebody-else", task_id="x", idem=f"{1:032x}", digest=f"{1:032x}", owner="alice"))

    async def names(**filters: Any) -> list[str]:
        return [task.task_id for task in await pages(it, limit=5, **filters)]

    everything = [f"task-{i:02}" for i in reversed(range(12))]
    assert await names() == everything
    assert await names(owner="alice") == everything[1::2]
    assert await names(kind="export") == [f"task-{i:02}" for i in (10, 7, 4, 1)]
    assert await names(statuses=[Status.COMPLETED]) == ["task-08", "task-04", "task-00"]
    assert await names(statuses=[Status.COMPLETED, Status.RUNNING]) == [
        "task-08", "task-04", "task-02", "task-01", "task-00",
    ]  # fmt: skip
    assert await names(owner="alice", kind="export", statuses=[Status.PENDING]) == ["task-10"]
    assert await names(owner="nobody") == await names(statuses=[]) == await names(statuses=[Status.LOST]) == []
    payloads = {task.task_id: (task.data, task.result) for task in await it.reader.history(it.tenant)}
    assert payloads["task-08"] == (None, b"1")
    assert payloads["task-02"] == (b"[2]", None)
    assert {task.tenant for task in await it.reader.history(it.tenant)} == {it.tenant}


@pytest.mark.parametrize("limit", [1, 7, 50])
async def test_history_pages_of_tasks_with_equal_times_have_all_of_them_once(
    it: Ledger, shared_database: str, limit: int
) -> None:
    """Tasks made in the same instant are told apart by their key, so a page can end between them."""
    await it.write(*(it.create(f"task-{i}") for i in range(40)))
    await made_at_once(shared_database, it)
    got = await pages(it, limit=limit)
    assert len({task.created_at for task in got}) == 1
    assert [task.key for task in got] == sorted((it.key(f"task-{i}") for i in range(40)), reverse=True)


async def test_new_tasks_do_not_shift_the_pages_of_a_history(it: Ledger, shared_database: str) -> None:
    """While one pages, others create: each task that was there comes once, no new one comes in between."""
    await it.write(*(it.create(f"old-{i}", owner="alice") for i in range(20)))
    await made_at_once(shared_database, it)
    await it.write(*(it.create(f"young-{i}", owner="alice") for i in range(17)))
    created = 0

    async def more() -> None:
        nonlocal created
        await it.write(*(it.create(f"new-{created + i}", owner="alice") for i in range(5)))
        await it.write(it.report(f"old-{created % 20}", progress=1), it.report(f"young-{created % 17}"))
        created += 5

    got = [task.task_id for task in await pages(it, limit=4, between=more, owner="alice")]
    assert created >= 40
    assert sorted(got) == sorted([f"old-{i}" for i in range(20)] + [f"young-{i}" for i in range(17)])
    assert {name.split("-")[0] for name in got[:17]} == {"young"}
    assert len(await pages(it, limit=50)) == 37 + created


async def test_a_history_page_has_a_bound_that_no_caller_can_lift(it: Ledger) -> None:
    """Asking for more tasks than a page may have gets a page; a cursor before everything gets none."""
    await it.write(*(it.create(f"task-{i}") for i in range(HISTORY_ROWS + 5)))
    page = await it.reader.history(it.tenant, limit=10 * HISTORY_ROWS)
    assert len(page) == HISTORY_ROWS
    long_ago = page[-1].created_at - timedelta(days=1)
    assert await it.reader.history(it.tenant, before=(long_ago, page[-1].key)) == []


# Trouble


async def test_a_read_that_cannot_be_answered_is_unavailable(shared_database: str) -> None:
    """Never unknown, as a read has no outcome; and the next one after the outage succeeds."""
    async with Proxy(address_of(shared_database)) as proxy:
        async with ledger(through(shared_database, proxy.port), "trouble", **QUICK) as it:
            await it.write(it.report())
            epoch = await it.reader.epoch()
            for link in (Link.RESET, Link.MUTE, Link.STALL):
                proxy.set(link)
                with pytest.raises(Unavailable) as raised:
                    await it.reader.task("trouble", "a")
                assert raised.value.retry_after_ms
                proxy.set(Link.PASS)
                async with asyncio.timeout(WAIT_SECONDS):
                    while True:
                        try:
                            assert await it.reader.epoch() == epoch
                            break
                        except Unavailable as error:  # the pause after a failed attempt to connect
                            await asyncio.sleep((error.retry_after_ms or 10) / 1000)
