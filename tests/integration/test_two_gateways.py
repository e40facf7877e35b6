"""Two gateway processes on one database: it does not matter to which of them anybody is connected, nor who reaps."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from tests.support.gateway import GatewayProcess, Peer, in_process
from tests.support.node import advisory_locks
from tests.support.waiting import eventually

TASKS = 6
REPORTS = 50  # per task
SHORT_LEASES = {"LEDGERWIRE_LEASE_SECONDS": "1", "LEDGERWIRE_LEASE_GRACE_SECONDS": "1"}


@pytest.fixture
async def two(database: str) -> AsyncIterator[tuple[GatewayProcess, GatewayProcess]]:
    async with GatewayProcess(database) as here, GatewayProcess(database) as there:
        yield here, there


async def transitions(peer: Peer, count: int) -> dict[str, list[int]]:
    """The sequences of the next so many transitions, by task, in the order they came."""
    seen: dict[str, list[int]] = defaultdict(list)
    for _ in range(count):
        frame = await peer.receive()
        assert frame["type"] == "transition", frame
        seen[frame["task_id"]].append(frame["seq"])
    return seen


async def test_what_is_reported_here_is_seen_there(two: tuple[GatewayProcess, GatewayProcess], seed: int) -> None:
    """Every transition arrives on the other node in order, once, also of tasks that did not exist at the subscribe."""
    here, there = two
    dice = random.Random(seed)
    tasks = [f"far-{i}" for i in range(TASKS)]
    async with here.client() as watcher, there.client() as worker:
        await watcher.ask(type="subscribe", tasks=[{"task_id": task_id} for task_id in tasks], wait_ms=60_000)
        for _ in tasks:
            await watcher.expect("subscribed", verdict="unknown", waiting=True)
        watching = asyncio.create_task(transitions(watcher, TASKS * REPORTS))
        order = [task_id for task_id in tasks for _ in range(REPORTS)]
        dice.shuffle(order)
        for number, task_id in enumerate(order):
            reply = await worker.ask(id=number, type="report", task_id=task_id, progress=number % 100)
            assert reply["ok"]
        seen = await watching
    assert seen == {task_id: list(range(1, REPORTS + 1)) for task_id in tasks}


async def test_both_nodes_write_to_one_task(two: tuple[GatewayProcess, GatewayProcess]) -> None:
    """Reports that race from both nodes are each committed once, and both nodes' watchers see the same whole stream."""
    async with two[0].client() as one, two[1].client() as other, two[0].client() as near, two[1].client() as far:
        for watcher in (near, far):
            await watcher.ask(type="subscribe", tasks=[{"task_id": "shared"}], wait_ms=60_000)
            await watcher.expect("subscribed", waiting=True)

        async def work(peer: Peer) -> list[int]:
            for number in range(REPORTS):
                await peer.send(type="report", id=number, task_id="shared", progress=number)
            replies = [await peer.expect("reply", ok=True) for _ in range(REPORTS)]
            return [reply["seq"] for reply in replies]

        sequences = await asyncio.gather(work(one), work(other))
        assert sorted([*sequences[0], *sequences[1]]) == list(range(1, 2 * REPORTS + 1))
        streams = await asyncio.gather(transitions(near, 2 * REPORTS), transitions(far, 2 * REPORTS))
    assert streams[0] == streams[1] == {"shared": list(range(1, 2 * REPORTS + 1))}


async def test_a_cancel_reaches_the_worker_on_the_other_node(two: tuple[GatewayProcess, GatewayProcess]) -> None:
    """A client cancels here, the worker attends there, and the receipt comes back."""
    here, there = two
    async with here.client() as client, there.client() as worker:
        await worker.ask(id=1, type="attend", task_ids=["stop-me"])
        await worker.ask(id=2, type="report", task_id="stop-me", attempt=1, n=1)
        reply = await client.ask(type="cancel", task_id="stop-me", reason="enough")
        assert reply["cancel"] == {"stage": "recorded", "seq": 2, "reason": "enough"}
        await worker.expect("cancel", task_id="stop-me", seq=2, reason="enough")
        await client.ask(type="subscribe", tasks=[{"task_id": "stop-me", "after": {"epoch": client.epoch, "seq": 2}}])
        await client.expect("subscribed", verdict="live", recovered=True)
        await worker.ask(id=3, type="report", task_id="stop-me", attempt=1, n=2, status="cancelled")
        ended = await client.expect("transition", seq=3, status="cancelled")
        assert ended["cancel"]["stage"] == "honoured"


async def reaping(*gateways: GatewayProcess) -> list[bool]:
    """What the health of each says."""
    found = []
    async with ClientSession() as session:
        for gateway in gateways:
            async with session.get(f"{gateway.http}/health/db") as answer:
                found.append((await answer.json())["reaper"])
    return found


async def test_another_gateway_goes_on_when_the_reaping_one_is_killed(database: str) -> None:
    """After SIGKILL a watcher of the other gateway sees the loss, once, as any transition."""
    async with (
        GatewayProcess(database, environment=SHORT_LEASES) as one,
        GatewayProcess(database, environment=SHORT_LEASES) as two,
        two.client() as watcher,
    ):

        async def is_one_reaping() -> bool:
            return await reaping(one, two) == [True, False]

        await eventually(is_one_reaping)
        await watcher.ask(type="report", task_id="left-alone")
        await watcher.ask(type="subscribe", tasks=[{"task_id": "left-alone"}])
        await watcher.expect("subscribed")
        await watcher.expect("snapshot")
        await one.stop(signal.SIGKILL)
        began = time.monotonic()

        async def is_two_reaping() -> bool:
            return await reaping(two) == [True]

        await eventually(is_two_reaping)
        print(f"taken over after {time.monotonic() - began:.1f} s")  # noqa: T201 - shown with -s and on failure
        while (frame := await watcher.receive())["type"] != "transition":
            pass
        assert (frame["seq"], frame["status"], frame["error"]["code"]) == (2, "lost", "lost")
        assert (await watcher.ask(type="report", task_id="left-alone"))["error"]["code"] == "task_ended"


async def test_a_stopped_gateway_leaves_no_lock(database: str) -> None:
    """When the stop is over, the lock is free: the next node need not wait for anything."""
    async with in_process(database):

        async def held() -> bool:
            return await advisory_locks(database) == 1

        await eventually(held)
    assert await advisory_locks(database) == 0
