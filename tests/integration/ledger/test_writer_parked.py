"""Requests that step aside for somebody's open transaction, when something else goes wrong too."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop

from ledger.errors import LedgerError
from ledger.model import Receipt
from tests.support.ledgers import appends_waiting, ledger, messages, place_held, report, sequences
from tests.support.node import TENANT, connected
from tests.support.waiting import eventually

Connection = Any  # asyncpg's own type is generic for type checkers only
SHORT: dict[str, Any] = {"append_lock_timeout_ms": 50, "queue_wait_seconds": 10.0, "write_pool_max": 1}


async def test_what_has_stepped_aside_is_written_once_when_the_link_breaks(database: str) -> None:
    """The statement of the others is lost just then: nothing is tried or answered twice."""
    async with ledger(database, append_lock_timeout_ms=300, write_pool_max=1) as it, connected(database) as connection:
        await asyncio.gather(*(it.receipt(report(name, attempt=1, n=1)) for name in "ab"))
        await connection.execute(f"select ledger.bind(current_user, '{TENANT}')")
        told: list[object] = []
        async with connection.transaction(), place_held(database, "b"):
            await connection.execute("select ledger.report('a')")
            it.writer.post(report("a", message="aside"), told.append)
            it.writer.post(report("b", message="other"), told.append)
            await eventually(lambda: len(it.writer._shards[0]._parked) == 1)
            (waiting,) = await eventually(lambda: appends_waiting(database))
            await connection.execute("select pg_terminate_backend($1)", waiting)
            await eventually(lambda: it.lane.lost == 1)
        await it.writer.flush(10)
        assert it.writer.waiting == 0
    assert await messages(database) == {"aside": 1, "other": 1}
    assert len(told) == 2
    assert all(isinstance(answer, Receipt) for answer in told), told
    await sequences(database)


async def test_a_table_that_is_locked_costs_nobody_more_than_the_wait(database: str) -> None:
    """Whoever locks the whole table holds up all: they are answered in their time, not one after the other."""
    async with (
        ledger(database, append_lock_timeout_ms=200, queue_wait_seconds=0.5, write_pool_max=1) as it,
        connected(database) as connection,
    ):
        names = [f"task-{place}" for place in range(200)]
        await asyncio.gather(*(it.receipt(report(name, attempt=1, n=1)) for name in names))
        async with connection.transaction():
            await connection.execute("lock table ledger.transition in share mode")
            before = it.lane.statements
            answers = [it.writer.submit(report(name, attempt=1, n=2)) for name in names]
            outcomes = await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 30)
            assert it.lane.statements - before < 50
        assert all(isinstance(outcome, LedgerError) for outcome in outcomes), outcomes
        await eventually(lambda: it.writer.waiting == 0)
        assert (await it.receipt(report(names[0], attempt=1, n=2))).seq == 2


def test_a_transaction_is_looked_at_again_and_again(database: str) -> None:
    """On the product's event loop, whose timers are early by a part of a millisecond where other things wake it."""

    async def scenario() -> Receipt:
        async with ledger(database, **SHORT) as it, connected(database) as connection:
            await it.receipt(report(attempt=1, n=1))
            await connection.execute(f"select ledger.bind(current_user, '{TENANT}')")
            over = asyncio.Event()
            keep_awake(over)
            async with connection.transaction():
                await connection.execute("select ledger.report('a')")
                answer = it.writer.submit(report(attempt=1, n=2))
                await eventually(lambda: it.writer.waiting == len(it.writer._shards[0]._parked) == 1)
                before = it.lane.statements
                await eventually(lambda: it.lane.statements == before + 5)
            receipt = await answer
            over.set()
            assert isinstance(receipt, Receipt)
            return receipt

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()).seq == 3


def keep_awake(over: asyncio.Event) -> None:
    """The loop has always something to do."""
    if not over.is_set():
        asyncio.get_running_loop().call_soon(keep_awake, over)
