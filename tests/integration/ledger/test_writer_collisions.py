"""Progress of tasks that others have gone on with: it is refused by the place, read once, and written behind them."""

from __future__ import annotations

import asyncio
from functools import partial

from ledger.batch import Answer
from ledger.model import Receipt
from tests.support.ledgers import appends_waiting, ledger, messages, place_held, report, sequences
from tests.support.node import connected
from tests.support.waiting import eventually

NAMES = [f"task-{place}" for place in range(60)]


def places(answers: list[Answer]) -> list[tuple[int, bool]]:
    """Where the reports are, and whether they were there before."""
    receipts = [answer for answer in answers if isinstance(answer, Receipt)]
    assert len(receipts) == len(answers), answers
    return [(receipt.seq, receipt.repeat) for receipt in receipts]


async def test_tasks_that_have_all_moved_on_cost_one_read(database: str) -> None:
    """A node to which the workers of another one come back, or that has heard of nothing for a while."""
    async with ledger(database, write_pool_max=1) as one, ledger(database) as two:
        for it, n in ((one, 1), (one, 2), (two, 3)):
            await asyncio.gather(*(it.receipt(report(name, attempt=1, n=n)) for name in NAMES))
        before = one.lane.statements
        answers = [one.writer.submit(report(name, attempt=1, n=n)) for name in NAMES for n in (4, 5)]
        assert places(await asyncio.gather(*answers)) == [(4, False), (5, False)] * len(NAMES)
        assert one.lane.statements - before == 3, "one that is refused, one that reads all, one that writes"
    assert set(map(len, (await sequences(database)).values())) == {5}


async def test_a_memory_that_was_wrong_is_not_believed_again(database: str) -> None:
    """Repeats of what another node has written: only the first of them is tried in vain."""
    async with ledger(database, write_pool_max=1) as one, ledger(database) as two:
        await one.receipt(report(attempt=1, n=1))
        for n in (2, 3, 4):
            await two.receipt(report(attempt=1, n=n))
        costs = []
        for n in (2, 3, 4):
            before = one.lane.statements
            assert places([await one.writer.submit(report(attempt=1, n=n))]) == [(n, True)]
            costs.append(one.lane.statements - before)
        assert costs == [2, 1, 1]


async def test_a_task_that_others_append_to_all_the_time_is_set_apart(database: str) -> None:
    """Refused again after the read: the other tasks of the batch are written, and its reports keep their order."""
    async with ledger(database, write_pool_max=1) as it:
        others = NAMES[:9]
        await asyncio.gather(*(it.receipt(report(name)) for name in ("a", *others)))
        async with place_held(database, "a") as first, place_held(database, "a", ahead=2) as second:
            said = [it.writer.submit(report(message="early"))]
            said += [it.writer.submit(report(name, message=name)) for name in others]
            said += [it.writer.submit(report(message="late"))]
            for holding in (first, second):
                waited_for = partial(holds_up, database, holding.get_server_pid())
                await eventually(waited_for, what="the append waits for the other's")
                await holding.execute("commit")
            assert places(await asyncio.gather(*said)) == [(4, False), *[(2, False)] * 9, (5, False)]
    assert (await sequences(database))["t/a"] == [1, 2, 3, 4, 5]
    assert set((await messages(database)).values()) == {1}


async def holds_up(dsn: str, pid: int) -> bool:
    """Whether an append waits for this server process."""
    async with connected(dsn) as connection:
        blocking = [
            await connection.fetchval("select pg_blocking_pids($1)", each) for each in await appends_waiting(dsn)
        ]
    return [pid] in blocking
