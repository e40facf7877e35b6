"""A client that does not read costs neither memory nor its neighbours, and misses nothing."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.connection import Connection
from gateway.outbox import BYTES, FRAMES
from tests.support.gateway import Gateway, Peer, in_process
from tests.support.waiting import WAIT_SECONDS, eventually, pace

REPORTS = 4_000
PAD = "x" * 2_000  # 8 MB in all: more than outbox, transport and kernel buffers take together


HELD_BYTES = 512 * 1024  # for a client that does not read, the transport's buffer with it


async def report_all(worker: Peer, task_id: str, reports: int = REPORTS) -> None:
    """Send all reports in frames of many, and see them acknowledged."""
    for first in range(1, reports + 1, 20):
        numbers = range(first, first + 20)
        frame = [
            {"type": "report", "id": n, "task_id": task_id, "progress": n % 100, "data": [n, PAD]} for n in numbers
        ]
        await worker.send_many(frame)
        for n in numbers:
            await worker.expect("reply", id=n, ok=True, seq=n)


def connections() -> list[Connection]:
    """Those of this process that have not ended."""
    found = [each for each in gc.get_objects() if type(each) is Connection]
    return [each for each in found if not each._released]


def outboxes() -> list[int]:
    """How many frames wait for each of them."""
    return [len(each._sending) for each in connections()]


async def subscribe(gateway: Gateway, peer: Peer, task_id: str, mode: str) -> None:
    await peer.ask(type="subscribe", tasks=[{"task_id": task_id}], mode=mode, wait_ms=60_000)
    await peer.expect("subscribed", waiting=True)


@pytest.mark.parametrize("mode", ["all", "latest"])
async def test_a_stalled_client_is_served_from_the_ledger(database: str, mode: str) -> None:
    """It stops reading while 8 MB of transitions flow, then reads on: the whole stream, or the newest state."""
    async with (
        in_process(database) as gateway,
        gateway.client() as worker,
        gateway.client() as fast,
        gateway.client(max_queue=1) as stalled,
    ):
        await subscribe(gateway, fast, "big", "all")
        await subscribe(gateway, stalled, "big", mode)
        stalled.socket.transport.pause_reading()
        working = asyncio.create_task(report_all(worker, "big"))
        for seq in range(1, REPORTS + 1):
            await fast.expect("transition", seq=seq)  # the neighbour is not held up by the one that stalls
        await working
        assert max(outboxes()) <= FRAMES + 10
        stalled.socket.transport.resume_reading()
        got: list[dict[str, Any]] = []
        while not got or last_seq(got[-1]) < REPORTS:
            got.append(await stalled.receive())
        if mode == "all":
            assert [frame["seq"] for frame in got] == list(range(1, REPORTS + 1))
            assert all(frame["data"] == [frame["seq"], PAD] for frame in got)
        else:
            sequences = [last_seq(frame) for frame in got]
            assert sequences == sorted(set(sequences))
            assert len(got) < REPORTS
            assert got[-1]["task"]["data"] == [REPORTS, PAD]
    assert REPORTS * len(PAD) / 10 > BYTES  # the test would prove nothing with a larger outbox


async def test_stalled_clients_cost_little_and_miss_nothing(database: str) -> None:
    """Four stop reading, two go on: those see all as it comes, and each that comes back gets exactly the ledger."""
    reports = 1_600
    wanted = [(seq, [seq, PAD]) for seq in range(1, reports + 1)]
    async with in_process(database) as gateway, AsyncExitStack() as stack:
        worker = await stack.enter_async_context(gateway.client())
        fast = [await stack.enter_async_context(gateway.client()) for _ in range(2)]
        stalled = [await stack.enter_async_context(gateway.client(max_queue=1)) for _ in range(4)]
        for peer in (*fast, *stalled):
            await subscribe(gateway, peer, "big", "all")
        for peer in stalled:
            peer.socket.transport.pause_reading()
        all_of_them = connections()
        assert len(all_of_them) == 7
        most = 0

        async def read_all(peer: Peer, *, look: bool = False) -> list[tuple[int, Any]]:
            nonlocal most
            got: list[tuple[int, Any]] = []
            while len(got) < reports:
                frame = await peer.expect("transition")
                got.append((frame["seq"], frame["data"]))
                if look:
                    most = max(most, *(each._sending.held_bytes for each in all_of_them))
            return got

        working = asyncio.create_task(report_all(worker, "big", reports))
        seen = await asyncio.gather(*(read_all(peer, look=peer is fast[0]) for peer in fast))
        assert seen == [wanted, wanted]
        await working
        assert 0 < most <= HELD_BYTES
        held = [each._sending.held_bytes for each in all_of_them]
        assert sum(size > 0 for size in held) == len(stalled)  # and none of them has all of it on its way
        for peer in stalled:
            peer.socket.transport.resume_reading()
        assert await asyncio.gather(*map(read_all, stalled)) == [wanted] * len(stalled)
    assert reports * len(PAD) / 4 > HELD_BYTES  # the test would prove nothing with a larger bound


async def test_a_peer_that_takes_nothing_at_all_is_cut(database: str) -> None:
    """It goes on asking and never reads: after one and a half ping intervals the line is cut, nobody else's."""
    async with (
        in_process(database, ping_interval_seconds=3) as gateway,
        gateway.client() as worker,
        gateway.client(max_queue=1, close_timeout=1) as deaf,
    ):
        await subscribe(gateway, deaf, "big", "all")
        deaf.socket.transport.pause_reading()
        working = asyncio.create_task(report_all(worker, "big"))

        gone = asyncio.Event()

        async def ask_on() -> None:
            while not await pace(gone, 0.1):  # often enough that it is not cut for its silence
                await deaf.send(type="ping")

        async def is_cut() -> bool:
            await worker.ask(id="still", type="report", task_id="other")  # and it answers pings on the way
            return len(outboxes()) == 1

        asking = asyncio.create_task(ask_on())
        await working
        await eventually(is_cut, what="the deaf peer is gone")
        gone.set()
        await asyncio.wait([asking], timeout=WAIT_SECONDS)
        assert asking.done()


def last_seq(frame: dict[str, Any]) -> int:
    return int(frame["task"]["seq"] if frame["type"] == "snapshot" else frame["seq"])
