"""A process is told to end: whoever asked is answered, and every client hears when to come back."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import asyncpg
import pytest

from gateway.drain import MARGIN_SECONDS
from tests.support.frames import raw, upgraded
from tests.support.gateway import GatewayProcess, Peer
from tests.support.postgres import read_ledger
from tests.support.waiting import eventually

WINDOW_SECONDS = 8
CLIENTS = 20


@asynccontextmanager
async def holding(database: str) -> AsyncIterator[None]:
    """Nobody else can append, though all can read: reports stay in the queue."""
    connection = await asyncpg.connect(database)
    try:
        async with connection.transaction():
            await connection.execute("lock table ledger.transition in share mode")
            yield
    finally:
        await connection.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def waiting(gateway: GatewayProcess, http: aiohttp.ClientSession) -> int:
    """Reports that are not committed yet."""
    async with http.get(f"{gateway.http}/health/db") as answer:
        return int((await answer.json())["writer_waiting"])


async def says_draining(gateway: GatewayProcess, http: aiohttp.ClientSession) -> str | None:
    """The Connection header of a 503, on a connection that was there before; None while the process is ready."""
    async with http.get(f"{gateway.http}/health/ready") as answer:
        content = await answer.json()
        if answer.status == 200:
            return None
        assert (answer.status, content["status"]) == (503, "draining")
        return answer.headers.get("Connection")


async def stream_to_its_end(gateway: GatewayProcess, task_id: str, begun: asyncio.Event) -> str:
    """All of an event stream; an end that is no end of the answer would raise."""
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.http}/v1/tasks/{task_id}/events") as answer:
        text = ""
        async for chunk in answer.content.iter_any():
            text += chunk.decode()
            if "event: snapshot" in text:
                begun.set()
        return text


async def poll(gateway: GatewayProcess, task_id: str) -> tuple[int, str | None]:
    """A long poll for a task that does not exist: its status and the Connection header."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{gateway.http}/v1/tasks/{task_id}", headers={"Prefer": "wait=60"}) as answer,
    ):
        return answer.status, answer.headers.get("Connection")


async def farewell(peer: Peer) -> int:
    """When this client is to come back, in ms; the connection ends in order."""
    bye = await peer.expect("bye", code=4000, retry=True, reason="shutting_down")
    assert await peer.closed() == 4000
    return int(bye["retry_after_ms"])


async def test_a_stop_answers_first_and_then_says_goodbye(database: str, http: aiohttp.ClientSession) -> None:
    """Not ready, closed, no more taken, flushed, told, over: each step is seen from outside."""
    environment = {"LEDGERWIRE_DRAIN_SECONDS": str(WINDOW_SECONDS)}
    async with GatewayProcess(database, environment=environment) as gateway, AsyncExitStack() as stack:
        worker = await stack.enter_async_context(gateway.client())
        clients = [await stack.enter_async_context(gateway.client()) for _ in range(CLIENTS)]
        silent = await stack.enter_async_context(gateway.client(hello=False))
        assert (await worker.ask(id=0, type="report", task_id="held", attempt=1, n=1))["ok"]
        streaming = asyncio.Event()
        stream = asyncio.create_task(stream_to_its_end(gateway, "held", streaming))
        polled = asyncio.create_task(poll(gateway, "nobody-knows"))
        await streaming.wait()
        kept = await stack.enter_async_context(aiohttp.ClientSession())  # its one connection is open before the stop
        assert await says_draining(gateway, kept) is None
        async with holding(database):
            await worker.send(type="report", id=1, task_id="held", attempt=1, n=2, progress=50)
            await eventually(lambda: waiting(gateway, http), what="a report in the queue")
            began = time.monotonic()
            gateway.signal(signal.SIGTERM)
            assert await eventually(lambda: says_draining(gateway, kept)) == "close"
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", gateway.port)
            await worker.send(type="report", id=2, task_id="late", attempt=1, n=1)
            refused = await worker.expect("reply", id=2, ok=False)
            assert (refused["error"]["code"], refused["error"]["retryable"]) == ("unavailable", True)
            assert refused["error"]["retry_after_ms"] > 0
            url = f"{gateway.http}/v1/tasks/late/transitions"
            async with http.post(url, json={"progress": 1}) as answer:  # on a connection that was there before
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
                assert answer.headers["Connection"] == "close"
            assert (await asyncio.wait_for(polled, 5)) == (404, "close")
        assert (await worker.expect("reply", id=1, ok=True))["seq"] == 2
        hints = await asyncio.gather(*(farewell(peer) for peer in (worker, silent, *clients)))
        text = await asyncio.wait_for(stream, 5)
        assert await gateway.wait() == 0
        took = time.monotonic() - began
    assert all(0 <= hint <= 1000 * WINDOW_SECONDS for hint in hints), hints
    assert len(set(hints)) > CLIENTS / 2, hints
    assert text.index("id: ") < text.index('"seq":2') < text.index("event: bye")
    assert took < WINDOW_SECONDS + MARGIN_SECONDS
    assert not [entry for entry in gateway.log if entry.get("level") == "error"], gateway.log
    drained = next(entry for entry in gateway.log if entry["event"] == "drained")
    assert (drained["connections"], drained["left"]) == (CLIENTS + 3, 0)
    ledger = await read_ledger(database)
    assert {task_id: [row["seq"] for row in rows] for task_id, rows in ledger.items()} == {"held": [1, 2]}


async def test_a_stop_does_not_wait_for_a_database_that_hangs(database: str) -> None:
    """What cannot be committed is answered so, and the process ends in its time."""
    environment = {"LEDGERWIRE_DRAIN_SECONDS": "2", "LEDGERWIRE_QUEUE_WAIT_SECONDS": "60"}
    async with GatewayProcess(database, environment=environment) as gateway, gateway.client() as worker:
        assert (await worker.ask(id=0, type="report", task_id="held", attempt=1, n=1))["ok"]
        async with holding(database):
            await worker.send(type="report", id=1, task_id="held", attempt=1, n=2)
            await worker.ask(id=2, type="subscribe", tasks=[{"task_id": "held"}])
            began = time.monotonic()
            gateway.signal(signal.SIGTERM)
            while (frame := await worker.receive())["type"] != "bye":
                assert frame["type"] in {"subscribed", "snapshot", "notice"}, frame
            assert await gateway.wait() == 0
            assert time.monotonic() - began < 2 + MARGIN_SECONDS


async def test_a_second_signal_ends_at_once(database: str, http: aiohttp.ClientSession) -> None:
    """Whoever cannot wait for the window does not have to."""
    async with GatewayProcess(database, environment={"LEDGERWIRE_DRAIN_SECONDS": "120"}) as gateway:
        async with gateway.client() as worker:
            assert (await worker.ask(id=0, type="report", task_id="held", attempt=1, n=1))["ok"]
            assert await says_draining(gateway, http) is None
            async with holding(database):
                await worker.send(type="report", id=1, task_id="held", attempt=1, n=2)
                await eventually(lambda: waiting(gateway, http), what="a report in the queue")
                gateway.signal(signal.SIGTERM)
                assert await eventually(lambda: says_draining(gateway, http)) == "close"
                began = time.monotonic()
                gateway.signal(signal.SIGTERM)
                assert await gateway.wait() == -signal.SIGTERM
                assert time.monotonic() - began < 2


async def test_without_a_window_everybody_is_told_all_the_same(database: str) -> None:
    """The time to leave is short or over before all have been told; nobody is left to find out by himself."""
    async with GatewayProcess(database, environment={"LEDGERWIRE_DRAIN_SECONDS": "0"}) as gateway:
        async with AsyncExitStack() as stack:
            mute = await stack.enter_async_context(raw(gateway.port))
            clumsy = await stack.enter_async_context(upgraded(gateway.port))
            clients = [await stack.enter_async_context(gateway.client()) for _ in range(200)]
            gateway.signal(signal.SIGTERM)
            hints = await asyncio.gather(*(farewell(peer) for peer in clients))
            assert (await clumsy.message())["reason"] == "shutting_down"
            assert await clumsy.closed() == 4000
            assert [await clumsy.rest(), await mute.rest()] == [b"", b""]  # one never closes, one has never spoken
        assert hints == [0] * len(clients)
        assert await gateway.wait() == 0
