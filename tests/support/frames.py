"""WebSocket by hand, for what no client library would send: upgrades as bytes, frames as bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson

from tests.support.waiting import WAIT_SECONDS

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT: Final = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What RFC 6455 (1.3) answers to this key."""
HELLO: Final = b'{"type":"hello","v":1}'
CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA


def upgrade(*headers: str, path: str = "/v1/ws", without: str = "") -> bytes:
    """An upgrade as clients send it, with these headers besides, and without one."""
    lines = [
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    kept = [line for line in lines if not without or not line.lower().startswith(without + ":")]
    return "\r\n".join([f"GET {path} HTTP/1.1", *kept, *headers, "", ""]).encode()


def frame(payload: bytes = b"", opcode: int = TEXT, *, final: bool = True, masked: bool = True) -> bytes:
    """A client's frame."""
    first, bit, size = opcode | (0x80 if final else 0), 0x80 if masked else 0, len(payload)
    if size < 126:
        header = bytes((first, bit | size))
    elif size < 65_536:
        header = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        header = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    if not masked:
        return header + payload
    mask = b"\x11\xa2\x33\xc4"
    return header + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


class Raw:
    """A client that sends bytes, and reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, str]:
        """Status and head of the answer."""
        async with asyncio.timeout(WAIT_SECONDS):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        return int(text.split(" ", 2)[1]), text

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame. Raises `asyncio.IncompleteReadError` where there is none."""
        async with asyncio.timeout(WAIT_SECONDS):
            first, size = await self._reader.readexactly(2)
            if size > 125:
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
            return first & 0x0F, await self._reader.readexactly(size)

    async def message(self) -> dict[str, Any]:
        """The next message; the server's own pings are left out."""
        while True:
            opcode, payload = await self.frame()
            assert opcode == TEXT, (opcode, payload)
            found: dict[str, Any] = orjson.loads(payload)
            if found["type"] != "ping":
                return found

    async def closed(self) -> int:
        """The code of the closing frame, which must be next."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2], "big")

    async def rest(self) -> bytes:
        """All that comes until the server has closed."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self._reader.read()


@asynccontextmanager
async def raw(port: int, *, receive_bytes: int | None = None) -> AsyncIterator[Raw]:
    """A connection to a port of this machine; its system takes about so much that is not read."""
    own = socket.socket()
    own.setblocking(False)
    if receive_bytes is not None:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=own, limit=receive_bytes or 2**16)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def upgraded(port: int, *, receive_bytes: int | None = None) -> AsyncIterator[Raw]:
    """One past `welcome`."""
    async with raw(port, receive_bytes=receive_bytes) as peer:
        peer.send(upgrade() + frame(HELLO))
        assert (await peer.head())[0] == 101
        assert (await peer.message())["type"] == "welcome"
        yield peer
