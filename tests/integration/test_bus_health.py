"""A bus that cannot work: the gateway serves all the same, and says what is wrong and what helps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from structlog.testing import capture_logs

from ledger.settings import LedgerSettings
from tests.support.gateway import Gateway, in_process
from tests.support.postgres import address_of, through
from tests.support.waiting import eventually

NOTIFICATION = b"A"


@asynccontextmanager
async def deaf_pooler(database: str) -> AsyncIterator[str]:
    """The URL of the database by way of something that passes on all but notifications, as some poolers do."""
    target = address_of(database)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def sift(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
            if head[:1] != NOTIFICATION:
                writer.write(head + body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = asyncio.open_unix_connection(target) if isinstance(target, str) else asyncio.open_connection(*target)
        far_reader, far_writer = await opened
        sifting = asyncio.create_task(sift(far_reader, writer))
        try:
            await pump(reader, far_writer)
        finally:
            sifting.cancel()
            await asyncio.gather(sifting, return_exceptions=True)
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield through(database, server.sockets[0].getsockname()[1])


async def health(gateway: Gateway, path: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.http}{path}") as response:
        return response.status, await response.json()


async def serves_without_its_bus(gateway: Gateway, kind: str, reason: str) -> None:
    """It is ready, says what is wrong, and a watcher is told of reports as always."""

    async def told() -> bool:
        return bool((await health(gateway, "/health/db"))[1]["bus"]["reason"] == reason)

    await eventually(told, within_seconds=10)
    status, ready = await health(gateway, "/health/ready")
    assert (status, ready["bus"]) == (200, {"kind": kind, "healthy": False, "reason": reason})
    async with gateway.client() as watcher, gateway.client() as worker:
        await watcher.ask(type="subscribe", tasks=[{"task_id": "a"}], wait_ms=60_000)
        await watcher.expect("subscribed", waiting=True)
        await worker.ask(type="report", task_id="a", status="completed")
        await watcher.expect("transition", seq=1, status="completed")


async def test_a_listen_that_brings_nothing_is_noticed_and_the_cure_is_named(database: str) -> None:
    """Behind a pooler LISTEN succeeds and nothing comes: the self-test finds out, and names the variable to set."""
    async with deaf_pooler(database) as deaf:
        with capture_logs() as log:
            ledger = LedgerSettings(direct_database_url=deaf)
            async with in_process(database, bus="postgres", ledger=ledger) as gateway:
                await serves_without_its_bus(gateway, "postgres", "no_echo")
        (told,) = (entry for entry in log if entry["event"] == "bus_away")
        assert "LEDGERWIRE_DIRECT_DATABASE_URL" in told["detail"]


async def test_a_gateway_starts_and_serves_while_its_bus_is_away(database: str) -> None:
    """Nobody listens at the bus URL; the log has one line about it, not one for each attempt."""
    with capture_logs() as log:
        async with in_process(database, bus="nats", bus_url="nats://secret@127.0.0.1:1") as gateway:
            await serves_without_its_bus(gateway, "nats", "connection_refused")
    assert len([entry for entry in log if entry["event"] == "bus_away"]) == 1
    assert "secret" not in str(log)


async def test_a_node_that_is_alone_says_nothing_of_a_bus(database: str) -> None:
    """Readiness is as short as it was."""
    async with in_process(database) as gateway:
        assert await health(gateway, "/health/ready") == (200, {"status": "ready"})
        _, figures = await health(gateway, "/health/db")
        assert (figures["bus"]["kind"], figures["bus"]["healthy"]) == ("local", True)
