"""A connection over WebSocket, on aiohttp. Compression is off; what aiohttp refuses by itself still gets its `bye`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from gateway.connection import CLOSE_SECONDS, Connection
from gateway.protocol import codec
from gateway.protocol.errors import FRAME_TOO_LARGE, OVERLOADED, PROTOCOL_ERROR, Bye, ProtocolError
from gateway.services import Services

log = structlog.get_logger(__name__)

HARD_FRAME_BYTES: Final = 4 * codec.FRAME_BYTES
"""Up to here a frame that is too large gets an answer and the connection goes on; beyond it aiohttp stops reading."""

_REFUSED_BY_AIOHTTP: Final = {
    WSCloseCode.MESSAGE_TOO_BIG: FRAME_TOO_LARGE,
    WSCloseCode.PROTOCOL_ERROR: PROTOCOL_ERROR,
    WSCloseCode.INVALID_TEXT: PROTOCOL_ERROR,
    WSCloseCode.UNSUPPORTED_DATA: PROTOCOL_ERROR,
}


class _WebSocket(web.WebSocketResponse):
    """Says `bye` in a frame also where aiohttp closes on its own, because close codes do not reach every client."""

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        refused = _REFUSED_BY_AIOHTTP.get(WSCloseCode(code)) if code in _REFUSED_BY_AIOHTTP else None
        if refused is None or self.closed:
            return await super().close(code=code, message=message, drain=drain)
        try:
            await self.send_frame(codec.bye(refused), WSMsgType.TEXT)
        except ConnectionError:
            pass  # the peer is gone already
        return await super().close(code=refused.code, message=refused.reason.encode(), drain=drain)


class _Transport:
    one_way = False

    def __init__(self, websocket: web.WebSocketResponse, request: web.Request) -> None:
        self._websocket = websocket
        self._request = request
        self.peer_gone = asyncio.Event()

    async def send(self, frames: Sequence[bytes]) -> None:
        # No timeout around a send: aiohttp's drain does not survive it. A peer that takes nothing is cut by `abort`.
        for frame in frames:
            await self._websocket.send_frame(frame, WSMsgType.TEXT)

    async def close(self, bye: Bye) -> None:
        # Some clients lose a frame that is followed by a close at once: let the peer, who knows why now, close first.
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.peer_gone.wait()
        except TimeoutError:
            pass
        await self._websocket.close(code=bye.code, message=bye.reason.encode())

    def abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


async def serve(request: web.Request, services: Services, token: str | None) -> web.StreamResponse:
    """Serve one client from upgrade to close."""
    websocket = _WebSocket(timeout=CLOSE_SECONDS, compress=False, max_msg_size=HARD_FRAME_BYTES)
    try:
        await websocket.prepare(request)
    except ConnectionError:
        return websocket  # gone before the upgrade was answered
    transport = _Transport(websocket, request)
    if services.hub.connections >= services.max_connections:
        log.warning("overloaded", connections=services.max_connections)
        await transport.send([codec.bye(OVERLOADED)])
        await transport.close(OVERLOADED)
        return websocket
    connection = Connection(services, transport, token=token)
    sender = asyncio.create_task(connection.run(), name=f"send {connection.id}")
    try:
        async for message in websocket:
            if message.type is WSMsgType.TEXT:
                await connection.receive(message.data)
            elif message.type is WSMsgType.BINARY:
                connection.refuse(ProtocolError("bad_json", "Frames are JSON in text, not binary."))
        transport.peer_gone.set()
        if connection.closing:
            await asyncio.wait([sender], timeout=2 * CLOSE_SECONDS)
    finally:
        sender.cancel()
        await asyncio.wait([sender])
    return websocket
