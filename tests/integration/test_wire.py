"""What `gateway.transports.wire` takes for granted of aiohttp, asyncio and uvloop, one test for each thing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from aiohttp import ClientSession, WSMsgType, web

from gateway.protocol.burst import ready
from gateway.transports.wire import SEND_BUFFER_BYTES, Wire, bound_send_buffers

Serve = Callable[[web.WebSocketResponse, Wire], Awaitable[None]]
LARGE = b"x" * 8 * 1024 * 1024  # more than the system's buffers of both ends
SECONDS = 10


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """asyncio's own event loop is what tests run on elsewhere, uvloop what the product runs on."""

    @pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
    def run(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(test(), timeout=3 * SECONDS))

    run.__doc__ = test.__doc__
    return run


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[int]:
    """The port of a server that gives each WebSocket and its wire to `serve`."""

    async def upgrade(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(compress=False)
        await serve(websocket, Wire(request, await websocket.prepare(request)))
        return websocket

    app = web.Application()
    app.router.add_get("/", upgrade)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    bound_send_buffers(site)
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@on_both_loops
async def test_frames_that_were_built_here_are_what_a_client_reads() -> None:
    """Of all three lengths of a header, several in one write, between frames that aiohttp writes itself."""
    frames = [b"", b"{}", b"a" * 125, b"b" * 126, b"c" * 65_535, b"d" * 65_536]

    async def serve(websocket: web.WebSocketResponse, wire: Wire) -> None:
        await websocket.send_str("before")
        wire.write(ready(frames))
        await websocket.send_str("behind")
        await websocket.receive()

    async with served(serve) as port, ClientSession() as session:
        async with session.ws_connect(f"http://127.0.0.1:{port}/") as peer:
            got = [await peer.receive(SECONDS) for _ in range(len(frames) + 2)]
    assert all(message.type is WSMsgType.TEXT for message in got)
    assert [message.data.encode() for message in got] == [b"before", *frames, b"behind"]


@on_both_loops
async def test_a_write_says_whether_all_was_taken_and_drained_waits_for_the_rest() -> None:
    """Nothing is left when `drained` returns: the transport is paused from the first byte on."""
    seen: list[object] = []

    async def serve(websocket: web.WebSocketResponse, wire: Wire) -> None:
        seen.append(wire.write(ready([b"small"])))
        seen.append(wire.unsent())
        seen.append(wire.write(ready([LARGE])))
        seen.append(wire.unsent() > 0)
        go_on.set()
        await wire.drained()
        seen.append(wire.unsent())
        await websocket.receive()

    go_on = asyncio.Event()
    async with served(serve) as port, ClientSession() as session:
        async with session.ws_connect(f"http://127.0.0.1:{port}/", max_msg_size=0) as peer:
            await go_on.wait()
            assert (await peer.receive(SECONDS)).data == "small"
            assert len((await peer.receive(SECONDS)).data) == len(LARGE)
            await peer.close()
    assert seen == [True, 0, False, True, 0]


@on_both_loops
async def test_a_peer_that_goes_ends_the_wait() -> None:
    """With ConnectionError, and writes after that go nowhere."""
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def serve(websocket: web.WebSocketResponse, wire: Wire) -> None:
        wire.write(ready([LARGE]))
        go_on.set()
        try:
            await wire.drained()
        except ConnectionError:
            ended.set_result(wire.write(b"more"))
        finally:
            if not ended.done():
                ended.set_result(False)

    go_on = asyncio.Event()
    async with served(serve) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        writer.transport.abort()
        async with asyncio.timeout(SECONDS):
            assert await ended


@on_both_loops
async def test_nothing_follows_a_closed_wire() -> None:
    """What is written after an abort is dropped."""

    async def serve(websocket: web.WebSocketResponse, wire: Wire) -> None:
        wire.abort()
        done.set_result((wire.open, wire.write(b"more"), wire.unsent()))

    done: asyncio.Future[tuple[bool, bool, int]] = asyncio.get_running_loop().create_future()
    async with served(serve) as port, ClientSession() as session:
        with pytest.raises((ConnectionError, TypeError)):
            async with session.ws_connect(f"http://127.0.0.1:{port}/") as peer:
                assert (await peer.receive(SECONDS)).type is WSMsgType.CLOSED
                raise ConnectionError
    assert await done == (False, True, 0)


@on_both_loops
async def test_connections_inherit_the_bound_of_the_listening_socket() -> None:
    """Linux doubles what it was told."""
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(websocket: web.WebSocketResponse, wire: Wire) -> None:
        own = websocket.get_extra_info("socket")
        told.set_result(own.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))

    async with served(serve) as port, ClientSession() as session:
        async with session.ws_connect(f"http://127.0.0.1:{port}/"):
            assert SEND_BUFFER_BYTES <= await told <= 2 * SEND_BUFFER_BYTES
