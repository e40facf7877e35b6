"""What `gateway.transports.wire` takes for granted of aiohttp, asyncio and uvloop, one test for each thing."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import pytest
import uvloop
from aiohttp import ClientSession, WSMsgType, web

from gateway.protocol.burst import ready
from gateway.protocol.errors import FRAME_TOO_LARGE, PROTOCOL_ERROR
from gateway.protocol.framing import Misframed, close_frame, switching
from gateway.transports.wire import (
    FRAGMENTS,
    SEND_BUFFER_BYTES,
    Messages,
    Readers,
    Site,
    Taken,
    hand_over,
    take_over,
)
from tests.support.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Raw, frame, raw, upgrade
from tests.support.postgres import temporary_folder

LARGE: Final = b"x" * 8 * 1024 * 1024  # more than the system's buffers of both ends
SECONDS: Final = 10
LOOPS: Final = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
MOST: Final = 1_000


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """asyncio's own event loop is what tests run on elsewhere, uvloop what the product runs on."""

    @pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
    def run(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(asyncio.wait_for(test(), timeout=3 * SECONDS))

    run.__doc__ = test.__doc__
    return run


# aiohttp's reader


def messages() -> Messages:
    return Messages(Readers(MOST))


def test_messages_are_there_as_soon_as_their_last_frame_is() -> None:
    """Of every kind, whole and in fragments, with control frames between these."""
    peer = messages()

    def read(*given: Any, **more: Any) -> tuple[Any, ...] | None:
        message = peer.read(frame(*given, **more))
        return None if message is None else tuple(message)[:2]

    for _ in range(2):
        assert read(b"{}") == (WSMsgType.TEXT, "{}")
        assert read("ü".encode()) == (WSMsgType.TEXT, "ü")
        assert read(b"\xff", BINARY) == (WSMsgType.BINARY, b"\xff")
        assert read(b"?", PING) == (WSMsgType.PING, b"?")
        assert read(b"!", PONG) == (WSMsgType.PONG, b"!")
        assert read(b"", CLOSE) == (WSMsgType.CLOSE, 0)
        assert read(b"\x03\xe8why", CLOSE) == (WSMsgType.CLOSE, 1000)
        assert read("ü".encode()[:1], final=False) is None
        assert read(b"?", PING) == (WSMsgType.PING, b"?")
        assert read("ü".encode()[1:], CONTINUATION, final=False) is None
        assert read(b"", CONTINUATION) == (WSMsgType.TEXT, "ü")
        assert peer._reader is None


def test_a_message_of_one_frame_leaves_nothing_behind() -> None:
    """One reader serves all peers, also between the fragments of one of them, and after another's mistake."""
    readers = Readers(MOST)
    one, other = Messages(readers), Messages(readers)
    for number in range(200):
        assert one.read(frame(b"in part", final=False)) is None
        whole = other.read(frame(b"%d" % number))
        assert whole is not None
        assert whole.data == str(number)
        with pytest.raises(Misframed):
            other.read(frame(b"\xff"))
        joined = one.read(frame(b", and whole", CONTINUATION))
        assert joined is not None
        assert joined.data == "in part, and whole"


@pytest.mark.parametrize(
    "frames",
    [
        [frame(b"", CONTINUATION)],
        [frame(b"", CONTINUATION, final=False)],
        [frame(b"a", final=False), frame(b"b")],
        [frame(b"", final=False), frame(b"b")],
        [frame(b"", final=False), frame(b"b", final=False)],
        [frame(b"", 0x3)],
        [frame(b"", 0xB)],
        [frame(b"", PING, final=False)],
        [frame(b"x" * 126, PING)],
        [bytes((0x80 | TEXT | 0x40,)) + frame(b"")[1:]],  # compressed, which was not agreed
        [frame(b"\xff")],
        [frame(b"\xc3", final=False), frame(b"", CONTINUATION)],
        [frame(b"\x03", CLOSE)],
        [frame(b"\x03\xed", CLOSE)],  # 1005, which may not be sent
        [frame(b"\x03\xe8\xff", CLOSE)],
    ],
)
def test_what_is_no_message_is_refused(frames: list[bytes]) -> None:
    """By aiohttp's reader, and before it where this would take it."""
    peer = messages()
    for each in frames[:-1]:
        assert peer.read(each) is None
    with pytest.raises(Misframed) as refused:
        peer.read(frames[-1])
    assert refused.value.bye is PROTOCOL_ERROR


def test_a_message_has_a_bound_in_bytes_and_in_fragments() -> None:
    """A fragment that carries nothing counts, too."""
    with pytest.raises(Misframed) as refused:
        messages().read(frame(b"x" * MOST))
    assert refused.value.bye is FRAME_TOO_LARGE
    for size in (100, 0):
        peer = messages()
        assert peer.read(frame(final=False)) is None
        with pytest.raises(Misframed) as refused:
            for _ in range(FRAGMENTS):
                assert peer.read(frame(b"x" * size, CONTINUATION, final=False)) is None
        assert refused.value.bye is FRAME_TOO_LARGE


# The transports of both loops


class Line(asyncio.Protocol):
    """A server's end, as the WebSockets use their transport; sends something LARGE when it hears anything."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.lost = asyncio.Event()
        self.drained = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        for text in (b"small", LARGE, b"small"):
            self.transport.write(ready([text]))
            self.events.append("taken" if not self.transport.get_write_buffer_size() else "not taken")

    def pause_writing(self) -> None:
        self.events.append("paused")

    def resume_writing(self) -> None:
        self.events.append(f"resumed with {self.transport.get_write_buffer_size()}")
        self.drained.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


@asynccontextmanager
async def listening(
    protocol: Callable[[], asyncio.Protocol], app: web.Application | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, web.AppRunner]]:
    """The port of a site, and the runner of the application behind it."""
    runner = web.AppRunner(app or web.Application(), shutdown_timeout=1.0)
    await runner.setup()
    site = Site(runner, protocol, "127.0.0.1", 0, backlog=8, shared=False, ssl_context=tls)
    await site.start()
    try:
        yield int(runner.addresses[0][1]), runner
    finally:
        await runner.cleanup()


@on_both_loops
async def test_writing_is_paused_from_the_first_byte_that_is_not_taken_until_all_is() -> None:
    """So it is known in the turn of a write whether all of it has left, and waited for exactly."""
    line = Line()
    async with listening(lambda: line) as (port, _), raw(port) as peer:
        peer.send(b"!")
        assert await peer.frame() == (TEXT, b"small")
        assert await peer.frame() == (TEXT, LARGE)
        await line.drained.wait()
        assert line.events == ["taken", "paused", "not taken", "not taken", "resumed with 0"]


@on_both_loops
async def test_a_peer_that_goes_is_noticed_and_writes_go_nowhere() -> None:
    """A transport that was cut says so, and takes a write without a word, or with RuntimeError."""
    line = Line()
    async with listening(lambda: line) as (port, _):
        async with raw(port) as peer:
            peer.send(b"!")
            assert await peer.frame() == (TEXT, b"small")
            peer.writer.transport.abort()
            await line.lost.wait()
        assert line.transport.is_closing()
        try:
            line.transport.write(b"more")
        except RuntimeError:
            assert type(asyncio.get_running_loop()) is uvloop.Loop


@on_both_loops
async def test_connections_inherit_the_bound_of_the_listening_socket() -> None:
    """Linux doubles what it was told."""
    line = Line()
    async with listening(lambda: line) as (port, _), raw(port) as peer:
        peer.send(b"!")
        await peer.frame()
        own = line.transport.get_extra_info("socket")
        assert SEND_BUFFER_BYTES <= own.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES


# To aiohttp, and back


class Handing(asyncio.Protocol):
    """Hands over whatever comes first."""

    def __init__(self, runner: Callable[[], web.AppRunner]) -> None:
        self._runner = runner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        hand_over(self._transport, self._runner(), data)


class Echo(asyncio.Protocol):
    """What takes a connection back: says what it hears."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


class Taking:
    """An application that answers, and gives an upgrade away; its `Handing` door in front of it."""

    def __init__(self) -> None:
        self.echoes: list[Echo] = []
        self.app = web.Application()
        self.app.router.add_get("/take", self._take)
        self.app.router.add_post("/", self._post)
        self.runner: web.AppRunner

    async def _post(self, request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def _take(self, request: web.Request) -> web.StreamResponse:
        transport, unread = await take_over(request)
        echo = Echo(transport)
        self.echoes.append(echo)
        transport.set_protocol(echo)
        transport.write(b"HTTP/1.1 101 Taken\r\n\r\n" + unread)
        return Taken()

    @asynccontextmanager
    async def served(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        async with listening(lambda: Handing(lambda: self.runner), self.app, tls) as (port, self.runner):
            yield port

    def known(self) -> int:
        """How many connections aiohttp knows of."""
        assert self.runner.server is not None
        return len(self.runner.server.connections)


@on_both_loops
async def test_aiohttp_serves_what_is_handed_over() -> None:
    """From the first byte on, a body that comes later, one request after the other, and an end."""
    taking = Taking()
    async with taking.served() as port, raw(port) as peer:
        for _ in range(2):
            peer.send(b"P")
            peer.send(b"OST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbo")
            peer.send(b"dy")
            assert (await peer.head())[0] == 200
            assert await peer._reader.readexactly(4) == b"body"
        assert taking.known() == 1
        peer.send(b"no request\r\n\r\n")
        assert (await peer.head())[0] == 400
        await peer.rest()


async def said(peer: Raw, text: bytes) -> None:
    """The peer gets this."""
    async with asyncio.timeout(SECONDS):
        assert await peer._reader.readexactly(len(text)) == text


@on_both_loops
async def test_an_upgrade_is_taken_back_with_what_came_behind_it() -> None:
    """A lot, so that aiohttp has stopped reading; it then knows nothing of the connection, and cannot end it."""
    much = b"much" * 100_000
    taking = Taking()
    async with taking.served() as port:
        async with raw(port) as peer:
            peer.send(upgrade(path="/take") + much)
            assert (await peer.head())[0] == 101
            await said(peer, much)
            peer.send(b"more")
            await said(peer, b"more")
            assert taking.known() == 0
            await taking.runner.cleanup()
            peer.send(b"and on")
            await said(peer, b"and on")
        (echo,) = taking.echoes
        await echo.lost.wait()


@on_both_loops
async def test_an_upgrade_that_aiohttp_refuses_is_refused_by_it() -> None:
    """In its words; the next request on the connection is served."""
    taking = Taking()
    async with taking.served() as port, raw(port) as peer:
        for asked in (
            upgrade(path="/take", without="sec-websocket-key"),
            upgrade("Sec-WebSocket-Version: 9", path="/take", without="sec-websocket-version"),
        ):
            peer.send(asked)
            status, head = await peer.head()
            assert status == 400
            await peer._reader.readexactly(int(head.lower().split("content-length: ")[1].split("\r\n")[0]))
        peer.send(upgrade(path="/take"))
        assert (await peer.head())[0] == 101
        assert len(taking.echoes) == 1


# TLS


@pytest.fixture(scope="module")
def tls() -> Iterator[tuple[ssl.SSLContext, ssl.SSLContext]]:
    """A server's context with a certificate of its own, and a client's that trusts it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, for a certificate")
    with temporary_folder() as folder:
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        subprocess.run([openssl, *words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        client = ssl.create_default_context(cafile=str(certificate))
        yield server, client


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_all_this_is_so_under_tls(
    loop: Callable[[], asyncio.AbstractEventLoop], tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Handed over, answered, taken back with what came behind; a peer that takes nothing is told of a write later."""
    server, client = tls

    async def connected(port: int) -> Raw:
        return Raw(*await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost"))

    async def test() -> None:
        taking = Taking()
        async with taking.served(server) as port:
            peer = await connected(port)
            peer.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
            assert (await peer.head())[0] == 200
            await said(peer, b"body")
            peer.send(upgrade(path="/take") + b"much" * 100_000)
            assert (await peer.head())[0] == 101
            await said(peer, b"much" * 100_000)
            assert taking.known() == 0
            peer.writer.transport.abort()
            await taking.echoes[0].lost.wait()
        line = Line()
        async with listening(lambda: line, tls=server) as (port, _):
            peer = await connected(port)
            peer.send(b"!")
            assert await peer.frame() == (TEXT, b"small")
            assert await peer.frame() == (TEXT, LARGE)
            assert await peer.frame() == (TEXT, b"small")
            # What is encrypted lies in another transport: one write is taken that the system has not taken.
            assert [event for event in line.events if "taken" in event] == ["taken", "taken", "not taken"]
            assert line.events[-1] == "resumed with 0"
            assert line.events.count("paused") == line.events.count("resumed with 0")
            peer.writer.transport.abort()
            await line.lost.wait()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(test(), timeout=3 * SECONDS))


@on_both_loops
async def test_frames_that_were_built_here_are_what_a_client_reads() -> None:
    """Of all three lengths of a header, several in one write."""
    frames = [b"", b"{}", b"a" * 125, b"b" * 126, b"c" * 65_535, b"d" * 65_536]

    class Sender(Line):
        def data_received(self, data: bytes) -> None:
            accept = next(line for line in data.decode().split("\r\n") if line.lower().startswith("sec-websocket-key"))
            self.transport.write(switching(accept.partition(": ")[2]))
            self.transport.write(ready(frames) + close_frame(4000, "why"))

    async with listening(Sender) as (port, _), ClientSession() as session:
        async with session.ws_connect(f"http://127.0.0.1:{port}/") as peer:
            got = [await peer.receive(SECONDS) for _ in frames]
            assert (await peer.receive(SECONDS)).type is WSMsgType.CLOSE
            assert peer.close_code == 4000
    assert all(message.type is WSMsgType.TEXT for message in got)
    assert [message.data.encode() for message in got] == frames
