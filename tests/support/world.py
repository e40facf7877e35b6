"""The parts of two gateways over one database, for tests without an event loop, where time can be made to pass.

Both have a writer; the first has the hub and those who watch, the second tells it of its commits by hints.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import asyncpg
from msgspec.structs import replace

from gateway.admission import Admission
from gateway.auth import Principal
from gateway.auth.tickets import TicketOffice
from gateway.bus.local import LocalBus
from gateway.bus.port import Hint
from gateway.connection import Connection
from gateway.hub import Hub
from gateway.limits.quotas import Quotas
from gateway.limits.rates import Limits
from gateway.principal import EVERYTHING
from gateway.protocol.burst import Piece, frames_of
from gateway.protocol.errors import Bye
from gateway.replay import Replays
from gateway.services import Services
from ledger.batch import Answer
from ledger.epoch import History
from ledger.errors import Unavailable
from ledger.leases import Beats
from ledger.model import Key, Request, Transition
from ledger.pool import Pools
from ledger.reader import Reader
from ledger.reaper import Reaper
from ledger.settings import LedgerSettings
from ledger.tickets import Tickets
from ledger.writer import Writer
from tests.support.postgres import Cluster, temporary_database

LONG_AGO: Final = timedelta(days=300)
STEP_SECONDS: Final = 60.0
T = TypeVar("T")


class Elsewhere:
    """What another gateway's writer tells: hints, over the bus."""

    def __init__(self, hub: Hub, history: History) -> None:
        self._hub = hub
        self._history = history

    def watches(self, key: Key) -> bool:
        return False

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[Key, int]]) -> None:
        for key, seq in heads:
            self._hub.hinted(Hint(key, seq, self._history.epoch))

    def reached(self, key: Key, seq: int) -> None:
        self._hub.hinted(Hint(key, seq, self._history.epoch))


class OneTenant:
    """Everybody is of this tenant."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant

    async def authenticate(self, token: str | None) -> Principal:
        return Principal(tenant=self._tenant, subject="watcher", grants=EVERYTHING)


class Watching:
    """A client that watches tasks from before they are, and comes back where it was when it had gone."""

    one_way = False

    def __init__(self, services: Services, task_ids: Sequence[str]) -> None:
        self._services = services
        self._running: Connection | None = None
        self.seen: dict[str, list[dict[str, Any]]] = {task_id: [] for task_id in task_ids}
        self.told: list[dict[str, Any]] = []

    @property
    def here(self) -> bool:
        return self._running is not None

    async def come(self) -> None:
        connection = Connection(self._services, self)
        self._running = connection
        connection.open()
        await _say(connection, '{"type":"hello","v":1}')
        tasks = [
            {"task_id": task_id, "after": {"epoch": self._services.epoch, "seq": len(seen)}}
            for task_id, seen in self.seen.items()
        ]
        await _say(connection, json.dumps({"type": "subscribe", "id": 1, "tasks": tasks, "wait_ms": 600_000}))

    async def go(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.stop()

    # As the connection's transport

    def write(self, pieces: Sequence[Piece]) -> bool:
        for frame in frames_of(pieces):
            message = json.loads(frame)
            if message["type"] == "transition":
                self.seen[message["task_id"]].append(message)
            elif message["type"] not in {"welcome", "subscribed", "liveness"} and message.get("ok") is not True:
                self.told.append(message)
        return True

    async def drained(self) -> None:
        raise AssertionError("all was taken")

    def unsent(self) -> int:
        return 0

    async def close(self, bye: Bye) -> None:
        self.told.append({"bye": bye.reason})

    def abort(self) -> None:
        self.told.append({"cut": True})


class World:
    """What `world` opens."""

    def __init__(self, runner: asyncio.Runner, pools: Pools, services: Services, writers: list[Writer]) -> None:
        self._runner = runner
        self._pools = pools
        self._writers = writers
        self.services = services
        self.reaper: Reaper

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Let the world go on until this is done."""
        return self._runner.run(asyncio.wait_for(what, timeout=STEP_SECONDS))

    async def submit(self, asked: Sequence[tuple[int, Request]]) -> list[Answer]:
        """All at once, each through a writer; the answers."""
        return list(await asyncio.gather(*(self._writers[place].submit(request) for place, request in asked)))

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._pools.control.fetch(sql, *arguments)

    async def pass_time(self, milliseconds: int) -> None:
        """All that has happened was so much earlier; and the ledger was there all the time."""
        await self._wake_reaper()
        some = timedelta(milliseconds=milliseconds)
        await self.fetch(
            "update ledger.task set created_at = created_at - $1::interval, updated_at = updated_at - $1::interval,"
            " beat_at = beat_at - $1::interval, deadline_at = deadline_at - $1::interval,"
            " due_at = due_at - $1::interval",
            some,
        )
        await self.fetch("update ledger.transition set at = at - $1::interval", some)

    async def look(self) -> None:
        """The reaper looks until nothing is due."""
        while True:
            since = await self._wake_reaper()
            while await self.reaper.step() == 0:
                pass
            if self.reaper.since == since:
                return
            await self.look_at_all()  # it began anew, and may have put off what it looked at

    async def look_at_all(self) -> None:
        """Let the reaper's next look be at every task that it may have to end."""
        await self.fetch("update ledger.task set due_at = now() where due_at is not null")

    async def _wake_reaper(self) -> datetime:
        """Let it have reached the ledger for long, though the test may not have let it."""
        try:
            await self.reaper.step()
        except Unavailable:
            await self.reaper.step()  # its session was ended: it had been idle
        assert self.reaper.holds
        (row,) = await self.fetch("select now() - $1::interval as recently", LONG_AGO / 2)
        assert self.reaper.since is not None
        if self.reaper.since > row["recently"]:
            self.reaper.since -= LONG_AGO
            await self.look_at_all()
        return self.reaper.since


@contextmanager
def world(cluster: Cluster, settings: LedgerSettings, *, tenant: str) -> Iterator[World]:
    """A world of its own, where everybody is of one tenant."""
    with asyncio.Runner() as runner:
        opened = _opened(runner, cluster, settings, tenant)
        it = runner.run(anext(opened))
        try:
            yield it
        finally:
            runner.run(_closed(opened))


async def _opened(
    runner: asyncio.Runner, cluster: Cluster, settings: LedgerSettings, tenant: str
) -> AsyncGenerator[World, None]:
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(temporary_database(cluster))
        here, there = [await Pools.open(settings, dsn) for _ in range(2)]
        stack.push_async_callback(here.close)
        stack.push_async_callback(there.close)
        lease_ms = settings.patience.lease_ms
        history = History()
        reader = Reader(here.read, lease_ms=lease_ms, history=history)
        await reader.epoch()
        hub = Hub(Reader(here.control, lease_ms=lease_ms, history=history), LocalBus())
        writing = replace(settings, write_pool_max=1, queue_wait_seconds=STEP_SECONDS / 2)
        writers = []
        for pools, listener, of in ((here, hub, history), (there, Elsewhere(hub, history), History())):
            writer = Writer(pools.write, listener, writing, of)
            writer.start()
            stack.push_async_callback(writer.close, 2.0)
            writers.append(writer)
        services = Services(
            hub=hub,
            writer=writers[0],
            reader=reader,
            replays=Replays(reader),
            beats=Beats(here.control),
            authenticator=OneTenant(tenant),
            tickets=TicketOffice(Tickets(here.control)),
            admission=Admission(per_second=0, most_opening=10),
            quotas=Quotas(Limits(), anonymous=False),
            history=history,
            ping_interval_seconds=3_600.0,
            max_connections=10,
        )
        it = World(runner, here, services, writers)
        it.reaper = Reaper(writers[1], settings, dsn)
        stack.push_async_callback(it.reaper.close)
        stack.push_async_callback(_cancelled, asyncio.create_task(hub.run(), name="hub"))
        yield it


async def _say(connection: Connection, frame: str) -> None:
    """Bring a frame, and wait until the next one may come."""
    connection.receive(frame)
    room = asyncio.Event()
    connection.wait_for_room(room.set)
    await room.wait()


async def _closed(opened: AsyncGenerator[World, None]) -> None:
    async for _ in opened:
        raise AssertionError("a world is opened once")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task], timeout=5)
