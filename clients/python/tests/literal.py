"""Peers of these tests that are no gateway: one of literal answers, and a way to the gateway that takes no sockets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, serve

WELCOME: Final = {
    "type": "welcome",
    "v": 1,
    "session": "s",
    "epoch": "e",
    "ping_interval_ms": 25_000,
    "server_time": "2026-01-01T00:00:00Z",
    "limits": {"frame_bytes": 65_536},
}


@asynccontextmanager
async def literal_gateway(answers: Mapping[str, Sequence[dict[str, Any]]]) -> AsyncIterator[tuple[str, list[Any]]]:
    """Answers each message with ok, if it has an id, and the frames for its type; what it has heard is in the list."""
    heard: list[Any] = []

    async def converse(socket: ServerConnection) -> None:
        async for frame in socket:
            message = json.loads(frame)
            heard.append(message)
            if "id" in message:
                await socket.send(json.dumps({"type": "reply", "id": message["id"], "ok": True}))
            for answer in answers.get(message["type"], ()):
                await socket.send(json.dumps(answer))

    async with serve(converse, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1/ws", heard


class Narrow:
    """A way to a gateway on which, while `narrow`, WebSockets are answered with `refusal` and all else passes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: set[asyncio.StreamWriter] = set()
        self.narrow = True
        self.refusal = b"400 Bad Request"
        self.seen: Counter[str] = Counter()
        """Requests by path, without their queries."""
        self.url = ""

    def begin(self) -> None:
        """From now on no socket is taken, and those that are open break."""
        self.narrow = True
        for socket in self._sockets:
            socket.transport.abort()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Narrow]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/ws"
            yield self
            self.begin()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen[head.split()[1].partition(b"?")[0].decode()] += 1
            upgrade = b"upgrade: websocket" in head.lower()
            if upgrade and self.narrow:
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.refusal)
                return
            if upgrade:
                self._sockets.add(writer)
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self._port)
            their_writer.write(head)
            await asyncio.gather(_pump(reader, their_writer), _pump(their_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever it was has gone
        finally:
            self._sockets.discard(writer)
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()
