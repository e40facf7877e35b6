"""Gateways that tell each other by a bus: everybody sees the whole stream at once, and still when the bus fails.

The test with faults takes a few seconds; LEDGERWIRE_TEST_SECONDS=600 makes it a soak.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from ledger.settings import LedgerSettings
from tests.support.gateway import Gateway, Peer, in_process
from tests.support.nats import nats_cluster, nats_server
from tests.support.postgres import address_of, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import eventually

TASKS = [f"job-{number}" for number in range(12)]
NEVER_SECONDS = 3_600.0
FAULT_SECONDS = float(os.environ.get("LEDGERWIRE_TEST_SECONDS") or 6)
CONVERGED_SECONDS = 60.0  # the promise is 2 s, on a machine that has nothing else to do; how long it took is printed
pytestmark = pytest.mark.timeout(FAULT_SECONDS + 120)
Fault = Callable[[random.Random], Awaitable[str]]


class Subscriber:
    """Watches all tasks on one node; a gap, a repeat or a disorder fails the test."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.seen: dict[str, list[dict[str, Any]]] = {task_id: [] for task_id in TASKS}
        self.came_at: dict[tuple[str, int], float] = {}

    async def subscribe(self) -> None:
        tasks = [{"task_id": task_id} for task_id in TASKS]
        await self._peer.ask(type="subscribe", tasks=tasks, wait_ms=600_000)
        for _ in TASKS:
            await self._peer.expect("subscribed", waiting=True)

    async def run(self) -> None:
        while True:
            frame = await self._peer.receive(seconds=FAULT_SECONDS + 60)
            if frame["type"] == "liveness":
                continue
            assert frame.pop("type") == "transition", frame
            seen = self.seen[frame["task_id"]]
            assert frame["seq"] == len(seen) + 1, f"{frame['task_id']}: {frame['seq']} after {len(seen)}"
            self.came_at[frame["task_id"], frame["seq"]] = time.monotonic()
            seen.append(frame)


class Worker:
    """Reports on all tasks by one node, one at a time, and remembers when each was acknowledged."""

    def __init__(self, peer: Peer, dice: random.Random) -> None:
        self._peer = peer
        self._dice = dice
        self.acknowledged_at: dict[tuple[str, int], float] = {}

    async def report(self) -> None:
        task_id = self._dice.choice(TASKS)
        data = "x" * self._dice.choice([1, 1, 1, 200, 6_000])  # the last is too large for any bus
        reply = await self._peer.ask(
            type="report", task_id=task_id, progress=self._dice.randrange(100), data={"text": data}
        )
        assert reply["ok"], reply
        self.acknowledged_at[task_id, reply["seq"]] = time.monotonic()


class Nodes:
    """Some gateways over one database, with a worker and a subscriber on each."""

    def __init__(self, gateways: list[Gateway], workers: list[Worker], subscribers: list[Subscriber]) -> None:
        self.gateways = gateways
        self.workers = workers
        self.subscribers = subscribers

    async def bus(self, place: int) -> dict[str, Any]:
        """What one node says of its bus."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.gateways[place].http}/health/db") as response:
            bus: dict[str, Any] = (await response.json())["bus"]
            return bus

    async def all_well(self) -> None:
        async def well() -> bool:
            return all([(await self.bus(place))["healthy"] for place in range(len(self.gateways))])

        await eventually(well, what="every bus is well")

    async def converged(self, *, within_seconds: float) -> float:
        """Wait until every subscriber has seen all that was acknowledged; how long it took, in seconds."""
        began, reports = time.monotonic(), sum(len(worker.acknowledged_at) for worker in self.workers)
        await eventually(
            lambda: all(len(subscriber.came_at) == reports for subscriber in self.subscribers),
            within_seconds=within_seconds,
            what=f"everybody has seen {reports}, not {[len(each.came_at) for each in self.subscribers]}",
        )
        return time.monotonic() - began

    async def agree_with_the_ledger(self) -> None:
        """Every subscriber has seen exactly what the ledger holds, member by member."""
        async with aiohttp.ClientSession() as http:
            for task_id in TASKS:
                kept: list[dict[str, Any]] = []
                while True:
                    url = f"{self.gateways[0].http}/v1/tasks/{task_id}/transitions?after={len(kept)}"
                    async with http.get(url) as response:
                        page = (await response.json())["transitions"] if response.status == 200 else []
                    if not page:
                        break
                    kept += page
                for subscriber in self.subscribers:
                    assert subscriber.seen[task_id] == kept

    def lateness(self) -> list[float]:
        """Seconds from an acknowledgement until the event was on each of the other nodes, in order."""
        late = [
            subscriber.came_at[what] - at
            for place, worker in enumerate(self.workers)
            for what, at in worker.acknowledged_at.items()
            for elsewhere, subscriber in enumerate(self.subscribers)
            if elsewhere != place
        ]
        return sorted(late)


@asynccontextmanager
async def nodes(*settings: dict[str, Any], dsn: str, dice: random.Random) -> AsyncIterator[Nodes]:
    """A gateway for each of the settings."""
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(in_process(**{"dsn": dsn, **given})) for given in settings]
        workers, subscribers = [], []
        for gateway in gateways:
            workers.append(Worker(await stack.enter_async_context(gateway.client()), random.Random(dice.random())))
            subscribers.append(Subscriber(await stack.enter_async_context(gateway.client())))
        made = Nodes(gateways, workers, subscribers)
        await made.all_well()
        for subscriber in subscribers:
            await subscriber.subscribe()
        watching = [asyncio.create_task(subscriber.run()) for subscriber in subscribers]
        try:
            yield made
        finally:
            for task in watching:
                if task.done():
                    task.result()
                task.cancel()


@pytest.mark.parametrize("bus", ["postgres", "nats"])
async def test_a_hint_brings_the_event_and_not_the_reread(bus: str, database: str, seed: int) -> None:
    """Without any re-read of watched tasks, what is reported on one node is seen on both, at once and in order."""
    dice = random.Random(seed)
    with ExitStack() as stack:
        url = stack.enter_context(nats_server()).url if bus == "nats" else None
        settings = {"bus": bus, "bus_url": url, "reread_seconds": NEVER_SECONDS}
        async with nodes(settings, settings, dsn=database, dice=dice) as two:
            for _ in range(150):
                await asyncio.gather(*(worker.report() for worker in two.workers))
            await two.converged(within_seconds=CONVERGED_SECONDS)
            await two.agree_with_the_ledger()
            heard = [(await two.bus(place))["heard"] for place in range(2)]
            late = two.lateness()
            for place in range(2):
                assert (await two.bus(place))["connects"] == 1
    print(f"{bus}: late by {statistics.median(late):.4f} s, at most {late[-1]:.4f} s; heard {heard}")  # noqa: T201
    assert len(late) == 300
    assert min(heard) >= 50


async def test_an_end_that_falls_into_the_subscribe_is_seen_at_once(database: str, seed: int) -> None:
    """The last event of a task, committed elsewhere while a client subscribes, does not wait for a re-read."""
    dice = random.Random(seed)
    with nats_server() as server:
        settings = {"bus": "nats", "bus_url": server.url, "reread_seconds": NEVER_SECONDS}
        async with nodes(settings, settings, dsn=database, dice=dice) as two:
            async with two.gateways[0].client() as client, two.gateways[1].client() as worker:
                for number in range(60):
                    task_id = f"short-{number}"
                    await worker.ask(type="report", task_id=task_id)
                    await client.send(type="subscribe", id=1, tasks=[{"task_id": task_id}])
                    await asyncio.sleep(dice.uniform(0, 0.01))
                    await worker.ask(type="report", task_id=task_id, status="completed")
                    last: dict[str, Any] = {}
                    while last.get("status") != "completed":
                        frame = await client.receive()
                        last = frame.get("task", frame)


async def test_small_events_come_with_their_hints(database: str, seed: int) -> None:
    """A node that cannot read the ledger at the moment still brings its clients what is committed on another one."""
    with nats_server() as server:
        async with Proxy(address_of(database)) as proxy:
            settings = {"bus": "nats", "bus_url": server.url, "reread_seconds": NEVER_SECONDS}
            cut_off = {**settings, "dsn": through(database, proxy.port)}
            async with nodes(settings, cut_off, dsn=database, dice=random.Random(seed)) as two:
                async with two.gateways[0].client() as worker, two.gateways[1].client() as client:
                    await client.ask(type="subscribe", tasks=[{"task_id": "far"}], wait_ms=60_000)
                    await client.expect("subscribed", waiting=True)
                    await worker.ask(type="report", task_id="far", progress=0)
                    await client.expect("transition", seq=1)
                    proxy.set(Link.STALL)
                    for progress in range(1, 50):
                        await worker.ask(type="report", task_id="far", progress=progress)
                        await client.expect("transition", seq=progress + 1, progress=progress)
                    proxy.set(Link.PASS)


async def with_faults(made: Nodes, faults: list[Fault], dice: random.Random) -> tuple[int, list[str]]:
    """Report on all nodes while one fault after the other happens; how many reports, and what happened."""
    done: list[str] = []
    stop = asyncio.Event()

    async def work(worker: Worker) -> None:
        while not stop.is_set():
            await worker.report()

    async with asyncio.TaskGroup() as group:
        for worker in made.workers:
            group.create_task(work(worker))
        ends_at = time.monotonic() + FAULT_SECONDS
        first = dice.sample(faults, len(faults))  # each at least once
        while first or time.monotonic() < ends_at:
            done.append(await (first.pop() if first else dice.choice(faults))(dice))
            await asyncio.sleep(dice.uniform(0, 0.5))
        stop.set()
    return sum(len(worker.acknowledged_at) for worker in made.workers), done


async def judge(made: Nodes, faults: list[Fault], dice: random.Random) -> None:
    """Everybody sees all of it, within the promise; afterwards the buses are well again, and bring hints."""
    reports, happened = await with_faults(made, faults, dice)
    took = await made.converged(within_seconds=CONVERGED_SECONDS)
    await made.agree_with_the_ledger()
    print(f"{reports} reports, {len(happened)} faults, converged in {took:.2f} s: {happened}")  # noqa: T201
    print(f"late by {statistics.median(made.lateness()):.4f} s, at most {made.lateness()[-1]:.2f} s")  # noqa: T201
    assert reports >= 10 * FAULT_SECONDS
    assert len(happened) >= FAULT_SECONDS / 3
    await made.all_well()
    heard = [(await made.bus(place))["heard"] for place in range(len(made.gateways))]
    for worker in made.workers:
        await worker.report()
    await made.converged(within_seconds=CONVERGED_SECONDS)

    async def hear_again() -> bool:
        now = [(await made.bus(place))["heard"] for place in range(len(made.gateways))]
        return all(after > before for before, after in zip(heard, now, strict=True))

    await eventually(hear_again, what="hints come again")
    connects = [(await made.bus(place))["connects"] for place in range(len(made.gateways))]
    assert max(connects) > 1, "no fault reached a bus"


async def test_postgres_as_a_bus_that_fails_costs_moments(database: str, seed: int) -> None:
    """Notifications are cut off, held back and swallowed, per node, at random: no subscriber misses anything."""
    dice = random.Random(seed)
    async with Proxy(address_of(database)) as here, Proxy(address_of(database)) as there:
        proxies = [here, there]
        settings = [
            {"bus": "postgres", "ledger": LedgerSettings(database_url=database, direct_database_url=direct)}
            for direct in (through(database, proxy.port) for proxy in proxies)
        ]

        def fault(link: Link) -> Fault:
            async def happen(dice: random.Random) -> str:
                place = dice.randrange(2)
                proxies[place].set(link)
                await asyncio.sleep(dice.uniform(0.1, 3.0 if link is Link.STALL else 1.0))
                proxies[place].set(Link.PASS)
                return f"{link.value} {place}"

            return happen

        async with nodes(*settings, dsn=database, dice=dice) as two:
            await judge(two, [fault(Link.RESET), fault(Link.STALL), fault(Link.MUTE)], dice)


async def test_a_nats_cluster_that_fails_costs_moments(database: str, seed: int) -> None:
    """Servers of a cluster of three are killed, frozen and started again at random: no subscriber misses anything."""
    dice = random.Random(seed)
    with nats_cluster() as servers:
        urls = [server.url for server in servers]
        settings = [{"bus": "nats", "bus_url": ",".join(urls[place:] + urls[:place])} for place in range(3)]

        async def kill(dice: random.Random) -> str:
            place = dice.randrange(3)
            servers[place].kill()
            await asyncio.sleep(dice.uniform(0.0, 1.0))
            await asyncio.to_thread(servers[place].start)
            return f"kill {place}"

        async def freeze(dice: random.Random) -> str:
            place = dice.randrange(3)
            with servers[place].frozen():
                await asyncio.sleep(dice.uniform(0.1, 2.0))
            return f"freeze {place}"

        async def kill_all(dice: random.Random) -> str:
            for server in servers:
                server.kill()
            await asyncio.sleep(dice.uniform(0.0, 0.5))
            for server in servers:
                await asyncio.to_thread(server.start)
            return "kill all"

        async with nodes(*settings, dsn=database, dice=dice) as three:
            await judge(three, [kill, kill, freeze, kill_all], dice)
