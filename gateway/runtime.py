"""The only place that wires: settings become a running gateway, from an empty machine to an orderly stop.

Start: PostgreSQL (an own one unless there is a DATABASE_URL), migrations, pools, writer, reaper, hub, HTTP. Stop: the
same backwards, after the clients were told.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

import structlog
from aiohttp import web
from msgspec.structs import replace

from gateway.auth import Anyone, Authenticator, TokenFile
from gateway.bus.local import LocalBus
from gateway.connection import Connection
from gateway.http import app as http_app
from gateway.http.ops import Health
from gateway.hub import STOPPING, Hub
from gateway.protocol.errors import SHUTTING_DOWN
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.transports.wire import bound_send_buffers
from ledger.epoch import History
from ledger.errors import Unavailable
from ledger.leases import Beats
from ledger.migrate import migrate
from ledger.pool import Pools
from ledger.reader import Reader
from ledger.reaper import Reaper
from ledger.settings import LedgerSettings, redacted
from ledger.writer import Writer

log = structlog.get_logger(__name__)

KEEPALIVE_SECONDS = 75.0
"""An idle HTTP connection, and one that dribbles its headers, is closed after this."""


class CannotServe(Exception):
    """The address cannot be listened on, or the database of its own has ended; the sentence says what to do."""


def collect_garbage_rarely() -> None:
    """Let Python look for cycles after every 50,000 objects instead of every 700, and never at what is here already.

    Thousands of reports are in flight at any moment; to look through them again and again took a third of the CPU that
    a report costs. Nothing on their way makes a cycle.
    """
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


async def serve(settings: GatewaySettings, dsn: str, *, database_runs: Callable[[], bool]) -> None:
    """Run until SIGTERM or SIGINT; a second signal ends at once.

    `database_runs` is asked every second: a PostgreSQL of our own that has ended does not come back by itself, so the
    process ends (`CannotServe`) to be started again as a whole.
    """
    stop, listening = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    start = asyncio.timeout(None)  # ends the start, which may be waiting for a database, as soon as it is to stop

    def on_signal(signum: signal.Signals) -> None:
        if stop.is_set():
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        stop.set()
        if not listening.is_set():
            start.reschedule(loop.time())

    async with AsyncExitStack() as stack:
        try:
            async with start:
                for signum in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(signum, on_signal, signum)
                await stack.enter_async_context(running(settings, dsn))
                collect_garbage_rarely()
                listening.set()
        except TimeoutError:
            if not stop.is_set():
                raise
        while not stop.is_set():
            if not database_runs():
                raise CannotServe(
                    "The PostgreSQL of this gateway has ended; start the gateway again. See its server.log."
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), timeout=1.0)
        log.info("stopping")


@asynccontextmanager
async def running(settings: GatewaySettings, dsn: str) -> AsyncIterator[int]:
    """A gateway that serves while the context is open; gives the port it listens on."""
    async with AsyncExitStack() as stack:
        who = authenticator(settings)
        await _migrate(settings, settings.ledger.direct_database_url or dsn)
        pools = await Pools.open(settings.ledger, dsn)
        stack.push_async_callback(pools.close)
        await _look_at_database(pools)
        lease_ms = settings.ledger.patience.lease_ms
        history = History()
        reader = Reader(pools.read, lease_ms=lease_ms, history=history)
        await reader.epoch()
        bus = LocalBus()
        hub = Hub(
            Reader(pools.control, lease_ms=lease_ms, history=history), bus
        )  # clients' reads must not keep it from looking after everybody
        await bus.start(hub.hinted)
        stack.push_async_callback(bus.close)
        writer = _writer(pools, hub, history, settings.ledger)
        writer.start()
        stack.push_async_callback(writer.close, settings.drain_seconds / 2)
        reaper = Reaper(writer, settings.ledger, settings.ledger.direct_database_url or dsn)
        reaper.start()
        stack.push_async_callback(reaper.close)
        beats = Beats(pools.control)
        beats.start()
        stack.push_async_callback(beats.close)
        stack.push_async_callback(_cancelled, asyncio.create_task(hub.run(), name="hub"))
        services = Services(
            hub=hub,
            writer=writer,
            reader=reader,
            beats=beats,
            authenticator=who,
            history=history,
            ping_interval_seconds=settings.ping_interval_seconds,
            max_connections=settings.max_connections,
        )
        drain = _Drain(hub, writer, settings.drain_seconds)
        health = Health(pools=pools, draining=drain.begun.is_set, reaps=lambda: reaper.holds, version=product_version())
        app = http_app.build(
            services, health, allowed_origins=settings.allowed_origins, loopback_only=settings.loopback_only
        )
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=1.0,
            # By itself aiohttp would inflate all of a bomb, even after the answer, and take half a gzip for a whole.
            auto_decompress=False,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        port = await _listen(runner, settings)
        stack.push_async_callback(drain.run, runner)
        log.info(
            "listening",
            host=settings.host,
            port=port,
            version=health.version,
            authentication="none, loopback only" if settings.loopback_only else "token file",
        )
        yield port


class _Drain:
    """Ends the conversations: what was asked is answered first, and the clients come back spread over a window."""

    def __init__(self, hub: Hub, writer: Writer, window_seconds: float) -> None:
        self._hub = hub
        self._writer = writer
        self._window_seconds = window_seconds
        self.begun = asyncio.Event()

    async def run(self, runner: web.AppRunner) -> None:
        self.begun.set()
        for site in list(runner.sites):
            await site.stop()
        connections = []
        for watcher in self._hub.everyone:
            if isinstance(watcher, Connection):
                watcher.pause()
                connections.append(watcher)
            else:
                watcher.notice(STOPPING)
        await self._writer.flush(self._window_seconds / 4)
        for connection in connections:
            retry_after_ms = secrets.randbelow(int(self._window_seconds * 1000) + 1)
            connection.end(replace(SHUTTING_DOWN, retry_after_ms=retry_after_ms))
        gone = asyncio.gather(*(connection.ended.wait() for connection in connections))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gone, timeout=self._window_seconds / 2)
        log.info("drained", connections=len(connections), left=len(self._hub.everyone), topics=self._hub.topics)


def _writer(pools: Pools, hub: Hub, history: History, settings: LedgerSettings) -> Writer:
    return Writer(
        pools.write,
        hub,
        shards=settings.write_pool_max,
        queue_limit=settings.queue_limit,
        queue_wait_seconds=settings.queue_wait_seconds,
        batch_limit=settings.batch_limit,
        patience=settings.patience,
        history=history,
    )


def authenticator(settings: GatewaySettings) -> Authenticator:
    """Who tells who is connected. Raises `SettingsError` when the token file cannot be used."""
    return Anyone() if settings.token_file is None else TokenFile.read(settings.token_file)


async def _migrate(settings: GatewaySettings, dsn: str) -> None:
    """Bring the schema up to date, waiting a while for a database that is not there yet."""
    tell_at = time.monotonic()
    deadline = tell_at + settings.database_wait_seconds
    while True:
        try:
            applied = await migrate(dsn)
        except Unavailable as error:
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"The database {redacted(dsn)} cannot be reached: {error.sentence}. Is it running, and does"
                    " DATABASE_URL name the right place?",
                    reason=error.reason,
                ) from error
            if time.monotonic() >= tell_at:
                log.warning("waiting_for_database", detail=error.sentence)
                tell_at = time.monotonic() + 10
            await asyncio.sleep(1.0)
        else:
            if applied:
                log.info("migrated", migrations=[migration.file_name for migration in applied])
            return


async def _look_at_database(pools: Pools) -> None:
    server = await pools.check()
    log.info("database", version=server.version)
    if server.unsafe:
        log.warning("database_may_forget", settings=server.unsafe, detail="A crash can lose acknowledged transitions.")


async def _listen(runner: web.AppRunner, settings: GatewaySettings) -> int:
    site = web.TCPSite(runner, settings.host, settings.port)
    try:
        await site.start()
    except OSError as error:
        raise CannotServe(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}). Another program may be using the"
            " port; stop it or choose another one with --port."
        ) from error
    bound_send_buffers(site)
    return int(runner.addresses[0][1])


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def product_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("ledgerwire")
    except PackageNotFoundError:  # a source tree that is only on the path
        return "0.1.0"
