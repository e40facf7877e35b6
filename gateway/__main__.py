"""The command line: `ledgerwire serve | migrate | epoch | key | healthcheck`, and the verbs of the client beside it.

Exit status: 0 all went well · 1 not healthy · 69 something it needs is not there (database, port) · 78 wrong setting.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
import uvloop
from msgspec.structs import replace

from gateway import key_command, options, runtime
from gateway.bus.own_nats import OwnNats
from gateway.listening import CannotServe
from gateway.place import Place, Word
from gateway.settings import DEFAULT_PORT, GatewaySettings
from gateway.siblings import meeting_place
from gateway.telemetry import configure_logging
from gateway.tls import trusting
from gateway.workers import GaveUp, Plan, reserve, supervise
from ledger import epoch
from ledger.embedded import MAX_CONNECTIONS, EmbeddedPostgres
from ledger.errors import LedgerError
from ledger.migrate import migrate, pending
from ledger.settings import LedgerSettings

log = structlog.get_logger(__name__)

EX_UNAVAILABLE: Final = 69
EX_CONFIG: Final = 78
HEALTHCHECK_SECONDS: Final = 3.0
CLIENT_VERBS: Final = ("watch", "report", "cancel")
EMBEDDED_SPARE_CONNECTIONS: Final = 20
"""Of the own PostgreSQL, beside those of the processes: for people, and while one process takes another's place."""

_EPILOG: Final = """\
Every option of `serve` has an environment variable: LEDGERWIRE_HOST, LEDGERWIRE_PORT, LEDGERWIRE_WORKERS,
LEDGERWIRE_ALLOWED_ORIGINS, LEDGERWIRE_TRUSTED_PROXIES, LEDGERWIRE_TOKEN_FILE, LEDGERWIRE_AUTH_FILE,
LEDGERWIRE_TLS_CERT, LEDGERWIRE_TLS_KEY, LEDGERWIRE_BUS, LEDGERWIRE_BUS_URL, LEDGERWIRE_LOG_LEVEL,
LEDGERWIRE_DATA_DIR; the database is DATABASE_URL.
`watch`, `report` and `cancel` come with the client; in a clone: pip install './clients/python[cli]'.
Limits, pools, time-outs and leases: docs/operations.md.
"""
_EPOCH: Final = """\
The epoch names the ledger's history. Give it a new one (`ledgerwire epoch new`) whenever commits were taken back:

  after restoring a backup,
  after a point-in-time recovery,
  after a failover that lost commits.

Best before a gateway sees the rewound database. Running gateways notice within two seconds; they end every session
with `bye` epoch_changed, and the clients come back and are told where their streams have jumped to. It is harmless
when it was not needed. The database is LEDGERWIRE_DIRECT_DATABASE_URL or DATABASE_URL, else the own PostgreSQL of a
gateway that is stopped.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in CLIENT_VERBS:
        return _client(arguments)
    place: Place | None = None
    try:
        place = Place.take(os.environ)
        options = _parser().parse_args(arguments)
        options.place, options.arguments = place, arguments
        return int(options.run(options))
    except LedgerError as error:
        status = EX_CONFIG if error.code in {"settings", "migration"} else EX_UNAVAILABLE
        sentence = error.sentence
    except CannotServe as error:
        status, sentence = EX_UNAVAILABLE, str(error)
    except GaveUp as error:
        status, sentence = error.status, error.sentence
    except KeyboardInterrupt:
        return 130
    if place is None:
        print(f"ledgerwire: {sentence}", file=sys.stderr)  # noqa: T201 - for a person
    else:
        place.say(Word(status=status, sentence=sentence))
    return status


def _client(arguments: Sequence[str]) -> int:
    """A verb of the client, which is a package of its own (docs/adr/0015): found by its entry point, never imported."""
    for verb in entry_points(group="ledgerwire.commands", name=arguments[0]):
        return int(verb.load()(arguments))
    sentence = f"`{arguments[0]}` comes with the client; in a clone: pip install './clients/python[cli]'"
    print(f"ledgerwire: {sentence}", file=sys.stderr)  # noqa: T201 - for a person
    return EX_UNAVAILABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ledgerwire",
        description="A WebSocket realtime gateway with a durable task ledger.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ledgerwire {runtime.product_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = options.add_serve(commands)
    serve.set_defaults(run=_serve)

    migrate_ = commands.add_parser("migrate", help="bring the schema in DATABASE_URL up to date")
    migrate_.add_argument("--check", action="store_true", help="change nothing; exit 1 when something is missing")
    migrate_.set_defaults(run=_migrate)

    epoch_ = commands.add_parser(
        "epoch",
        help="show or renew the identity of the ledger's history: renew it after restoring a backup",
        description=_EPOCH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    epoch_.add_argument("action", choices=("show", "new"), help="show the epoch, or begin a new one")
    epoch_.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where its own PostgreSQL keeps its data")
    epoch_.set_defaults(run=_epoch)

    key_command.add_parser(commands)

    certificate = os.environ.get("LEDGERWIRE_TLS_CERT")
    health = commands.add_parser("healthcheck", help="exit 0 when a gateway is alive, else 1 and say why")
    health.add_argument("--ready", action="store_true", help="ask whether it can serve: no in a database outage")
    health.add_argument(
        "--url",
        default=f"http{'s' if certificate else ''}://127.0.0.1:{os.environ.get('LEDGERWIRE_PORT') or DEFAULT_PORT}",
        help="where the gateway is; default %(default)s. With LEDGERWIRE_TLS_CERT its certificate is believed as it is",
    )
    health.set_defaults(run=_healthcheck, certificate=certificate)
    return parser


def _serve(given: argparse.Namespace) -> int:
    settings = options.settings_of(given)
    configure_logging(settings.log_level)
    for name in GatewaySettings.unknown_variables(os.environ):
        log.warning("unknown_variable", name=name)
    place: Place | None = given.place
    if place is not None:
        structlog.contextvars.bind_contextvars(process=place.number)
    else:
        runtime.warn(settings)
        if settings.workers > 1:
            return _supervise(settings, given.arguments)
    runtime.check_files(settings)  # what can be wrong with them is better said before a database is started
    with ExitStack() as stack:
        settings, dsn, they_run = _own_servers(settings, stack)
        uvloop.run(runtime.serve(settings, dsn, database_runs=they_run, place=place))
    return 0


def _supervise(settings: GatewaySettings, arguments: Sequence[str]) -> int:
    """Start the processes with the same arguments, on the port and the servers that this one has for them."""
    runtime.check_files(settings)
    sockets, port = reserve(settings.host, settings.port)
    with ExitStack() as stack:
        for each in sockets:
            stack.callback(each.close)
        folder = stack.enter_context(meeting_place())
        most = EMBEDDED_SPARE_CONNECTIONS + settings.workers * settings.ledger.connections
        settings, dsn, they_run = _own_servers(settings, stack, max_connections=most)
        environment = {"DATABASE_URL": dsn, "LEDGERWIRE_BUS": settings.bus_kind}
        if settings.bus_url is not None:
            environment["LEDGERWIRE_BUS_URL"] = settings.bus_url
        plan = Plan(
            workers=settings.workers,
            host=settings.host,
            port=port,
            arguments=(*arguments, "--port", str(port)),
            environment=environment,
            folder=folder,
            drain_seconds=settings.drain_seconds,
            start_seconds=settings.database_wait_seconds,
            facts=runtime.facts(settings),
        )
        ledger_dsn = settings.ledger.direct_database_url or dsn
        asyncio.run(
            supervise(
                plan,
                prepare=lambda: runtime.bring_up_to_date(settings, ledger_dsn),
                database_runs=they_run,
            )
        )
    return 0


def _own_servers(
    settings: GatewaySettings, stack: ExitStack, *, max_connections: int = MAX_CONNECTIONS
) -> tuple[GatewaySettings, str, Callable[[], bool]]:
    """Start what is needed and was not named: PostgreSQL, a NATS server.

    On the main thread, before the loop: they are to die with this process (see ledger/embedded). Gives the settings
    with the bus, the URL of the database, and what is to be asked now and then: whether the database still runs.
    """
    dsn, database = settings.ledger.database_url, None
    if dsn is None:
        database = stack.enter_context(
            EmbeddedPostgres.start(settings.ledger.data_dir, max_connections=max_connections)
        )
        dsn = database.dsn
    bus: OwnNats | None = None
    if settings.bus_kind == "nats" and settings.bus_url is None:
        bus = stack.enter_context(OwnNats.start())
        settings = replace(settings, bus="nats", bus_url=bus.url)

    def they_run() -> bool:
        if bus is not None:
            bus.keep()
        return database is None or database.running

    return settings, dsn, they_run


def _migrate(options: argparse.Namespace) -> int:
    settings = LedgerSettings.from_environment(os.environ)
    dsn = settings.direct_database_url or settings.database_url
    if dsn is None:
        sentence = "Set DATABASE_URL to the database to migrate; its own PostgreSQL is migrated by `serve`."
        print(f"ledgerwire: {sentence}", file=sys.stderr)  # noqa: T201 - for a person
        return EX_CONFIG
    todo = asyncio.run(pending(dsn) if options.check else migrate(dsn))
    for migration in todo:
        print(f"{'missing' if options.check else 'applied'} {migration.file_name}")  # noqa: T201 - for a person
    if not todo:
        print("up to date")  # noqa: T201 - for a person
    return 1 if options.check and todo else 0


def _epoch(given: argparse.Namespace) -> int:
    with options.database_of(given) as (settings, dsn):
        if given.action == "show":
            found = asyncio.run(epoch.show(settings, dsn))
            print(f"{found.name} since {found.started_at:%Y-%m-%dT%H:%M:%SZ}")  # noqa: T201 - for a person
        else:
            begun = asyncio.run(epoch.begin(settings, dsn))
            print(f"{begun.before} -> {begun.name}")  # noqa: T201 - for a person
    return 0


def _healthcheck(options: argparse.Namespace) -> int:
    parts = urlsplit(options.url)
    path = "/health/ready" if options.ready else "/health/live"
    host = parts.hostname or "127.0.0.1"
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = trusting(Path(options.certificate)) if options.certificate else None
        connection = http.client.HTTPSConnection(host, parts.port, timeout=HEALTHCHECK_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=HEALTHCHECK_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(4096).decode("utf-8", "replace")
    except OSError as error:
        print(f"ledgerwire: no answer from {options.url}{path}: {error}", file=sys.stderr)  # noqa: T201 - for a person
        return 1
    finally:
        connection.close()
    print(body)  # noqa: T201 - for a person
    return 0 if response.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
