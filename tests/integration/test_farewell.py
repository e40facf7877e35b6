"""How a connection ends where its peer does not help: gone before it was let in, or deaf to its goodbye."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from gateway.connection import Connection
from gateway.sending import Turn
from tests.support.gateway import Gateway, in_process
from tests.support.waiting import eventually

UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HASTY = 20
LONG_SECONDS = 300.0  # no ping, and no look at a silent peer, within the test
PAD = "x" * 15_000


def connections() -> list[Connection]:
    """Those of this process that have not ended."""
    return [each for each in gc.get_objects() if type(each) is Connection and not each._released]


async def knock_and_go(gateway: Gateway) -> None:
    """Ask for an upgrade and be gone before it is answered."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(UPGRADE)
    writer.transport.abort()


async def test_who_goes_before_the_upgrade_leaves_nothing(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """No connection, nobody who is still to be welcomed, and no word of a fault in the log."""
    async with in_process(database) as gateway, gateway.client() as steady:
        (connection,) = connections()
        door = connection._services.admission
        with caplog.at_level(logging.WARNING):
            for _ in range(HASTY):
                await knock_and_go(gateway)
            await eventually(lambda: door.admitted == 1 + HASTY, what="all have been looked at")
            await eventually(lambda: connections() == [connection])
            assert (await steady.ask(id=1, type="report", task_id="on"))["ok"]
        assert door.opening == 0
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_who_is_deaf_to_its_goodbye_is_cut(database: str) -> None:
    """It takes nothing, so it never hears why; its line is not kept until the next ping would have been due."""
    async with (
        in_process(database, ping_interval_seconds=LONG_SECONDS) as gateway,
        gateway.client() as worker,
        gateway.client(max_queue=1, close_timeout=1, ping_interval=None) as deaf,
    ):
        await deaf.ask(type="subscribe", tasks=[{"task_id": "big"}], wait_ms=600_000)
        await deaf.expect("subscribed")
        deaf.socket.transport.pause_reading()

        def stalled() -> list[Connection]:
            return [each for each in connections() if each._sending.blocked]

        sent = 0
        while not stalled() or stalled()[0]._sending.held_bytes < 200_000:
            sent += 1
            assert (await worker.ask(id=sent, type="report", task_id="big", data=PAD))["ok"]
        (connection,) = stalled()
        hub = connection._services.hub
        assert (hub.connections, hub.topics) == (2, 1)
        for _ in range(60):
            await deaf.send_text("this is no message")
        await eventually(lambda: connection.closing, what="goodbye is said")
        await eventually(lambda: connection._released, what="the line is cut")
        assert (hub.connections, hub.topics, connection._services.admission.opening) == (1, 0, 0)
        assert (await worker.ask(id="still", type="report", task_id="big"))["seq"] == sent + 1


class _Flushed:
    """Who is called at the end of a turn, and fails at it or not."""

    def __init__(self, *, faulty: bool) -> None:
        self._faulty = faulty
        self.called = asyncio.Event()
        self.gave_up = False

    def flush(self) -> None:
        self.called.set()
        if self._faulty:
            raise RuntimeError("a connection is at fault")

    def give_up(self) -> None:
        self.gave_up = True


async def test_a_fault_of_one_at_the_end_of_a_turn_harms_no_other() -> None:
    """It is given up, since nobody knows what its peer has got; the others are written to."""
    turn = Turn()
    some = [_Flushed(faulty=place % 3 == 1) for place in range(1_201)]  # more than are written to in one turn
    for each in some:
        turn.add(each)
    await asyncio.gather(*(each.called.wait() for each in some))
    assert [each.gave_up for each in some] == [place % 3 == 1 for place in range(len(some))]
