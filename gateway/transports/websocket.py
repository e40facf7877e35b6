"""A connection over WebSocket, on aiohttp. Compression is off; what aiohttp refuses by itself still gets its `bye`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from msgspec.structs import replace

from gateway.connection import Connection
from gateway.limits.allowance import Allowance
from gateway.protocol import codec
from gateway.protocol.burst import Piece, ready, ready_pieces
from gateway.protocol.errors import FRAME_TOO_LARGE, OVERLOADED, PROTOCOL_ERROR, Bye, ProtocolError
from gateway.sending import CLOSE_SECONDS
from gateway.services import Services
from gateway.transports.wire import Wire

log = structlog.get_logger(__name__)

HARD_FRAME_BYTES: Final = 4 * codec.FRAME_BYTES
"""Up to here a frame that is too large gets an answer and the connection goes on; beyond it aiohttp stops reading."""

OVERLOADED_MS: Final = (2_500, 7_500)
"""When one that finds no room is to come again; spread, so that those who came together do not."""

_REFUSED_BY_AIOHTTP: Final = {
    WSCloseCode.MESSAGE_TOO_BIG: FRAME_TOO_LARGE,
    WSCloseCode.PROTOCOL_ERROR: PROTOCOL_ERROR,
    WSCloseCode.INVALID_TEXT: PROTOCOL_ERROR,
    WSCloseCode.UNSUPPORTED_DATA: PROTOCOL_ERROR,
}


class _WebSocket(web.WebSocketResponse):
    """Says `bye` in a frame also where aiohttp closes on its own, because close codes do not reach every client."""

    wire: Wire | None = None

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        wire = self.wire
        if wire is not None and not self.closed:
            refused = _REFUSED_BY_AIOHTTP.get(WSCloseCode(code)) if code in _REFUSED_BY_AIOHTTP else None
            if refused is not None:
                wire.write(ready([codec.bye(refused)]))
                code, message = refused.code, refused.reason.encode()
            wire.open = False
        return await super().close(code=code, message=message, drain=drain)


class _Transport:
    __slots__ = ("_peer_gone", "_waiting", "_websocket", "_wire")

    one_way = False

    def __init__(self, websocket: _WebSocket, wire: Wire) -> None:
        websocket.wire = wire
        self._websocket = websocket
        self._wire = wire
        self._peer_gone = False
        self._waiting: asyncio.Event | None = None

    def write(self, pieces: Sequence[Piece]) -> bool:
        return self._wire.write(ready_pieces(pieces))

    async def drained(self) -> None:
        await self._wire.drained()

    def unsent(self) -> int:
        return self._wire.unsent()

    async def close(self, bye: Bye) -> None:
        # Some clients lose a frame that is followed by a close at once: let the peer, who knows why now, close first.
        if not self._peer_gone:
            self._waiting = asyncio.Event()
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._waiting.wait()
            except TimeoutError:
                pass
        await self._websocket.close(code=bye.code, message=bye.reason.encode())

    def abort(self) -> None:
        self._wire.abort()

    def note_peer_gone(self) -> None:
        """Nothing comes from the peer any more."""
        self._peer_gone = True
        if self._waiting is not None:
            self._waiting.set()


async def serve(
    request: web.Request, services: Services, token: str | None, allowance: Allowance
) -> web.StreamResponse:
    """Serve one client from upgrade to close. Raises `ProtocolError` when it is not the moment to connect."""
    services.admission.admit(time.monotonic())
    websocket = _WebSocket(timeout=CLOSE_SECONDS, compress=False, max_msg_size=HARD_FRAME_BYTES, autoping=False)
    try:
        writer = await websocket.prepare(request)
        transport = _Transport(websocket, Wire(request, writer))
    except ConnectionError:  # gone before the upgrade was answered; aiohttp would stumble over one that is not prepared
        return web.Response(status=400)
    if services.hub.connections >= services.max_connections:
        log.warning("overloaded", connections=services.max_connections)
        overloaded = replace(OVERLOADED, retry_after_ms=random.randint(*OVERLOADED_MS))  # noqa: S311 - spreads load
        transport.write([codec.bye(overloaded)])
        await transport.close(overloaded)
        return websocket
    connection = Connection(services, transport, token=token, allowance=allowance)
    services.admission.enter(connection.session)
    connection.open()
    try:
        async for message in websocket:
            if message.type is WSMsgType.TEXT:
                await connection.receive(message.data)
            elif message.type is WSMsgType.BINARY:
                connection.refuse(ProtocolError("bad_json", "Frames are JSON in text, not binary."))
            elif (bye := allowance.control(time.monotonic())) is not None:
                connection.end(bye)
            elif message.type is WSMsgType.PING:
                await websocket.pong(message.data)
        transport.note_peer_gone()
        if connection.closing:
            try:
                async with asyncio.timeout(2 * CLOSE_SECONDS):
                    await connection.ended.wait()
            except TimeoutError:
                pass
    finally:
        await connection.stop()
    return websocket
