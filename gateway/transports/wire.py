"""The line under an aiohttp WebSocket: the only file that relies on how aiohttp is made.

aiohttp writes frame by frame: for each a header, a coroutine and a call of the system. Here ready frames go to the
transport as they are. What this takes for granted is asserted one by one in `tests/integration/test_wire.py`, so that
an upgrade of aiohttp fails there and not in production.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

SEND_BUFFER_BYTES: Final = 128 * 1024
"""What the system keeps for a peer that does not take it; Linux doubles it for its own overhead. By itself it would let
the buffer grow to several megabytes."""


class Wire:
    """Writes to one WebSocket after its upgrade. Raises ConnectionError where the peer is gone already."""

    __slots__ = ("_transport", "_writer", "open")

    def __init__(self, request: web.BaseRequest, writer: AbstractStreamWriter) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("The peer is gone.")
        # Paused as soon as the system does not take all, and until it has: `drain` waits for just that.
        transport.set_write_buffer_limits(high=0)
        self._transport: asyncio.WriteTransport = transport
        self._writer = writer
        self.open = True
        """Whether more frames may follow; none may after a closing frame."""

    def write(self, data: bytes) -> bool:
        """Write at once, in one call of the system; whether it has taken all. Where nobody is left, all is."""
        if not self.open:
            return True
        transport = self._transport
        try:
            transport.write(data)
        except RuntimeError:  # uvloop's word for a transport that has been closed
            self.open = False
            return True
        return not transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Wait until the system has taken all. Raises ConnectionError."""
        # Never under a timeout: aiohttp shares what is waited for, and a cancelled one poisons whoever waits next.
        await self._writer.drain()
        if self._transport.is_closing():
            raise ConnectionResetError("The peer is gone.")

    def unsent(self) -> int:
        """Bytes that the system has not taken."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Cut the line."""
        self.open = False
        self._transport.abort()


def bound_send_buffers(site: web.BaseSite) -> None:
    """Bound what the system keeps unsent for each connection of a site: they inherit it from the listening socket."""
    for listening in getattr(site._server, "sockets", ()):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
