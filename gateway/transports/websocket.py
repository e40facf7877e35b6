"""WebSockets after their upgrade, each one protocol object on its socket: no task, no timer and no queue at rest.

Frames are cut off what comes, read one after the other, and given to the connection at once. What cannot be given yet
(others have their turn, or the connection has no room) stays as it came, and the peer is not read from.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

import structlog
from aiohttp import WSCloseCode, WSMsgType
from msgspec.structs import replace

from gateway.connection import Connection
from gateway.identity import Visitor
from gateway.inflow import FRAME_BYTES, FRAMES_PER_TURN
from gateway.limits.allowance import Allowance
from gateway.protocol import codec
from gateway.protocol.burst import Piece, ready_pieces
from gateway.protocol.errors import OVERLOADED, PROTOCOL_ERROR, Bye, ProtocolError
from gateway.protocol.framing import (
    CLOSE,
    OPCODE,
    Misframed,
    close_frame,
    end_of_frame,
    may_be_said,
    pong_frame,
    switching,
)
from gateway.sending import CLOSE_SECONDS
from gateway.services import Services
from gateway.transports.wire import Messages, Readers

log = structlog.get_logger(__name__)

HARD_FRAME_BYTES: Final = 4 * codec.FRAME_BYTES
"""Up to here a frame that is too large gets an answer and the connection goes on; beyond it nothing more is read."""

LOOK_SECONDS: Final = 0.02

OVERLOADED_MS: Final = (2_500, 7_500)
"""When one that finds no room is to come again; spread, so that those who came together do not."""


class WebSockets:
    """All of one process."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.readers = Readers(HARD_FRAME_BYTES)
        self._open: set[WebSocket] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    def let_in(
        self, transport: asyncio.Transport, *, key: str, visitor: Visitor, allowance: Allowance, unread: bytes
    ) -> None:
        """Answer an upgrade that was admitted, and serve who asked for it, from what has come behind it on.

        The allowance is closed with the socket.
        """
        services = self.services
        socket = WebSocket(self, transport, allowance)
        transport.set_protocol(socket)
        self._open.add(socket)
        transport.write(switching(key))
        if services.hub.connections < services.max_connections:
            connection = Connection(services, socket, visitor, allowance)
            services.admission.enter(connection.session)
            socket.serve(connection)
            connection.open()
        else:
            log.warning("overloaded", connections=services.max_connections)
            bye = replace(OVERLOADED, retry_after_ms=random.randint(*OVERLOADED_MS))  # noqa: S311 - spreads load
            socket.write([codec.bye(bye)])
            leaving = asyncio.create_task(socket.close(bye), name="overloaded")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        if unread:
            socket.data_received(unread)

    def left(self, socket: WebSocket) -> None:
        """It is gone."""
        self._open.discard(socket)

    async def close(self) -> None:
        """All were told to go: wait a short time for no more than their closing frames, and cut the rest."""
        try:
            async with asyncio.timeout(2 * CLOSE_SECONDS):
                while self._open:
                    for socket in self._open:
                        socket.hurry()
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            for socket in self._open:
                socket.abort()


class WebSocket(asyncio.Protocol):
    """One client. As the transport of its connection, it carries frames to it."""

    __slots__ = (
        "_allowance", "_connection", "_drained", "_gone", "_hears", "_held", "_messages", "_not_read", "_open",
        "_paused", "_pong", "_sockets", "_transport", "_unread",
    )  # fmt: skip

    one_way = False

    def __init__(self, sockets: WebSockets, transport: asyncio.Transport, allowance: Allowance) -> None:
        # Paused as soon as the system does not take all, and until it has. A TLS transport would take 0 for always.
        transport.set_write_buffer_limits(high=1, low=0)
        self._sockets = sockets
        self._transport = transport
        self._allowance = allowance
        self._connection: Connection | None = None
        self._messages = Messages(sockets.readers)
        self._unread: bytearray | None = None  # what came and was not given to the connection yet
        self._hears = True  # else the peer was told to go, and only a closing frame matters
        self._held = False  # until the connection has room, or this one its turn
        self._not_read = False  # the socket is not, because more has come while held
        self._open = True  # no closing frame was said
        self._paused = False
        self._pong: bytes | None = None  # the answer to the latest ping, while the peer does not take what it is sent
        self._drained: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None

    def serve(self, connection: Connection) -> None:
        """From now on what comes is for this connection."""
        self._connection = connection

    # What comes

    def data_received(self, data: bytes) -> None:
        """As asyncio's."""
        unread = self._unread
        if unread is None:
            if not self._held:
                self._take(data)
                return
            self._unread = bytearray(data)
        else:
            unread += data
            if not self._held:
                self._unread = None
                self._take(unread)
                return
        self._stop_reading()

    def eof_received(self) -> None:
        """As asyncio's: the transport closes."""

    def connection_lost(self, error: Exception | None) -> None:
        """As asyncio's: leave nothing behind."""
        self._open = self._hears = False
        self._unread = None
        self._sockets.left(self)
        self._allowance.close(time.monotonic())
        for waiting in (self._drained, self._gone):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def _take(self, data: bytes | bytearray) -> None:
        """Give the connection what it may have of this, and keep the rest."""
        at, size, turn = 0, len(data), FRAMES_PER_TURN
        try:
            while at < size and not self._held:
                end = end_of_frame(data, at, most_bytes=HARD_FRAME_BYTES - self._messages.held_bytes)
                if end is None or end > size:
                    break
                self._hear(data if end - at == size and isinstance(data, bytes) else bytes(data[at:end]))
                turn -= 1 + (end - at) // FRAME_BYTES
                wait = self._allowance.took(end - at, 1, time.monotonic())
                at = end
                connection = self._connection
                if wait:
                    self._held = True
                    asyncio.get_running_loop().call_later(wait, self._go_on)
                elif connection is not None and not connection.has_room:
                    self._held = True
                    connection.wait_for_room(self._go_on)
                elif turn <= 0 and at < size:  # a peer whose frames are all here must not keep the others waiting
                    self._held = True
                    asyncio.get_running_loop().call_soon(self._go_on)
        except Misframed as refused:
            self._refuse(refused.bye)
            at = size
        except Exception:
            log.exception("websocket_fault")
            self.abort()
            at = size
        if at < size and not self._transport.is_closing():
            self._unread = data if isinstance(data, bytearray) else bytearray(data)
            del self._unread[:at]  # copies nothing, however small the parts in which a long frame comes
            if self._held:
                self._stop_reading()

    def _go_on(self) -> None:
        """It is our turn, or there is room, again."""
        connection = self._connection
        if connection is not None and not connection.has_room:
            connection.wait_for_room(self._go_on)
            return
        self._held = False
        data, self._unread = self._unread, None
        if data is not None:
            self._take(data)
        if self._not_read and not self._held and not self._transport.is_closing():
            self._not_read = False
            self._transport.resume_reading()

    def _stop_reading(self) -> None:
        if not self._not_read and not self._transport.is_closing():
            self._not_read = True
            self._transport.pause_reading()

    def _hear(self, frame: bytes) -> None:
        connection = self._connection
        if connection is None or not self._hears:
            if frame[0] & OPCODE == CLOSE:
                self._finish(WSCloseCode.OK)
            return
        message = self._messages.read(frame)
        if message is None:  # a part of one
            return
        kind = message[0]
        if kind is WSMsgType.TEXT:
            connection.receive(message[1])
        elif kind is WSMsgType.BINARY:
            connection.refuse(ProtocolError("bad_json", "Frames are JSON in text, not binary."))
        elif kind is WSMsgType.CLOSE:
            if not may_be_said(message[1]):
                raise Misframed(PROTOCOL_ERROR)
            connection.flush()
            self._finish(WSCloseCode.OK)
            connection.release()
        elif (bye := self._allowance.control(time.monotonic())) is not None:
            connection.end(bye)
        elif kind is WSMsgType.PING:
            self._answer(pong_frame(message[1]))

    def _refuse(self, bye: Bye) -> None:
        """What comes is no WebSocket's: say so in words, as close codes do not reach every client."""
        if self._hears and self._connection is not None:
            self._hears = False
            self._connection.end(bye)

    # What goes

    def write(self, pieces: Sequence[Piece]) -> bool:
        """As a connection's transport; where nobody is left, all is taken."""
        return self._write(ready_pieces(pieces)) if self._open else True

    async def drained(self) -> None:
        """As a connection's transport."""
        if self._paused:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        if self._transport.is_closing():
            raise ConnectionResetError("The peer is gone.")

    def unsent(self) -> int:
        """As a connection's transport."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    async def close(self, bye: Bye) -> None:
        """As a connection's transport."""
        # Some clients lose a frame that is followed by a close at once: let the peer, who knows why now, close first.
        if self._hears:
            await self._gone_within(CLOSE_SECONDS)
        self._hears = False
        self._say_close(bye.code, bye.reason)
        await self._gone_within(CLOSE_SECONDS)
        self._finish(bye.code)

    def hurry(self) -> None:
        """Where the peer is to close, it has had its time: say the closing frame."""
        if self._open and self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def abort(self) -> None:
        """As a connection's transport."""
        self._open = self._hears = False
        self._transport.abort()

    def pause_writing(self) -> None:
        """As asyncio's."""
        self._paused = True

    def resume_writing(self) -> None:
        """As asyncio's."""
        self._paused = False
        pong, self._pong = self._pong, None
        if pong is not None:
            self._answer(pong)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _answer(self, pong: bytes) -> None:
        if self._paused:
            self._pong = pong  # only the latest ping has to be answered (RFC 6455, 5.5.3)
        elif self._open:
            self._write(pong)

    def _write(self, data: bytes) -> bool:
        """Write at once, in one call of the system; whether it has taken all."""
        transport = self._transport
        try:
            transport.write(data)
        except RuntimeError:  # uvloop's word for a transport that has been closed
            self._open = False
            return True
        return not transport.get_write_buffer_size()

    def _say_close(self, code: int, reason: str = "") -> None:
        if self._open:
            self._write(close_frame(code, reason))
            self._open = False

    async def _gone_within(self, seconds: float) -> None:
        """Wait until the peer has closed or is gone."""
        if self._transport.is_closing():
            return
        self._gone = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._gone
        except TimeoutError:
            pass

    def _finish(self, code: int) -> None:
        """End the conversation, and the line as soon as the system has taken all, or shortly."""
        self._say_close(code)
        self._hears = False
        transport = self._transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, transport.abort)
        transport.close()
