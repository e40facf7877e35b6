"""A gateway is killed, and everybody comes back at the same moment: all get what they missed, for few questions.

LEDGERWIRE_TEST_CLIENTS=1000 makes it larger; the test, one process, must open them all in the time for `hello`.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import aiohttp
from websockets.exceptions import WebSocketException

from tests.support.gateway import GatewayProcess
from tests.support.waiting import WAIT_SECONDS

CLIENTS = int(os.environ.get("LEDGERWIRE_TEST_CLIENTS") or 300)
TASKS = 20
LENGTH = 40
T = TypeVar("T")


def task_of(number: int) -> str:
    """Which task a client watches."""
    return f"task-{number % TASKS}"


async def until_let_in(conversation: Callable[[], Awaitable[T]]) -> T:
    """The crowd is let in at a rate, and whoever is refused comes again."""
    while True:
        try:
            return await conversation()
        except (WebSocketException, OSError):
            await asyncio.sleep(random.uniform(0.0, 0.5))  # its back-off


async def come_back(gateway: GatewayProcess, number: int, epoch: str, seq: int) -> list[int]:
    """One client with a cursor: the sequences that it gets, up to the end of its task."""
    async with gateway.client(open_timeout=WAIT_SECONDS) as peer:
        cursor = {"epoch": epoch, "seq": seq}
        await peer.ask(type="subscribe", tasks=[{"task_id": task_of(number), "after": cursor}])
        await peer.expect("subscribed", recovered=True)
        return [(await peer.expect("transition"))["seq"] for _ in range(seq, LENGTH)]


async def report_once_more(gateway: GatewayProcess) -> None:
    """The last transition of each task."""
    async with gateway.client(open_timeout=WAIT_SECONDS) as worker:
        for task in range(TASKS):
            assert (await worker.ask(type="report", task_id=task_of(task), attempt=1, n=1))["ok"]


async def figures(gateway: GatewayProcess) -> dict[str, float]:
    """The counters of the gateway."""
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.http}/metrics") as response:
        text = await response.text()
    return {name: float(value) for name, value in re.findall(r"^ledgerwire_(\w+) ([0-9.e+]+)$", text, re.MULTILINE)}


async def test_everybody_comes_back_at_once(database: str, seed: int) -> None:
    """Each with a cursor of its own; the worker goes on meanwhile, and the gateway asks the ledger for all together."""
    dice = random.Random(seed)
    async with GatewayProcess(database) as gateway:
        async with gateway.client() as worker:
            for task in range(TASKS):
                for _ in range(LENGTH - 1):
                    await worker.ask(type="report", task_id=task_of(task))
            epoch = worker.epoch
        await gateway.stop(signal.SIGKILL)
        cursors = [dice.randrange(1, LENGTH - 1) for _ in range(CLIENTS)]
        clients = [
            asyncio.create_task(until_let_in(partial(come_back, gateway, number, epoch, seq)))
            for number, seq in enumerate(cursors)
        ]
        await gateway.start()
        began = time.monotonic()
        await until_let_in(partial(report_once_more, gateway))
        async with asyncio.timeout(2 * WAIT_SECONDS):
            seen = await asyncio.gather(*clients)
        took = time.monotonic() - began
        counted = await figures(gateway)
    for seq, seqs in zip(cursors, seen, strict=True):
        assert seqs == [*range(seq + 1, LENGTH + 1)]
    reads, asked = counted["ledger_reads_total"], counted["session_reads_total"]
    print(f"{CLIENTS} clients: {asked:g} pages asked for, {reads:g} reads; all back in {took:.1f} s")  # noqa: T201
    assert asked >= CLIENTS
    assert reads < asked
