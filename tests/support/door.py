"""A way to a gateway for one client: it can refuse WebSockets while HTTP passes, and its link can be made to fail.

It has one page of its own, `/blank`, so that a browser's page has the gateway's origin and is really loaded from there:
Chromium lets no page of unknown whereabouts connect to this machine.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from tests.support.proxy import Link, Proxy

HEAD_BYTES: Final = 65_536
BLANK: Final = b"<!doctype html><title>blank</title>"
PAGE: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(BLANK), BLANK)
REFUSAL: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Door:
    """Listens on a free local `port`. `shut`: upgrades to WebSocket are answered 503."""

    def __init__(self, port: int) -> None:
        self.link = Proxy(("127.0.0.1", port))
        self.shut = False
        self.refused = 0
        self.port = 0
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.link)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._stack.callback(server.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    @property
    def ws(self) -> str:
        """The address for a client."""
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    def break_link(self) -> None:
        """What is open is reset; what comes next passes."""
        self.link.set(Link.RESET)
        self.link.set(Link.PASS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /blank "):
                writer.write(PAGE)
                await writer.drain()
                return
            if self.shut and b"upgrade: websocket" in head.lower():
                self.refused += 1
                writer.write(REFUSAL)
                await writer.drain()
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.link.port)
            far_writer.write(head)
            try:
                await asyncio.wait(
                    {
                        asyncio.create_task(_pump(reader, far_writer)),
                        asyncio.create_task(_pump(far_reader, writer)),
                    },
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                far_writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # one side is gone, or the door is closed
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(HEAD_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
