"""The writer at the moment when the ledger's history becomes another one: nothing of the old one leads to a commit.

No hub and no re-read here: what the writer does by itself, in the first statement after the change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest

from ledger import epoch
from ledger.epoch import History
from ledger.model import Receipt, Rejection, Report, Transition, fingerprint, task_key
from ledger.pool import Pools
from ledger.reader import Reader
from ledger.writer import Writer
from tests.support.backup import back_up, restore
from tests.support.limits import generous
from tests.support.postgres import Cluster, address_of, drop_database, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import WAIT_SECONDS, eventually

KEY = task_key("t", "a")
SETTINGS = generous(write_pool_max=1, queue_limit=100, batch_limit=10)


class Heard:
    """A listener that keeps the order of what it is told; a change of the history is told as sequence 0."""

    def __init__(self) -> None:
        self.order: list[int] = []

    def watches(self, key: str) -> bool:
        return True

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[str, int]]) -> None:
        self.order += [transition.seq for transition in transitions]

    def reached(self, key: str, seq: int) -> None:
        """It does not matter here."""

    def begun_anew(self) -> None:
        self.order.append(0)


class Node:
    """What a gateway has of the ledger."""

    def __init__(self, pools: Pools) -> None:
        self.heard = Heard()
        self.history = History()
        self.history.listen(self.heard.begun_anew)
        self.reader = Reader(pools.read, lease_ms=60_000, history=self.history)
        self.writer = Writer(pools.write, self.heard, SETTINGS, self.history)

    async def report(self, n: int) -> Receipt | Rejection:
        digest = fingerprint("n", n)
        return await self.writer.submit(
            Report(tenant="t", task_id="a", attempt=1, n=n, digest=digest, message=f"said as {n}")
        )

    async def accepted(self, n: int) -> int:
        answer = await self.report(n)
        assert isinstance(answer, Receipt), answer
        return answer.seq


@asynccontextmanager
async def node(dsn: str) -> AsyncIterator[Node]:
    pools = await Pools.open(SETTINGS, dsn)
    it = Node(pools)
    it.writer.start()
    try:
        yield it
    finally:
        await it.writer.close(2.0)
        await pools.close()


async def messages(dsn: str) -> list[str]:
    """What the ledger holds of the task."""
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        rows = await connection.fetch(
            "select message from ledger.transition where key = $1::text::uuid order by seq", KEY
        )
    finally:
        await connection.close()
    return [row["message"] for row in rows]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_new_history_is_told_before_anything_of_it(database: str, cluster: Cluster, declared: bool) -> None:
    """Also where nobody has declared it: what the writer remembers proves the loss. And what becomes of the numbers."""
    async with node(database) as it:
        assert [await it.accepted(n) for n in (1, 2, 3)] == [1, 2, 3]
        backup = await back_up(cluster, database)
        assert [await it.accepted(n) for n in (4, 5)] == [4, 5]
        before = it.history.epoch
        if declared:
            await epoch.begin(SETTINGS, backup)
        lost = await restore(cluster, database, backup)
        assert await it.accepted(6) == 4, "the worker goes on from where it is"
        assert it.heard.order == [1, 2, 3, 4, 5, 0, 4]
        assert it.history.epoch == (await epoch.show(SETTINGS, database)).name != before
        kept = await it.report(2)
        assert isinstance(kept, Receipt)
        assert (kept.seq, kept.repeat) == (2, True)
        gone = await it.report(5)
        assert isinstance(gone, Rejection)
        assert gone.code == "superseded"
    assert await messages(database) == ["said as 1", "said as 2", "said as 3", "said as 6"]
    await drop_database(cluster, lost)


async def test_a_decision_of_the_epoch_before_is_made_again(database: str) -> None:
    """The statement compares the epoch as well as the sequence, so a memory that happens to fit leads to nothing."""
    async with node(database) as it:
        assert [await it.accepted(n) for n in (1, 2)] == [1, 2]
        begun = await epoch.begin(SETTINGS, database)
        assert begun.before == it.history.epoch
        assert await it.accepted(3) == 3
        assert it.history.epoch == begun.name
    assert it.heard.order == [1, 2, 0, 3]
    assert await messages(database) == ["said as 1", "said as 2", "said as 3"]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_memory_that_fits_by_chance_leads_to_nothing(database: str, cluster: Cluster, declared: bool) -> None:
    """In the new history the tasks have come as far as the writer remembers them, but by another way.

    One after the other, and two in a batch of which one is progress and one is not. Where nobody has declared the new
    history, it is another copy of the ledger all the same.
    """
    names = ("a", "b", "c", "d")
    async with node(database) as it:
        for name in names:
            await it.writer.submit(Report(tenant="t", task_id=name))
        backup = await back_up(cluster, database)
        if declared:
            await epoch.begin(SETTINGS, backup)
        async with node(backup) as other:
            for name in names:
                await other.writer.submit(Report(tenant="t", task_id=name, stage="of the new history"))
        for name in names:
            await it.writer.submit(Report(tenant="t", task_id=name, stage="of the old history"))
        lost = await restore(cluster, database, backup)
        together = [
            it.writer.submit(Report(tenant="t", task_id=name, progress=50.0, lease_ms=lease_ms))
            for name, lease_ms in (("a", None), ("b", 10_000))
        ]
        answers = [
            *await asyncio.gather(*together),
            *[await it.writer.submit(Report(tenant="t", task_id=name, progress=50.0)) for name in ("c", "d")],
        ]
        assert [answer.seq for answer in answers if isinstance(answer, Receipt)] == [3] * 4
        tasks = await it.reader.tasks([task_key("t", name) for name in names])
        assert [(task.stage, task.progress) for task in tasks] == [("of the new history", 50.0)] * 4
    await drop_database(cluster, lost)


async def test_tables_that_were_filled_anew_are_another_copy(database: str) -> None:
    """Restored in their place, under the gateways, and nobody has declared it: what was lost leaves no hole."""
    async with node(database) as it:
        for _ in range(5):
            await it.writer.submit(Report(tenant="t", task_id="a"))
        before = it.history.epoch
        connection = await asyncpg.connect(database, timeout=30)
        async with connection.transaction():
            await connection.execute("create temporary table kept as select * from ledger.transition where seq <= 2")
            await connection.execute("truncate ledger.transition")
            await connection.execute("insert into ledger.transition select * from kept")
        await connection.close()
        receipt = await it.writer.submit(Report(tenant="t", task_id="a"))
        assert isinstance(receipt, Receipt)
        assert receipt.seq == 3
        assert it.history.epoch != before
    assert len(await messages(database)) == 3


async def test_a_batch_in_which_the_history_changes_is_answered_whole(database: str) -> None:
    """One report has to be read for, another rests on memory: the read shows the new epoch."""
    async with node(database) as it:
        for name in ("a", "b"):
            await it.writer.submit(Report(tenant="t", task_id=name))
        await epoch.begin(SETTINGS, database)
        keyed = Report(tenant="t", task_id="a", idem=fingerprint("key", 1), digest=fingerprint("digest", 1))
        async with asyncio.timeout(WAIT_SECONDS):
            answers = await asyncio.gather(it.writer.submit(keyed), it.writer.submit(Report(tenant="t", task_id="b")))
        assert [answer.seq for answer in answers if isinstance(answer, Receipt)] == [2, 2]


async def test_a_read_tells_of_a_new_history_before_it_answers(database: str) -> None:
    """Replay, snapshot, page of tasks and heads alike; heads also when there is no such task."""
    async with node(database) as it:
        await it.accepted(1)
        reads: list[Callable[[], Awaitable[object]]] = [
            partial(it.reader.heads, ["0" * 32]),
            partial(it.reader.replay, [(KEY, 0)]),
            partial(it.reader.tasks, [KEY]),
            partial(it.reader.history, "t"),
        ]
        for number, read in enumerate(reads, start=1):
            begun = await epoch.begin(SETTINGS, database)
            await read()
            assert it.history.epoch == begun.name
            assert it.heard.order == [1, *[0] * number]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_lost_answer_is_looked_for_in_the_new_history(database: str, cluster: Cluster, kept: bool) -> None:
    """A report that cannot be told from another is written in the old history, and its answer is lost.

    In the new one it is there once: found where that has kept it, else written.
    """
    unnumbered = Report(tenant="t", task_id="a", message="but for its mark like any other")
    async with Proxy(address_of(database)) as proxy, node(through(database, proxy.port)) as it:
        await it.accepted(1)
        backup = await back_up(cluster, database)
        await it.accepted(2)
        proxy.set(Link.MUTE)
        answer = it.writer.submit(unnumbered)
        await eventually(lambda: _has(database, 3), what="it is committed")
        proxy.set(Link.RESET)  # what was on its way is lost
        if kept:
            await epoch.begin(SETTINGS, database)
        else:
            await epoch.begin(SETTINGS, backup)
            await drop_database(cluster, await restore(cluster, database, backup))
        proxy.set(Link.PASS)
        receipt = await answer
        assert isinstance(receipt, Receipt), receipt
        assert (receipt.seq, receipt.repeat) == (3 if kept else 2, False)
    of_two = ["said as 2"] if kept else []
    assert await messages(database) == ["said as 1", *of_two, unnumbered.message]
    if kept:
        await drop_database(cluster, backup)


async def _has(dsn: str, count: int) -> bool:
    return len(await messages(dsn)) == count
