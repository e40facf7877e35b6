"""The orderly end of a process: whoever asked is answered, and the clients come back spread over a window.

    not ready        /health/ready says 503, and every answer over HTTP ends its connection
    closed           no new connections; a WebSocket that is asked for on an old one is refused
    no more taken    a new report is answered `unavailable` with `retry_after_ms`: nothing was written
    flushed          what was taken before is committed, answered, and told to watchers and to the bus; the reaper stops
    told             `bye` for each client with its own `retry_after_ms`; long polls and batches are answered
    over             the connections have ended, or their time has

What stands behind (pools, bus, an own PostgreSQL) is closed by `gateway.runtime` afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Final

import structlog
from aiohttp import web
from msgspec.structs import replace

from gateway.admission import Admission
from gateway.connection import Connection
from gateway.hub import Hub
from gateway.protocol.errors import SHUTTING_DOWN
from gateway.topics import STOPPING, Watcher
from ledger.reaper import Reaper
from ledger.writer import Writer

log = structlog.get_logger(__name__)

MARGIN_SECONDS: Final = 5.0
"""How much longer than its window a stop may take, for requests that have to be cut off and for the pools."""
FLUSH_PART: Final = 1 / 2
"""Of the window, for what is queued. The writer gives up on a database that is away by itself, and says so."""
LEAVE_PART: Final = 1 / 2
"""Of the window, for the clients to take their last frames. A client that takes nothing is cut after three seconds."""
BYES_PER_TURN: Final = 200
"""Then the others have their turn: replies that wait to be sent go out before the last client has been told."""
LOOK_SECONDS: Final = 0.02
LINGER_PART: Final = 1 / 50
"""Of the window, at the end: who was accepted just before the door closed sends a first request and gets an answer."""


class Drain:
    """One stop of a process; `run` it once."""

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._until: float | None = None

    @property
    def begun(self) -> bool:
        """Whether the process is about to end."""
        return self._until is not None

    @property
    def left_seconds(self) -> float:
        """What is left of the window."""
        if self._until is None:
            return self._window_seconds
        return max(0.0, self._until - asyncio.get_running_loop().time())

    async def run(self, runner: web.AppRunner, admission: Admission, hub: Hub, writer: Writer, reaper: Reaper) -> None:
        """Take leave of everybody, within the window if all can be told in it."""
        self._until = asyncio.get_running_loop().time() + self._window_seconds
        admission.close()
        for site in list(runner.sites):
            await site.stop()
        for watcher in hub.everyone:
            if not isinstance(watcher, Connection):
                watcher.notice(STOPPING)
        await asyncio.sleep(0)  # a batch breaks off at a line, rather than being told of each that it is too late
        writer.take_no_more()
        # Another node's reaper goes on at once; this one could not write any more.
        await asyncio.gather(writer.flush(self._window_seconds * FLUSH_PART), reaper.close())
        told = await self._tell(hub.everyone)  # all, however long it takes: else they would all come back at once
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(self._window_seconds * LEAVE_PART, self.left_seconds)):
                while everyone := hub.everyone:
                    await asyncio.sleep(LOOK_SECONDS)
                    told += await self._tell(everyone)  # one that was on its way in joins after the others were told
        await asyncio.sleep(self._window_seconds * LINGER_PART)
        log.info("drained", connections=told, left=len(hub.everyone), topics=hub.topics)

    async def _tell(self, everyone: frozenset[Watcher]) -> int:
        """Say goodbye to those who have not heard it; returns to how many."""
        told = 0
        for watcher in everyone:
            if not isinstance(watcher, Connection):
                watcher.notice(STOPPING)
            elif not watcher.closing:
                retry_after_ms = secrets.randbelow(int(self._window_seconds * 1000) + 1)
                watcher.end(replace(SHUTTING_DOWN, retry_after_ms=retry_after_ms))
                told += 1
                if told % BYES_PER_TURN == 0:
                    await asyncio.sleep(0)
        return told
