"""A TCP proxy whose link can be made to fail: swallow everything, swallow the answers, or reset.

Unprivileged and portable, unlike packet filters. It forwards bytes and understands none of them.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from types import TracebackType
from typing import Self


class Link(enum.Enum):
    """What the link does with bytes."""

    PASS = "pass"
    STALL = "stall"  # sockets stay open, nothing is forwarded in either direction
    MUTE = "mute"  # what the client says arrives, the answers do not
    RESET = "reset"  # open connections are reset, new ones too


class Proxy:
    """Listens on a free local `port` and forwards to `target`: (host, port), or the path of a Unix socket."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._link = Link.PASS
        self._changed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._stranded: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, link: Link) -> None:
        """Change the link, for open and for new connections. Back to PASS, what was held is forwarded."""
        self._link = link
        self._changed.set()
        self._changed = asyncio.Event()
        if link is Link.RESET:
            self._reset_all()

    def strand(self) -> None:
        """From now on swallow everything on the connections that are open, silently; new ones pass.

        It is what a firewall does that has forgotten an idle connection.
        """
        self._stranded |= self._tasks

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        self.accepted += 1
        try:
            if self._link is not Link.RESET:
                await self._forward(task, reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy is closed; asyncio's own callback would report it as an error
        finally:
            self._writers.discard(writer)
            if self._link is Link.RESET:
                _reset(writer)
            writer.transport.abort()

    async def _forward(
        self, owner: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await self._until(Link.PASS, Link.MUTE)
        far_writer = None
        try:
            if isinstance(self._target, str):
                far_reader, far_writer = await asyncio.open_unix_connection(self._target)
            else:
                far_reader, far_writer = await asyncio.open_connection(*self._target)
            self._writers.add(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(owner, reader, far_writer, (Link.PASS, Link.MUTE)))
                group.create_task(self._pump(owner, far_reader, writer, (Link.PASS,)))
        except* OSError:
            pass  # one side is gone, or nobody listens there
        finally:
            if far_writer is not None:
                self._writers.discard(far_writer)
                far_writer.transport.abort()

    async def _pump(
        self,
        owner: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passing: tuple[Link, ...],
    ) -> None:
        while True:
            data = await reader.read(65_536)
            await self._until(*passing)  # a black hole swallows the end of a connection too
            if owner in self._stranded:
                await asyncio.Event().wait()
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _until(self, *links: Link) -> None:
        while self._link not in links:
            await self._changed.wait()

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST instead of a FIN."""
    if writer.transport.is_closing():
        return
    endpoint = writer.get_extra_info("socket")
    if endpoint.family != socket.AF_UNIX:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
