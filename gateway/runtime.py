"""The only place that wires: settings become a running gateway, from an empty machine to an orderly stop.

Start: PostgreSQL (an own one unless there is a DATABASE_URL), migrations, pools, writer, reaper, hub, HTTP. Stop: the
same backwards, after the clients were told.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import structlog

from gateway.admission import Admission
from gateway.auth.api_keys import RECHECK_SECONDS, ApiKeySource, Rechecks
from gateway.auth.choice import Sources
from gateway.auth.tickets import TicketOffice
from gateway.bus.choice import chosen
from gateway.bus.port import Hint
from gateway.connection import Connection
from gateway.drain import Drain
from gateway.figures import Family
from gateway.http.ops import Health
from gateway.hub import REREAD_SECONDS, Hub
from gateway.limits.quotas import Quotas
from gateway.listening import CannotServe, certificate, listen
from gateway.metrics import Metrics
from gateway.place import SIGN_SECONDS, Place, Word
from gateway.principal import Principal
from gateway.replay import Replays
from gateway.services import Services
from gateway.settings import GatewaySettings, is_loopback
from gateway.siblings import all_figures, answering
from ledger.api_keys import ApiKeys
from ledger.epoch import History
from ledger.errors import Unavailable
from ledger.leases import Beats
from ledger.migrate import migrate
from ledger.pool import Pools
from ledger.reader import Reader
from ledger.reaper import Reaper
from ledger.settings import redacted
from ledger.tickets import Tickets
from ledger.writer import Writer

log = structlog.get_logger(__name__)

POOLS_CLOSE_SECONDS = 2.0
"""A statement that still runs after a stop has had its time; the server ends it by its own clock."""

DATABASE_HAS_ENDED = "The PostgreSQL of this gateway has ended; start the gateway again. See its server.log."


def collect_garbage_rarely() -> None:
    """Let Python look for cycles after every 50,000 objects instead of every 700, and never at what is here already.

    Thousands of reports are in flight at any moment; to look through them again and again took a third of the CPU that
    a report costs. Nothing on their way makes a cycle.
    """
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


async def serve(
    settings: GatewaySettings, dsn: str, *, database_runs: Callable[[], bool], place: Place | None = None
) -> None:
    """Run until SIGTERM or SIGINT; a second signal ends at once.

    `database_runs` is asked every second: a PostgreSQL of our own that has ended does not come back by itself, so the
    process ends (`CannotServe`) to be started again as a whole. `place`: this is one of several processes.
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
        if place is not None:
            signs = asyncio.create_task(_give_signs(place, listening), name="signs of life")
            stack.push_async_callback(_cancelled, signs)  # to the end: a process that drains is alive
        try:
            async with start:
                for signum in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(signum, on_signal, signum)
                await stack.enter_async_context(running(settings, dsn, place))
                collect_garbage_rarely()
                listening.set()
        except TimeoutError:
            if not stop.is_set():
                raise
        while not stop.is_set():
            if not database_runs():
                raise CannotServe(DATABASE_HAS_ENDED)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), timeout=1.0)
        log.info("stopping")


async def _give_signs(place: Place, listening: asyncio.Event) -> None:
    """Tell the supervisor that this process serves, again and again."""
    await listening.wait()
    while True:
        place.say(Word(ready=True))
        await asyncio.sleep(SIGN_SECONDS)


@asynccontextmanager
async def running(
    settings: GatewaySettings,
    dsn: str,
    place: Place | None = None,
    *,
    reread_seconds: float = REREAD_SECONDS,
    recheck_seconds: float = RECHECK_SECONDS,
) -> AsyncIterator[int]:
    """A gateway that serves while the context is open; gives the port it listens on."""
    async with AsyncExitStack() as stack:
        sources = authentication(settings)
        stack.push_async_callback(sources.close)
        shown = certificate(settings)
        await bring_up_to_date(settings, settings.ledger.direct_database_url or dsn)
        drain = Drain(settings.drain_seconds)
        admission = Admission(per_second=settings.connect_rate, most_opening=settings.max_opening)
        quotas = Quotas(settings.limits, anonymous=settings.loopback_only)
        pools = await Pools.open(settings.ledger, dsn)
        stack.push_async_callback(pools.close, POOLS_CLOSE_SECONDS)
        await _look_at_database(pools)
        lease_ms = settings.ledger.patience.lease_ms
        history = History()
        reader = Reader(pools.read, lease_ms=lease_ms, history=history)
        await reader.epoch()
        bus = chosen(settings.bus_kind, settings.bus_url, settings.ledger, settings.ledger.direct_database_url or dsn)
        hub = Hub(
            Reader(pools.control, lease_ms=lease_ms, history=history), bus, reread_seconds=reread_seconds
        )  # clients' reads must not keep it from looking after everybody
        writer = Writer(pools.write, hub, settings.ledger, history)

        def on_hint(hint: Hint) -> None:
            writer.overtaken(hint.key, hint.seq)
            hub.hinted(hint)

        await bus.start(on_hint, hub.missed)
        stack.push_async_callback(bus.close)
        writer.start()
        stack.push_async_callback(lambda: writer.close(drain.left_seconds))
        reaper = Reaper(writer, settings.ledger, settings.ledger.direct_database_url or dsn)
        reaper.start()
        stack.push_async_callback(reaper.close)
        beats = Beats(pools.control)
        beats.start()
        stack.push_async_callback(beats.close)
        stack.push_async_callback(_cancelled, asyncio.create_task(hub.run(), name="hub"))
        api_keys = ApiKeys(pools.read)
        keys = ApiKeySource(api_keys, believed_seconds=recheck_seconds)
        rechecks = Rechecks(api_keys, keys, partial(_connections, hub), seconds=recheck_seconds)
        stack.push_async_callback(_cancelled, asyncio.create_task(rechecks.run(), name="api keys"))
        services = Services(
            hub=hub,
            writer=writer,
            reader=reader,
            replays=Replays(reader),
            beats=beats,
            authenticator=sources.door(keys),
            tickets=TicketOffice(Tickets(pools.control)),
            admission=admission,
            quotas=quotas,
            history=history,
            ping_interval_seconds=settings.ping_interval_seconds,
            max_connections=settings.max_connections,
        )
        health = Health(
            pools=pools,
            draining=lambda: drain.begun,
            reaps=lambda: reaper.holds,
            bus=lambda: bus.state,
            version=product_version(),
        )
        metrics = Metrics(
            hub=hub,
            bus=bus,
            writer=writer,
            replays=services.replays,
            pools=pools,
            reaper=reaper,
            admission=admission,
            quotas=quotas,
            draining=lambda: drain.begun,
            version=health.version,
        )
        if place is not None:
            await stack.enter_async_context(answering(place.folder, str(place.number), metrics.families))
        runner, port = await listen(
            stack, settings, shown, services, health, partial(_figures, metrics, place), shared=place is not None
        )
        stack.push_async_callback(drain.run, runner, admission, hub, writer, reaper)
        log.info(
            "listening" if place is None else "process_listening", host=settings.host, port=port, **facts(settings)
        )
        yield port


async def _figures(metrics: Metrics, place: Place | None) -> Sequence[Family]:
    """The figures of this process; where it is one of several, of all."""
    if place is None:
        return metrics.families()
    return await all_figures(place.folder, str(place.number), metrics.families)


def authentication(settings: GatewaySettings) -> Sources:
    """Who tells who is connected. Raises `SettingsError` when a file cannot be used."""
    return Sources.read(settings.token_file, settings.auth_file)


def _connections(hub: Hub) -> list[tuple[Principal, Connection]]:
    connections = (watcher for watcher in hub.everyone if isinstance(watcher, Connection))
    return [(each.session.rights.principal, each) for each in connections if each.session.rights is not None]


def warn(settings: GatewaySettings) -> None:
    """Say what an operator may not have meant."""
    if settings.tls_cert is None and not settings.trusted_proxies and not is_loopback(settings.host):
        log.warning("plain_text", detail="Tokens can be read on the way: give --tls-cert, or name the --trusted-proxy.")


def check_files(settings: GatewaySettings) -> None:
    """Raises `SettingsError` when a file that is needed cannot be used."""
    authentication(settings)
    certificate(settings)


async def bring_up_to_date(settings: GatewaySettings, dsn: str) -> None:
    """Bring the schema of a database up to date, waiting a while for a database that is not there yet."""
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


def facts(settings: GatewaySettings) -> dict[str, object]:
    """What an operator wants to see when a gateway listens."""
    files = {"auth file": settings.auth_file, "token file": settings.token_file}
    given = [name for name, file in files.items() if file is not None]
    transport = "plain" if settings.tls_cert is None else "tls"
    authenticated = ", ".join(given) or "none, loopback only"
    return {"version": product_version(), "authentication": authenticated, "transport": transport}


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def product_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("ledgerwire")
    except PackageNotFoundError:  # a source tree that is only on the path
        return "0.1.0"
