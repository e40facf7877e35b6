"""What lies between a socket and aiohttp: the only file that relies on how aiohttp is made.

aiohttp is the HTTP server; the WebSockets here are not its own. A coroutine and a task for each of them, from its
parser to a handler, would be most of what an idle one costs. So a listening socket gives each connection to a protocol
of ours first, which hands it over to aiohttp or does not; an upgrade that aiohttp has read is taken back from it; and
of its WebSocket only the compiled reader is used. What this takes for granted is asserted one by one in
`tests/integration/test_wire.py`, so that an upgrade of aiohttp fails there and not in production.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from aiohttp import WSCloseCode, WSMessage, web
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import WebSocketError, WebSocketReader

from gateway.protocol.errors import FRAME_TOO_LARGE, PROTOCOL_ERROR
from gateway.protocol.framing import CLOSE, FINAL, OPCODE, Misframed

SEND_BUFFER_BYTES: Final = 128 * 1024
"""What the system keeps for a peer that does not take it; Linux doubles it for its own overhead. By itself it would let
the buffer grow to several megabytes."""
FRAGMENTS: Final = 1_024
"""Of one message. More of them than this is no sender's way to send, and empty ones would cost nothing to send."""

_CONTINUATION: Final = 0x0


class Messages:
    """Makes messages of one client's frames. A message in one frame leaves nothing behind."""

    __slots__ = ("_fragments", "_reader", "_readers", "held_bytes")

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._reader: WebSocketReader | None = None  # has read a part of a message
        self._fragments = 0
        self.held_bytes = 0
        """Of the message that has not ended."""

    def read(self, frame: bytes) -> WSMessage | None:
        """The message that ends with this frame, which must be a whole one. Raises `Misframed`."""
        opcode, final = frame[0] & OPCODE, frame[0] & FINAL
        if opcode >= CLOSE or (self._reader is None and (final or opcode == _CONTINUATION)):
            return self._readers.read(frame)
        if (opcode != _CONTINUATION) is (self._reader is not None):
            raise Misframed(PROTOCOL_ERROR)  # aiohttp would take an empty fragment for none
        if self._reader is None:
            self._reader, self._fragments = self._readers.new(), 0
        self._fragments += 1
        if self._fragments > FRAGMENTS:
            raise Misframed(FRAME_TOO_LARGE)
        reader = self._reader
        self.held_bytes += len(frame)
        if final:
            self._reader, self.held_bytes = None, 0
        return self._readers.read(frame, reader)


class Readers:
    """aiohttp's readers: one for all messages of one frame, whoever's they are, and those of longer messages."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: of a message."""
        self._most_bytes = most_bytes
        nothing: Any = None  # what its own flow control would use
        self._taken = _Taken(nothing, 0, loop=nothing)
        self._shared = self.new()

    def new(self) -> WebSocketReader:
        """One that has read nothing."""
        return WebSocketReader(self._taken, self._most_bytes, False, True)  # compress, decode_text

    def read(self, frame: bytes, reader: WebSocketReader | None = None) -> WSMessage | None:
        """What a reader makes of a whole frame, at once. Raises `Misframed`."""
        taken = self._taken
        (reader or self._shared).feed_data(frame)
        message, taken.message = taken.message, None
        if taken.error is None:
            return message
        error, taken.error = taken.error, None
        if reader is None:
            self._shared = self.new()  # one that has failed does not go on
        if not isinstance(error, WebSocketError):
            raise error
        large = error.code == WSCloseCode.MESSAGE_TOO_BIG
        raise Misframed(FRAME_TOO_LARGE if large else PROTOCOL_ERROR) from error


class _Taken(WebSocketDataQueue):
    """Where a reader puts its message, or why there is none: looked at as soon as it has returned."""

    message: WSMessage | None = None
    error: BaseException | None = None

    def feed_data(self, data: Any, size: int) -> None:
        self.message = data

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        self.error = exc


class Site(web.BaseSite):
    """Where a runner listens, with a protocol of ours for each connection."""

    def __init__(
        self,
        runner: web.AppRunner,
        protocol: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        backlog: int,
        shared: bool,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`shared`: other processes listen on the same port."""
        super().__init__(runner, ssl_context=ssl_context, backlog=backlog)
        self._protocol = protocol
        self._address = (host, port)
        self._shared = shared

    @property
    def name(self) -> str:
        """Its address."""
        host, port = self._address
        return f"{'http' if self._ssl_context is None else 'https'}://{host}:{port}"

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await super().start()
        server = await asyncio.get_running_loop().create_server(
            self._protocol,
            *self._address,
            ssl=self._ssl_context,
            backlog=self._backlog,
            reuse_port=self._shared or None,
        )
        self._server = server
        for listening in server.sockets:  # connections inherit it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def hand_over(transport: asyncio.Transport, runner: web.AppRunner, data: bytes) -> None:
    """Let aiohttp serve a connection, of which this has come so far."""
    if runner.server is None:  # it has ended
        transport.abort()
        return
    protocol = runner.server()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    protocol.data_received(data)


async def take_over(request: web.Request) -> tuple[asyncio.Transport, bytes]:
    """Take the connection of an upgrade that aiohttp would accept, and what has come behind the request.

    The caller answers it, gives the transport another protocol, and returns a `Taken` to aiohttp. Raises what aiohttp
    raises for an upgrade that it refuses (`web.HTTPBadRequest`), and ConnectionError where the peer is gone.
    """
    asked = web.WebSocketResponse(compress=False)
    if not asked.can_prepare(request):
        await asked.prepare(request)  # raises, with what is wrong
    protocol, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("The peer is gone.")
    unread, protocol._message_tail = protocol._message_tail, b""
    protocol.transport = None  # else it would be closed, as the connection that is now lost to aiohttp
    protocol.connection_lost(None)
    transport.resume_reading()  # held where much had come already
    return transport, unread


class Taken(web.StreamResponse):
    """What a handler returns for a connection that is not aiohttp's any more: nothing is written."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write no head."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nor an end."""
