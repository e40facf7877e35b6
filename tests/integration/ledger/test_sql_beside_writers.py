"""What is said in SQL beside the gateways' writers: an open transaction holds up its own tasks, and nobody else's."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from ledger.errors import Busy
from ledger.model import Receipt, task_key
from tests.support.gateway import Gateway, in_process
from tests.support.ledgers import ledger, report, sequences
from tests.support.node import TENANT, connected
from tests.support.waiting import eventually

Connection = Any  # asyncpg's own type is generic for type checkers only
OTHERS = [f"other-{place}" for place in range(40)]
SHORT: dict[str, Any] = {"append_lock_timeout_ms": 50, "write_pool_max": 1}


async def said(connection: Connection, call: str) -> Any:
    row = await connection.fetchrow(f"select * from ledger.{call}")
    assert row["ok"], row["message"]
    return row


@pytest.mark.parametrize(
    "call", ["report('a', progress => 5)", "report('a', 'completed')", "create('new')", "report('new')"]
)
async def test_an_open_transaction_holds_up_its_own_task_only(database: str, call: str) -> None:
    """The others of the shard are written while it is open, and what is for its task follows behind it."""
    async with ledger(database, **SHORT) as it, connected(database) as connection:
        await connection.execute(f"select ledger.bind(current_user, '{TENANT}')")
        await asyncio.gather(*(it.receipt(report(name, attempt=1, n=1)) for name in ("a", *OTHERS)))
        task = "a" if "'a'" in call else "new"
        transaction = connection.transaction()
        await transaction.start()
        await said(connection, call)
        n = 2 if task == "a" else 1
        held = [it.writer.submit(report(task, attempt=1, n=n + place, progress=50)) for place in (0, 1)]
        for n in (2, 3):
            answers = await asyncio.gather(*(it.receipt(report(name, attempt=1, n=n)) for name in OTHERS))
            assert {answer.seq for answer in answers} == {n}
        assert not any(answer.done() for answer in held), "its transaction is open"
        later = it.writer.submit(report(task, attempt=1, n=held_n(task), progress=60))
        await transaction.commit()
        answers_ = [*(await asyncio.gather(*held)), await later]
    if "completed" in call:
        assert [getattr(answer, "code", "") for answer in answers_] == ["task_ended"] * 3
    else:
        first = 3 if task == "a" else 2
        assert [answer.seq for answer in answers_ if isinstance(answer, Receipt)] == [first, first + 1, first + 2]
    await sequences(database)


def held_n(task: str) -> int:
    """The third number that is reported while the transaction is open."""
    return 4 if task == "a" else 3


async def test_a_transaction_with_more_tasks_than_it_can_lock(database: str) -> None:
    """Those beyond the bound are found by halving."""
    async with ledger(database, **SHORT) as it, connected(database) as connection:
        await connection.execute(f"select ledger.bind(current_user, '{TENANT}')")
        await asyncio.gather(*(it.receipt(report(name, attempt=1, n=1)) for name in OTHERS[:8]))
        async with connection.transaction():
            await connection.execute("select ledger.report('bulk-' || i) from generate_series(1, 300) i")
            await said(connection, f"report('{OTHERS[0]}')")
            locks = await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'")
            assert locks == 256
            answers = [it.writer.submit(report(name, attempt=1, n=2)) for name in OTHERS[:8]]
            assert {answer.seq for answer in await asyncio.gather(*map(only_receipt, answers[1:]))} == {2}
            assert not answers[0].done()
        assert (await only_receipt(answers[0])).seq == 3
    await sequences(database)


async def only_receipt(answer: asyncio.Future[Any]) -> Receipt:
    receipt = await answer
    assert isinstance(receipt, Receipt), receipt
    return receipt


async def test_who_waits_too_long_is_told_to_come_again(database: str) -> None:
    """In the time that any report waits, and those behind it in their order; nothing of it is written."""
    async with ledger(database, queue_wait_seconds=0.3, **SHORT) as it, connected(database) as connection:
        await connection.execute(f"select ledger.bind(current_user, '{TENANT}')")
        await it.receipt(report("a", attempt=1, n=1))
        async with connection.transaction():
            await said(connection, "report('a')")
            outcomes = await asyncio.gather(
                *(it.writer.submit(report("a", attempt=1, n=n)) for n in (2, 3)), return_exceptions=True
            )
        assert all(isinstance(outcome, Busy) for outcome in outcomes), outcomes
        await eventually(lambda: it.writer.waiting == 0)
        assert (await it.receipt(report("a", attempt=1, n=2))).seq == 3
    await sequences(database)


async def test_a_rollback_leaves_nothing(database: str) -> None:
    """Neither a transition nor a hole, and a report that has waited for it takes its place."""
    async with ledger(database, **SHORT) as it, connected(database) as connection:
        await connection.execute(f"select ledger.bind(current_user, '{TENANT}')")
        transaction = connection.transaction()
        await transaction.start()
        assert (await said(connection, "report('a', 'failed')"))["seq"] == 1
        answer = it.writer.submit(report("a", attempt=1, n=1))
        await transaction.rollback()
        assert (await only_receipt(answer)).seq == 1


async def test_sql_gateway_and_attached_table_on_the_same_tasks(database: str, seed: int) -> None:
    """Everything at once: the ledger has no hole, and two subscribers saw each transition, once and in order."""
    dice = random.Random(seed)
    tasks = [f"task-{place}" for place in range(6)]
    async with in_process(database, reread_seconds=60.0) as gateway, connected(database) as admin:
        await admin.execute(
            "select ledger.bind(current_user, 'default');"
            " create table job (task_id text primary key, status text, pct int);"
            """ select ledger.attach('job', id => 'task_id', status => 'status', progress => 'pct',
                map => '{"on": "running", "done": "completed"}')"""
        )
        tenant = await tenant_of(gateway, admin)
        await admin.execute(
            f"select ledger.bind(current_user, '{tenant}'); update ledger.attachment set tenant = '{tenant}';"
        )
        await admin.execute("insert into job select 'task-' || i, 'on', 0 from generate_series(0, 5) i")
        async with gateway.client() as first, gateway.client() as second, gateway.client() as worker:
            for peer in (first, second):
                wanted = [{"task_id": task, "after": {"epoch": peer.epoch, "seq": 0}} for task in tasks]
                await peer.send(type="subscribe", id=1, tasks=wanted, wait_ms=60_000)
            seen = [asyncio.create_task(collect(peer, len(tasks))) for peer in (first, second)]

            async def by_gateway(times: int) -> None:
                for _ in range(times):
                    await worker.ask(type="report", task_id=dice.choice(tasks), progress=dice.randrange(100))

            async def in_sql(times: int) -> None:
                async with connected(database) as connection:
                    for _ in range(times):
                        async with connection.transaction():
                            for task in sorted(dice.sample(tasks, dice.randrange(1, 3))):
                                await said(connection, f"report('{task}', progress => {dice.randrange(100)})")

            async def attached(times: int) -> None:
                async with connected(database) as connection:
                    for _ in range(times):
                        some = dice.sample(tasks, 2)
                        await connection.execute("update job set pct = pct + 1 where task_id = any ($1)", some)

            await asyncio.gather(by_gateway(80), in_sql(40), in_sql(40), attached(40), attached(40))
            await admin.execute("update job set status = 'done'")
            streams = await asyncio.wait_for(asyncio.gather(*seen), 60)
        ledger_ = await sequences(database)
    for task in tasks:
        for stream in streams:
            assert stream[task] == ledger_[f"{tenant}/{task}"], task
    assert sum(map(len, ledger_.values())) > 250


async def tenant_of(gateway: Gateway, admin: Connection) -> str:
    """Whose tasks a gateway without authentication keeps."""
    async with gateway.client() as peer:
        await peer.ask(type="report", task_id="first")
    tenant = await admin.fetchval("select tenant from ledger.task where key is not null and task_id = 'first'")
    assert task_key(tenant, "first")
    return str(tenant)


async def collect(peer: Any, ends: int) -> dict[str, list[int]]:
    """The sequences of all tasks until all have ended."""
    seen: dict[str, list[int]] = {}
    while ends:
        frame = await peer.receive()
        assert frame["type"] not in {"notice", "bye"}, frame
        if frame["type"] == "transition":
            seen.setdefault(frame["task_id"], []).append(frame["seq"])
            ends -= frame["status"] == "completed"
    return seen
