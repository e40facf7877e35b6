"""Ledgerwire without its ledger: the gateway as `serve` runs it, its commits told by the client of the bench.

Everything between the hub and the socket is the product's. What comes on `/bench/commit`, frames of
`[[channel, time], ...]`, is told to the hub as the writer tells it what a group commit has committed, and kept in
memory for whoever has to read it again. Comparable with servers that have nothing durable; no part of the product.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from unittest.mock import patch

import orjson
import uvloop
from aiohttp import web

from gateway import runtime
from gateway.auth import Anyone
from gateway.http import app as http_app
from gateway.hub import Hub
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.telemetry import configure_logging
from ledger.machine import Liveness, Status
from ledger.model import Head, Key, Task, Transition, task_key
from ledger.reader import REPLAY_ROWS, Reader
from scripts.bench.wire import PAD, STAGE, TASK

KEPT: Final = 64
"""Transitions kept of each task: whoever falls back further finds a hole, and the run is refused."""
BATCH: Final = 500
"""Transitions in a commit at most, as in a group commit."""


class Paper:
    """What would be in the ledger."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._last: dict[Key, int] = {}
        self._kept: dict[Key, deque[Transition]] = {}

    def commit(self, hub: Hub, entries: Sequence[tuple[str, int]]) -> None:
        """A group commit: each task's transitions together, the tasks in the order of their keys."""
        at = datetime.now(UTC)
        named = [(TASK.replace("{c}", channel), time) for channel, time in entries]
        keyed = sorted((task_key(self._tenant, task_id), task_id, time) for task_id, time in named)
        transitions = [self._next(key, task_id, time, at) for key, task_id, time in keyed]
        hub.committed(transitions, list({each.key: each.seq for each in transitions}.items()))

    def _next(self, key: Key, task_id: str, time: int, at: datetime) -> Transition:
        seq = self._last[key] = self._last.get(key, 0) + 1
        transition = Transition(
            key=key,
            task_id=task_id,
            seq=seq,
            status=Status.RUNNING,
            attempt=1,
            progress=42.0,
            stage=STAGE,
            message=None,
            data=b'{"ts":%d,"pad":"%b"}' % (time, PAD.encode()),
            result=None,
            error=None,
            cancel=None,
            reason=None,
            at=at,
        )
        self._kept.setdefault(key, deque(maxlen=KEPT)).append(transition)
        return transition

    def heads(self, keys: Iterable[Key]) -> dict[Key, Head]:
        """How far each task has come."""
        return {
            key: Head(seq=self._last[key], status=Status.RUNNING, liveness=Liveness.LIVE, beat_age_ms=0)
            for key in keys
            if key in self._last
        }

    def after(self, key: Key, seq: int) -> list[Transition]:
        """What was kept of a task behind a sequence."""
        return [transition for transition in self._kept.get(key, ()) if transition.seq > seq]


PAPER: Final = Paper(asyncio.run(Anyone().authenticate(None)).tenant)


class PaperReader(Reader):
    """Reads tasks where they are; the epoch, and all else, from the database, where no task is."""

    async def tasks(self, keys: Sequence[Key]) -> list[Task]:
        """None: all subscribe before anything is committed."""
        return []

    async def heads(self, keys: Sequence[Key]) -> dict[Key, Head]:
        """As the reader's."""
        return PAPER.heads(keys)

    async def replay(self, cursors: Sequence[tuple[Key, int]], *, limit: int = REPLAY_ROWS) -> list[Transition]:
        """As the reader's."""
        return [transition for key, seq in cursors for transition in PAPER.after(key, seq)][:limit]


class Commits:
    """Takes what is there as soon as the last commit is told, as the writer does; none takes any time."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._waiting: list[tuple[str, int]] = []
        self._wake = asyncio.Event()

    def put(self, entries: Iterable[tuple[str, int]]) -> None:
        """To be committed."""
        self._waiting += entries
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._wake.wait()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            PAPER.commit(self._hub, batch)
            if not self._waiting:
                self._wake.clear()
            await asyncio.sleep(0)  # between two commits the others have their turn


_build = http_app.build


def build(services: Services, *given: Any, **more: Any) -> web.Application:
    """The product's application, with the way in for commits."""

    commits = Commits(services.hub)

    async def commit(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=0)
        await socket.prepare(request)
        committing = asyncio.create_task(commits.run())
        try:
            async for message in socket:
                commits.put(orjson.loads(message.data))
        finally:
            committing.cancel()
        return socket

    app = _build(services, *given, **more)
    app.router.add_get("/bench/commit", commit)
    return app


def main() -> None:
    """Serve on the port given, until a signal; DATABASE_URL is of a ledger, which stays empty."""
    settings = GatewaySettings.compose(os.environ, port=int(sys.argv[1]), log_level="warning")
    configure_logging(settings.log_level)
    dsn = settings.ledger.database_url
    if dsn is None:
        sys.exit("hub_only: DATABASE_URL is missing")
    # By name, so that a runtime that is wired otherwise fails here, and not in a figure.
    with patch.object(runtime, "Reader", PaperReader), patch.object(http_app, "build", build):
        uvloop.run(runtime.serve(settings, dsn, database_runs=lambda: True))


if __name__ == "__main__":
    main()
