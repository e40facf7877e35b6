"""Hundreds of clients come at once: some are let in, the others hear when to come again, and nobody else suffers."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.limits.rates import Limits
from tests.support.gateway import Gateway, GatewayProcess, Peer, in_process

CROWD = 300
RATE = 20
BURST = 2 * RATE


async def knock(gateway: Gateway) -> tuple[int, int]:
    """Try to come in and say hello; the status of the upgrade and, where it was refused, when to come again (ms)."""
    try:
        async with connect(gateway.ws, compression=None, open_timeout=20) as socket:
            peer = Peer(socket)
            await peer.send(type="hello", v=1)
            await peer.expect("welcome")
            return 101, 0
    except InvalidStatus as error:
        refused = error.response
    content = json.loads(refused.body)
    assert (content["code"], content["retryable"]) == ("busy", True)
    assert refused.headers["Retry-After"] == str(-(-content["retry_after_ms"] // 1000))
    return refused.status_code, int(content["retry_after_ms"])


async def come_again(gateway: Gateway, hint_ms: int) -> int:
    """A client that obeys until it is in; how often it has tried."""
    tries = 0
    while hint_ms:
        await asyncio.sleep(hint_ms / 1000)
        _, hint_ms = await knock(gateway)
        tries += 1
    return tries


async def test_a_crowd_is_let_in_at_a_rate(database: str) -> None:
    """A burst comes in; the rest get 503 with hints that are spread; who obeys is in soon; who was in is served."""
    environment = {"LEDGERWIRE_CONNECT_RATE": str(RATE)}
    async with GatewayProcess(database, environment=environment) as gateway, gateway.client() as worker:
        began = time.monotonic()
        crowd = asyncio.gather(*(knock(gateway) for _ in range(CROWD)))
        served = 0
        while not crowd.done():
            assert (await worker.ask(id=served, type="report", task_id="busy", attempt=1, n=served + 1))["ok"]
            served += 1
        answers = await crowd
        took = time.monotonic() - began
        hints = [hint for status, hint in answers if status == 503]
        welcomed = CROWD - len(hints)
        print(f"{CROWD} clients in {took:.1f} s: {welcomed} welcomed, {served} reports meanwhile")  # noqa: T201
        assert BURST - 1 <= welcomed <= BURST + RATE * (took + 1)
        assert len(hints) > CROWD / 3
        assert len(set(hints)) > len(hints) / 2
        assert served
        tries = await asyncio.wait_for(asyncio.gather(*(come_again(gateway, hint) for hint in hints)), 60)
        print(f"all in after {time.monotonic() - began:.1f} s and {1 + max(tries)} tries at most")  # noqa: T201


async def test_sockets_that_say_nothing_do_not_pile_up(database: str) -> None:
    """So many may be open without a hello; one that speaks or goes makes room for the next."""
    async with in_process(database, connect_rate=0.0, max_opening=50) as gateway:
        mute = [await connect(gateway.ws, compression=None) for _ in range(50)]
        assert (await knock(gateway))[0] == 503
        first = Peer(mute[0])
        await first.send(type="hello", v=1)
        await first.expect("welcome")
        assert (await knock(gateway))[0] == 101
        await mute[1].close()
        async with asyncio.timeout(5):
            while (await knock(gateway))[0] != 101:
                pass
        for socket in mute:
            await socket.close()


async def test_one_too_many_is_told_so_after_the_upgrade(database: str) -> None:
    """Where all places are taken a browser can be told in words, since the connection is there: `bye overloaded`."""
    async with in_process(database, max_connections=1) as gateway, gateway.client():
        hints = set()
        for _ in range(5):
            async with gateway.client(hello=False) as late:
                hints.add((await late.expect("bye", code=4004, reason="overloaded"))["retry_after_ms"])
        assert all(2_500 <= hint <= 7_500 for hint in hints)
        assert len(hints) > 1


async def test_who_has_had_his_share_takes_no_other_place(database: str) -> None:
    """Two may come in at once; one address has one connection, and asks for more as often as it likes."""

    def come(address: str) -> connect:
        return connect(gateway.ws, compression=None, additional_headers={"X-Forwarded-For": address})

    limits, proxies = Limits(address_connections=1), ("127.0.0.0/8",)
    async with (
        in_process(database, limits=limits, trusted_proxies=proxies, connect_rate=1.0) as gateway,
        come("198.51.100.1"),
    ):
        for _ in range(10):
            with pytest.raises(InvalidStatus, match="429"):
                await come("198.51.100.1")
        async with come("198.51.100.2") as socket:
            peer = Peer(socket)
            await peer.send(type="hello", v=1)
            await peer.expect("welcome")
