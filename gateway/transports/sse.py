"""One task as server-sent events: a session that subscribes by itself, its frames as events.

Each event's `id` is `epoch:seq`, so that a browser's own reconnect (`Last-Event-ID`) goes on exactly where it was. The
stream ends with the task; asked again from its end, the server answers 204 and the browser stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from gateway.auth import Principal
from gateway.connection import Connection
from gateway.limits.allowance import Allowance
from gateway.protocol.burst import Piece, frames_of
from gateway.protocol.errors import Bye
from gateway.protocol.messages import Cursor
from gateway.services import Services
from ledger.machine import TERMINAL, Status

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
RECONNECT_MS = 2_000


class _Transport:
    one_way = True

    def __init__(self, response: web.StreamResponse, request: web.Request, epoch: str) -> None:
        self._response = response
        self._request = request
        self._epoch = epoch
        self._unsent: list[bytes] = []
        self._last = False
        self.ended = asyncio.Event()

    def write(self, pieces: Sequence[Piece]) -> bool:
        self._unsent += [self._event(frame) for frame in frames_of(pieces)]
        return False  # aiohttp writes a part of a response only for those who wait

    async def drained(self) -> None:
        unsent, self._unsent = self._unsent, []
        await self._response.write(b"".join(unsent))
        if self._last:
            self.ended.set()

    def unsent(self) -> int:
        transport = self._request.transport
        size = sum(len(event) for event in self._unsent)
        return size if transport is None else size + transport.get_write_buffer_size()

    async def close(self, bye: Bye) -> None:
        self.ended.set()

    def abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
        self.ended.set()

    def _event(self, frame: bytes) -> bytes:
        content: dict[str, Any] = orjson.loads(frame)
        name: str = content["type"]
        if name in {"ping", "welcome", "reply"}:
            return b": " + name.encode() + b"\n\n"
        state = content["task"] if name == "snapshot" else content
        id_ = b""
        if name in {"snapshot", "transition"}:
            id_ = f"id: {self._epoch}:{state['seq']}\n".encode()
            if Status(state["status"]) in TERMINAL:
                self._last = True
        return id_ + b"event: " + name.encode() + b"\ndata: " + frame + b"\n\n"


async def serve(
    request: web.Request,
    services: Services,
    principal: Principal,
    task_id: str,
    after: Cursor | None,
    allowance: Allowance,
) -> web.StreamResponse:
    """Stream a task until it ends or the peer is gone."""
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    await response.write(f"retry: {RECONNECT_MS}\n\n".encode())
    transport = _Transport(response, request, services.epoch)
    connection = Connection(services, transport, allowance=allowance)
    connection.open()
    try:
        connection.watch_one(principal, task_id, after)
        await transport.ended.wait()
    finally:
        await connection.stop()
    return response


def cursor_of(last_event_id: str | None) -> Cursor | None:
    """The cursor in a `Last-Event-ID`, None when there is none that can be read."""
    epoch, _, seq = (last_event_id or "").rpartition(":")
    readable = epoch.isascii() and seq.isascii() and seq.isdigit() and len(seq) < 19
    return Cursor(epoch, int(seq)) if epoch and readable else None
