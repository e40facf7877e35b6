"""History pages: order, filters, bounds in tasks and bytes, and that pages join without a hole. No HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ledger.machine import Status
from ledger.model import Create, Task
from ledger.reader import HISTORY_BYTES, HISTORY_ROWS
from tests.support.reading import Ledger, ledger


@pytest.fixture
async def it(shared_database: str, request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    async with ledger(shared_database, request.node.name) as running:
        yield running


async def pages(it: Ledger, *, limit: int, between: Any = None, **filters: Any) -> list[Task]:
    """All pages, joined; `between` is awaited after each."""
    out: list[Task] = []
    before: tuple[datetime, str] | None = None
    more = True
    while more:
        page, more = await it.reader.history(it.tenant, before=before, limit=limit, **filters)
        assert len(page) <= limit
        assert page or out or not more
        out += page
        if page:
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
    payloads = {task.task_id: (task.data, task.result) for task in (await it.reader.history(it.tenant)).tasks}
    assert payloads["task-08"] == (None, b"1")
    assert payloads["task-02"] == (b"[2]", None)
    assert {task.tenant for task in (await it.reader.history(it.tenant)).tasks} == {it.tenant}


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
    page, more = await it.reader.history(it.tenant, limit=10 * HISTORY_ROWS)
    assert more
    assert len(page) == HISTORY_ROWS
    long_ago = page[-1].created_at - timedelta(days=1)
    assert await it.reader.history(it.tenant, before=(long_ago, page[-1].key)) == ([], False)


@pytest.mark.parametrize("limit", [30, 200])
async def test_history_gives_pages_of_bytes(it: Ledger, shared_database: str, limit: int) -> None:
    """A page ends before its payloads are too many bytes, also between tasks of one time, but always has one task."""
    part = b'"' + b"x" * (HISTORY_BYTES // 16) + b'"'
    huge = b'"' + b"y" * (2 * HISTORY_BYTES) + b'"'
    await it.write(*(it.create(f"plain-{i}", data=part) for i in range(20)))
    await it.write(*(it.create(f"ended-{i}") for i in range(20)))
    await it.write(*(it.report(f"ended-{i}", status=Status.COMPLETED, result=part, error=part) for i in range(20)))
    await it.write(*(it.create(f"huge-{i}", data=huge) for i in range(2)), it.create("empty"))
    await made_at_once(shared_database, it)
    sizes: list[int] = []
    got: list[Task] = []
    before, more = None, True
    while more:
        page, more = await it.reader.history(it.tenant, before=before, limit=limit)
        sizes.append(sum(len(payload or b"") for task in page for payload in (task.data, task.result, task.error)))
        assert len(page) == 1 or sizes[-1] <= HISTORY_BYTES
        got += page
        before = (page[-1].created_at, page[-1].key)
    names = ["empty", "huge-0", "huge-1", *(f"{name}-{i}" for name in ("plain", "ended") for i in range(20))]
    assert [task.key for task in got] == sorted((it.key(name) for name in names), reverse=True)
    assert {len(task.result or b"") for task in got if task.task_id.startswith("ended")} == {len(part)}
    assert sum(sizes) == 60 * len(part) + 2 * len(huge)
    assert len(sizes) <= 10, "pages are as full as they may be"


async def test_a_history_page_says_whether_there_may_be_more(it: Ledger) -> None:
    """A full page, by tasks or by bytes, has a next one; a page that has come to the end has none."""
    await it.write(*(it.create(f"task-{i}", data=b'"' + b"x" * 100_000 + b'"') for i in range(3)))
    page, more = await it.reader.history(it.tenant, limit=3)
    assert (len(page), more) == (2, True), "three would be too many bytes"
    page, more = await it.reader.history(it.tenant, before=(page[-1].created_at, page[-1].key), limit=3)
    assert (len(page), more) == (1, False)
    assert await it.reader.history("nobody") == ([], False)
