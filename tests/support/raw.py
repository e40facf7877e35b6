"""A WebSocket client that sends what no library would: frames bit by bit, and what comes back of them."""

from __future__ import annotations

import asyncio
import os
import struct
from contextlib import suppress
from typing import Any, Final

import orjson

from tests.support.waiting import WAIT_SECONDS

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE: Final = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ENDED: Final = -1
"""The line was closed or cut without a closing frame."""
ALIVE: Final = 0
"""What came behind was answered."""


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    mask: bytes | None = None,
    length: int | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """One frame. `length` is what its header says; `length_bytes` in how many bytes (0, 2 or 8)."""
    said = len(payload) if length is None else length
    width = (0 if said < 126 else 2 if said < 65_536 else 8) if length_bytes is None else length_bytes
    short = {0: said, 2: 126, 8: 127}[width]
    head = bytes([fin << 7 | rsv << 4 | opcode, masked << 7 | short])
    head += struct.pack({0: "!", 2: "!H", 8: "!Q"}[width], *([said] if width else []))
    if not masked:
        return head + payload
    mask = os.urandom(4) if mask is None else mask
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def message(**members: Any) -> bytes:
    """One message of the protocol in one frame."""
    return frame(TEXT, orjson.dumps(members))


class Raw:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Raw:
        """Without a word."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    @classmethod
    async def opened(cls, port: int, *, head: bytes = UPGRADE) -> Raw:
        """Past the upgrade and welcome."""
        raw = await cls.connect(port)
        await raw.send(head)
        assert (await raw.answer()).startswith(b"HTTP/1.1 101 ")
        await raw.send(message(type="hello", v=1))
        opcode, payload = await raw.frame()
        assert (opcode, orjson.loads(payload)["type"]) == (TEXT, "welcome")
        return raw

    async def send(self, data: bytes) -> None:
        """All of it, where the peer takes it; one that has closed in the meantime does not."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self) -> bytes:
        """The head of an HTTP answer; what there is of it where the line ends."""
        try:
            return await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            return error.partial
        except ConnectionError:
            return b""

    async def rest(self) -> bytes:
        """Say that nothing more will come; everything up to the end of the line."""
        with suppress(ConnectionError, OSError):
            self._writer.write_eof()
            return await self._reader.read()
        return b""

    async def frame(self) -> tuple[int, bytes]:
        """The next frame from the server, which has to be whole, unmasked and without reserved bits."""
        first, second = await self._reader.readexactly(2)
        assert first & 0xF0 == 0x80
        assert second < 128
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif second == 127:
            (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
        return first & 0x0F, await self._reader.readexactly(size)

    async def outcome(self, seconds: float = WAIT_SECONDS) -> int:
        """How it ends: the code of the closing frame, `ENDED`, or `ALIVE` after a `pong` in words."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    opcode, payload = await self.frame()
                    if opcode == CLOSE:
                        return int.from_bytes(payload[:2], "big")
                    if opcode == TEXT and orjson.loads(payload)["type"] == "pong":
                        return ALIVE
        except (asyncio.IncompleteReadError, ConnectionError):
            return ENDED

    def close(self) -> None:
        """Cut the line."""
        self._writer.transport.abort()
