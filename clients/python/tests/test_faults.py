"""A worker through broken connections, killed gateways and a frozen database: each report exactly once, in order."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

import ledgerwire
from ledgerwire import Change, Cursor, Timing, Transition
from tests.support.gateway import Gateway, GatewayProcess, in_process
from tests.support.postgres import Cluster, own_server, temporary_database
from tests.support.proxy import Link, Proxy
from tests.support.waiting import WAIT_SECONDS, eventually

from .conftest import History

QUICK = Timing(reply_seconds=0.5, reconnect_ceiling_seconds=0.5)


def through(proxy: Proxy) -> str:
    return f"ws://127.0.0.1:{proxy.port}/v1/ws"


async def watch_from_the_beginning(url: str, task_id: str, epoch: str) -> list[Change]:
    """What a watcher sees of all the task's history, also when the task is not there yet."""
    after = Cursor(epoch, 0)
    return [change async for change in ledgerwire.watch(task_id, url=url, after=after, wait_seconds=60)]


def assert_each_once(changes: list[Change], last: int) -> None:
    assert [change.seq for change in changes] == list(range(1, last + 1))
    assert all(isinstance(change, Transition) for change in changes)


async def test_reports_survive_gateways_that_are_killed(
    process: GatewayProcess, history: History, dice: random.Random
) -> None:
    """SIGKILL with reports in flight, again and again: the ledger and the watchers have each report once."""
    tasks, posts, kills = 4, 150, 4
    names = [f"t{number}" for number in range(tasks)]
    async with process.client() as peer:
        epoch = peer.epoch
    seen = [asyncio.create_task(watch_from_the_beginning(process.ws, name, epoch)) for name in names]
    reached = asyncio.Condition()
    progressed = 0

    async with ledgerwire.Worker(process.ws, dice=dice) as worker:

        async def work(name: str) -> None:
            nonlocal progressed
            async with worker.task(name) as task:
                for n in range(posts):
                    if n % 10 == 9:
                        await task.progress(n / 2, message=str(n), timeout_seconds=60)
                        async with reached:
                            progressed += 1
                            reached.notify_all()
                    else:
                        task.post(n / 2, message=str(n))

        async def kill() -> int:
            interrupted = 0
            for number in range(kills):
                # A moment drawn by chance, counted in acknowledged reports: never after the last of them.
                moment = dice.randint(1, tasks * posts // 10 // kills) + number * (tasks * posts // 10 // kills) - 1
                async with reached:
                    await reached.wait_for(lambda moment=moment: progressed >= moment)  # type: ignore[misc] # bound now
                interrupted += worker.queued > 0
                await process.stop(signal.SIGKILL)
                await process.start()
            return interrupted

        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            killing = group.create_task(kill())
            for name in names:
                group.create_task(work(name))
    assert killing.result() >= 1, "no kill met a report in flight: this run has shown nothing"
    for name, watched in zip(names, seen, strict=True):
        transitions = await history(process, name)
        assert [each["message"] for each in transitions] == [None, *map(str, range(posts)), str(posts - 1)]
        assert transitions[-1]["status"] == "completed"
        async with asyncio.timeout(WAIT_SECONDS):
            assert_each_once(await watched, posts + 2)


async def test_a_gateway_that_drains_is_left_and_come_back_to(process: GatewayProcess, history: History) -> None:
    """`bye` with `retry` is obeyed; the reports of the meantime arrive."""
    async with ledgerwire.Worker(process.ws) as worker, worker.task("t") as task:
        await task.progress(1)
        await process.stop(signal.SIGTERM)
        await eventually(lambda: not worker.connected)
        task.post(2)
        with pytest.raises(ledgerwire.DeliveryTimeout) as timeout:
            await task.progress(3, timeout_seconds=0.1)
        assert timeout.value.queued
        await process.start()
        await task.progress(4, timeout_seconds=60)
    assert [each["progress"] for each in await history(process, "t")] == [None, 1, 2, 3, 4, 4]


async def test_an_answer_that_got_lost_is_asked_for_again_by_the_same_number(
    gateway: Gateway, proxy: Proxy, history: History
) -> None:
    """The report had arrived; saying it again has no second effect."""
    async with ledgerwire.Worker(through(proxy), timing=QUICK) as worker, worker.task("t") as task:
        proxy.set(Link.MUTE)
        with pytest.raises(ledgerwire.DeliveryTimeout):
            await task.progress(1, timeout_seconds=0.2)

        async def arrived() -> bool:
            return len(await history(gateway, "t")) == 2

        await eventually(arrived)
        proxy.set(Link.RESET)
        proxy.set(Link.PASS)
        assert (await task.progress(2)).seq == 3
    assert [each["progress"] for each in await history(gateway, "t")] == [None, 1, 2, 2]


async def test_a_link_that_breaks_again_and_again_loses_and_doubles_nothing(
    gateway: Gateway, proxy: Proxy, history: History, dice: random.Random
) -> None:
    """Resets, one-way links and black holes by turns, each at a moment drawn by chance."""
    posts = 200
    worker = ledgerwire.Worker(through(proxy), timing=QUICK, dice=dice, queue_reports=20)
    async with worker, worker.task("t") as task:
        broken = 0
        for n in range(posts):
            if dice.random() < 0.05:
                proxy.set(dice.choice([Link.RESET, Link.MUTE, Link.STALL]))
                broken += 1
                with pytest.raises(ledgerwire.DeliveryTimeout) as timeout:
                    await task.progress(n / 2, timeout_seconds=dice.uniform(0.0, 1.0))
                proxy.set(Link.PASS)
                if timeout.value.queued:
                    continue
            await task.progress(n / 2, timeout_seconds=30)
    assert broken >= 3
    assert [each["progress"] for each in (await history(gateway, "t"))[1:-1]] == [n / 2 for n in range(posts)]


async def test_a_full_queue_refuses_posts_and_makes_progress_wait(
    gateway: Gateway, proxy: Proxy, history: History
) -> None:
    """What was not taken is not sent later."""
    worker = ledgerwire.Worker(through(proxy), timing=QUICK, queue_reports=3)
    async with worker, worker.task("t") as task:
        proxy.set(Link.STALL)
        for n in range(3):
            task.post(n)
        with pytest.raises(ledgerwire.QueueFull):
            task.post(50)
        with pytest.raises(ledgerwire.DeliveryTimeout) as timeout:
            await task.progress(51, timeout_seconds=0.1)
        assert not timeout.value.queued
        waiting = asyncio.create_task(task.progress(3))
        proxy.set(Link.PASS)
        await waiting
    assert [each["progress"] for each in await history(gateway, "t")] == [None, 0, 1, 2, 3, 3]


async def test_a_cancel_of_the_meantime_is_heard_after_a_reconnect(gateway: Gateway, proxy: Proxy) -> None:
    """Though the job reports nothing itself."""
    async with ledgerwire.Worker(through(proxy), timing=QUICK) as worker, worker.task("t") as task:
        proxy.set(Link.RESET)
        await eventually(lambda: not worker.connected)
        await ledgerwire.cancel("t", url=gateway.ws, reason="now")
        proxy.set(Link.PASS)
        assert await task.wait_for_cancel(10.0)
        task.raise_if_cancelled()


async def test_a_database_that_stands_still_delays_reports_and_loses_none() -> None:
    """The gateway answers that it cannot, or that it does not know; the worker says it again until it can."""
    with own_server() as server:
        async with temporary_database(Cluster(dsn=server.dsn)) as dsn, in_process(dsn) as gateway:
            async with ledgerwire.Worker(gateway.ws, timing=QUICK) as worker, worker.task("t") as task:
                with server.frozen():
                    for n in range(20):
                        task.post(n)
                    with pytest.raises(ledgerwire.DeliveryTimeout) as timeout:
                        await task.progress(20, timeout_seconds=6.0)
                    assert timeout.value.queued
                receipt = await task.progress(21, timeout_seconds=60)
            assert receipt.seq == 23
            async with gateway.client() as peer:
                changes = await watch_from_the_beginning(gateway.ws, "t", peer.epoch)
    assert_each_once(changes, 24)
    assert [change.progress for change in changes] == [None, *range(22), 21]


async def test_what_cannot_be_delivered_before_the_end_is_told(gateway: Gateway, proxy: Proxy) -> None:
    """Closing a worker waits `close_seconds` and then says how much was left."""
    timing = Timing(reply_seconds=0.5, close_seconds=0.3, finish_seconds=0.2)

    async def work(worker: ledgerwire.Worker) -> None:
        async with worker.task("t") as task:
            proxy.set(Link.STALL)
            task.post(1)

    async def go_on_all_the_same() -> None:
        async with ledgerwire.Worker(through(proxy), timing=timing) as worker:
            with pytest.raises(ledgerwire.DeliveryTimeout):
                await work(worker)

    with pytest.raises(ledgerwire.DeliveryTimeout, match="2 reports were not acknowledged"):
        await go_on_all_the_same()
