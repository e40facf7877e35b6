"""Delivery, measured for real and for a moment: that everything arrives, and that what does not is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from scripts.bench import loading, provisions
from scripts.bench.place import CannotMeasure
from scripts.bench.shapes import parse
from scripts.bench.wire import BARE
from tests.integration.test_bench import bench, figures_in, on
from tests.support.postgres import Cluster

Fault = Callable[[int], int]
"""How often the message with that number (1, 2, …) is sent to each subscriber."""


@asynccontextmanager
async def relay(fault: Fault) -> AsyncIterator[loading.Target]:
    """A server in this process by another hand, which is strict about frames, that sends each message so often."""
    subscribers: set[ServerConnection] = set()
    count = 0

    async def talk(connection: ServerConnection) -> None:
        nonlocal count
        assert connection.request is not None
        if connection.request.path == "/p":
            async for message in connection:
                count += 1
                for subscriber in subscribers:
                    for _ in range(fault(count)):
                        await subscriber.send(str(message)[7:])
        else:
            subscribers.add(connection)
            await connection.wait_closed()

    async with serve(talk, "127.0.0.1", 0, compression=None) as server:
        (listener, *_) = server.sockets
        yield loading.Target(port=listener.getsockname()[1], pid=os.getpid(), dialect=BARE)


async def measured(fault: Fault, shape: str) -> Any:
    """A tenth of a second of a shape."""
    load = provisions.compiled("load")
    async with relay(fault) as target:
        return await asyncio.to_thread(
            loading.measure, load, target, parse(shape), seconds=0.1, ping_seconds=1.0, core=None, patience=1.0
        )


async def test_every_delivery_is_counted() -> None:
    """In a closed loop all that was published has come to everybody, and the latencies are of what was measured."""
    found = await measured(lambda _: 1, "f5w4")
    assert isinstance(found, loading.Delivered)
    assert found.checked >= found.deliveries > 0
    assert found.checked % 5 == 0
    assert 0 < found.p50_ms <= found.p99_ms <= found.max_ms


async def test_an_open_loop_publishes_at_its_rate() -> None:
    """So many a second were published, whatever became of those before."""
    found = await measured(lambda _: 1, "f3r100")
    assert found.published_per_second == pytest.approx(100, rel=0.5)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda number: 0 if number == 3 else 1, "misplaced"),
        (lambda number: 2 if number == 3 else 1, "misplaced"),
        (lambda number: 1 if number < 3 else 0, "short_of"),
    ],
    ids=["lost", "twice", "broken off"],
)
async def test_a_server_that_does_not_deliver_is_refused(fault: Fault, reason: str) -> None:
    """One message too few or too many, and the run is no measurement."""
    with pytest.raises(loading.Incomplete, match=reason):
        await measured(fault, "f3r50")


async def test_a_server_that_is_not_there_is_told() -> None:
    """The client's own words are in the error."""
    load = provisions.compiled("load")
    target = loading.Target(port=9, pid=os.getpid(), dialect=BARE)
    with pytest.raises(CannotMeasure, match="refused"):
        await asyncio.to_thread(loading.measure, load, target, parse("f1"), seconds=0.1, ping_seconds=1.0, core=None)


def test_without_a_compiler_the_cure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client is in C, and is not shipped as a program."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotMeasure, match="apt-get install gcc"):
        provisions.compiled("load")


async def test_ledgerwire_delivers_everything(tmp_path: Path, cluster: Cluster) -> None:
    """Hub only and durable, one task with many subscribers and many tasks with one each, beside the limit."""
    servers, shapes = ("hub", "durable", "limit"), {"f20": 20, "t30r200": 1}
    arguments = (
        "delivery",
        "--runs",
        "1",
        "--seconds",
        "0.3",
        "--servers",
        *servers,
        "--shapes",
        *shapes,
        *on(cluster),
    )
    status, out = await bench(*arguments, "--json", tmp_path / "figures")
    assert status == 0, out
    content = figures_in(tmp_path / "figures")
    assert content["not_measured"] == {}
    for server in servers:
        for shape, each in shapes.items():
            found = content["median"][server][shape]
            assert found["checked"] >= found["deliveries"] >= 20
            assert found["checked"] % each == 0
            assert found["server_cpu_us"] > 0
    assert "ledgerwire, durable" in out


async def test_idle_connections_are_held_and_kept_alive(tmp_path: Path, cluster: Cluster) -> None:
    """All subscribe, none is lost, and who pings has pinged every one of them within its interval."""
    arguments = (
        "delivery",
        "--runs",
        "1",
        "--seconds",
        "0.2",
        "--ping-seconds",
        "1",
        "--servers",
        "aiohttp",
        *on(cluster),
    )
    status, out = await bench(*arguments, "--shapes", "idle40", "beat40", "accept40", "--json", tmp_path / "figures")
    assert status == 0, out
    found = figures_in(tmp_path / "figures")["median"]["aiohttp"]
    assert found["idle40"]["connections"] == 40
    assert found["accept40"]["per_second"] > 0
    assert found["beat40"]["kept_alive"] >= 40
