"""What is particular to NATS: who hears what, several servers, logins, and TLS that must not be left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from gateway.bus.nats import NatsBus
from gateway.bus.port import Hint
from ledger.model import Key
from tests.support.nats import NatsServer, nats_server
from tests.support.waiting import eventually

EPOCH = "0123456789ab"


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    """A server alone."""
    with nats_server() as running:
        yield running


class Node:
    """A bus, and what it brought."""

    def __init__(self, bus: NatsBus) -> None:
        self.bus = bus
        self.heard: list[Hint] = []
        self.sure: set[Key] = set()
        self.gaps = 0

    def gap(self, keys: object) -> None:
        if isinstance(keys, list):
            self.sure.update(keys)
        else:
            self.gaps += 1


@asynccontextmanager
async def node(*urls: str, grace_seconds: float = 10.0) -> AsyncIterator[Node]:
    """A bus that has been started."""
    made = Node(NatsBus(urls, grace_seconds=grace_seconds, probe_seconds=0.5))
    await made.bus.start(made.heard.append, made.gap)
    try:
        yield made
    finally:
        await made.bus.close()


def key(number: int) -> Key:
    return f"{number:032x}"


async def test_a_node_hears_of_its_own_tasks_only(server: NatsServer) -> None:
    """Of 1,000 tasks on ten nodes, each hears exactly of the hundred that are watched on it."""
    async with node(server.url) as busy, node(server.url) as last:
        watched = [key(number) for number in range(100)]
        await eventually(lambda: busy.bus.state.healthy and last.bus.state.healthy)
        for one in watched:
            last.bus.interest(one)
        await eventually(lambda: last.sure == set(watched))
        for number in reversed(range(1_000)):
            busy.bus.announce(EPOCH, [(key(number), 1)], {})
        await eventually(lambda: len(last.heard) == 100)
        assert {hint.key for hint in last.heard} == set(watched)
        assert busy.bus.state.sent == 1_000


async def test_interest_ends_after_a_grace_and_not_before(server: NatsServer) -> None:
    """A client that comes back in time finds the subscription still there; later a new one is made."""
    async with node(server.url) as one, node(server.url, grace_seconds=0.3) as other:
        await eventually(lambda: one.bus.state.healthy and other.bus.state.healthy)
        for task in (key(1), key(2)):
            other.bus.interest(task)
        await eventually(lambda: other.sure == {key(1), key(2)})
        other.bus.no_interest(key(1))
        other.bus.interest(key(1))
        other.bus.no_interest(key(2))
        one.bus.announce(EPOCH, [(key(2), 1), (key(1), 1)], {})
        await eventually(lambda: len(other.heard) == 2, what="both are heard within the grace")

        async def only_the_first() -> bool:
            before = len(other.heard)
            seq = 2 + before
            one.bus.announce(EPOCH, [(key(2), seq), (key(1), seq)], {})
            await eventually(lambda: other.heard[-1] == Hint(key(1), seq, EPOCH, []))
            return len(other.heard) == before + 1

        await eventually(only_the_first, every_seconds=0.1, what="the second is not heard any more")
        other.sure.clear()
        other.bus.interest(key(2))
        await eventually(lambda: other.sure == {key(2)})
        one.bus.announce(EPOCH, [(key(2), 1_000)], {})
        await eventually(lambda: other.heard[-1] == Hint(key(2), 1_000, EPOCH, []))


async def test_the_next_server_is_taken_when_one_is_away(server: NatsServer) -> None:
    """Of several URLs any that works will do, and a dead one costs only moments."""
    async with node("nats://127.0.0.1:1", server.url, "nats://127.0.0.1:2") as one:
        await eventually(lambda: one.bus.state.healthy, within_seconds=10)


async def test_a_refused_login_is_said_without_the_secret(server: NatsServer) -> None:
    """The operator is told what to look at; neither URL nor token is in the log."""
    with capture_logs() as log:
        async with node(f"nats://not-the-token@127.0.0.1:{server.port}") as one:
            await eventually(lambda: one.bus.state.reason == "login_refused")
        async with node(f"nats://user:not-the-token@127.0.0.1:{server.port}") as one:
            await eventually(lambda: one.bus.state.reason == "login_refused")
    assert [entry["event"] for entry in log] == ["bus_away", "bus_away"]
    assert "not-the-token" not in str(log)


async def test_tls_is_not_left_out_silently() -> None:
    """With tls:// a server that offers none hears no token, whatever it says."""
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"headers":true}\r\n')
        while data := await reader.read(1_000):
            heard.extend(data)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as impostor:
        port = impostor.sockets[0].getsockname()[1]
        async with node(f"tls://secret@127.0.0.1:{port}") as one:
            await eventually(lambda: one.bus.state.reason == "no_tls")
        async with node(f"nats://secret@127.0.0.1:{port}"):
            await eventually(lambda: b"secret" in heard, what="without TLS it is told, so this impostor does hear")
        before = bytes(heard)
        async with node(f"tls://other@127.0.0.1:{port}") as one:
            await eventually(lambda: one.bus.state.reason == "no_tls")
        assert b"other" not in heard
        assert bytes(heard) == before


async def test_a_dead_reading_task_is_noticed(server: NatsServer) -> None:
    """The library stops reading, in silence, when something in it fails; the probe does not take that for health."""
    async with node(server.url) as one:
        await eventually(lambda: one.bus.state.healthy)
        for task in asyncio.all_tasks():
            if "_read_loop" in str(task.get_coro()):
                task.cancel()
        await eventually(lambda: one.gaps == 2, within_seconds=10, what="connected anew")
