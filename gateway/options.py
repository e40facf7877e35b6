"""The options of `serve`, and the settings and the database that options make with the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec.structs import replace

from gateway.settings import BUSES, DEFAULT_PORT, LOG_LEVELS, GatewaySettings
from ledger.embedded import EmbeddedPostgres
from ledger.settings import LedgerSettings


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command. Each of its options has an environment variable."""
    serve = commands.add_parser("serve", help="run a gateway; without DATABASE_URL also a PostgreSQL of its own")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1); others need authentication")
    serve.add_argument("--port", type=int, help=f"port to listen on (default {DEFAULT_PORT}; 0: any)")
    serve.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that share the port, one per core that they may have; default 1. SIGHUP replaces them one by"
        " one, with the token file as it is then",
    )
    serve.add_argument(
        "--allow-origin",
        dest="allowed_origins",
        metavar="ORIGIN",
        action="append",
        help="pages of this origin may connect, for example https://app.example; may be given several times",
    )
    serve.add_argument("--token-file", type=Path, metavar="FILE", help="lines of `tenant subject token`; chmod 600")
    serve.add_argument("--auth-file", type=Path, metavar="FILE", help="whose JWTs are believed: docs/security.md")
    serve.add_argument(
        "--trusted-proxy",
        dest="trusted_proxies",
        metavar="NETWORK",
        action="append",
        help="a proxy in front, such as 10.1.0.0/16: its X-Forwarded-For and X-Forwarded-Proto are believed, nobody"
        " else's; may be given several times",
    )
    serve.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="serve TLS (1.2 and newer) with this certificate chain in PEM"
    )
    serve.add_argument(
        "--tls-key",
        type=Path,
        metavar="FILE",
        help="and its key; chmod 600. Both are read anew on SIGHUP, for who connects from then on",
    )
    serve.add_argument(
        "--bus",
        choices=BUSES,
        help="how the processes of one database tell each other at once: local (not at all, they look each second),"
        " postgres (by LISTEN and NOTIFY), nats (the one for many). Default: local for one worker, postgres for two,"
        " for more nats where it is installed, else postgres",
    )
    serve.add_argument(
        "--bus-url",
        metavar="URLS",
        help="for --bus nats: nats://… or tls://…, several separated by commas; without it a server of its own, for the"
        " processes of this gateway. Better in LEDGERWIRE_BUS_URL, where others do not see its secrets",
    )
    serve.add_argument(
        "--data-dir",
        type=Path,
        metavar="FOLDER",
        help="where its own PostgreSQL keeps its data; default ~/.local/share/ledgerwire, or as root, where others"
        " cannot enter that, /var/lib/ledgerwire",
    )
    serve.add_argument("--log-level", choices=LOG_LEVELS, help="default info")
    return serve


def settings_of(options: argparse.Namespace) -> GatewaySettings:
    """The settings: an option goes before its variable. Raises `SettingsError`."""
    settings = GatewaySettings.compose(
        os.environ,
        host=options.host,
        port=options.port,
        workers=options.workers,
        allowed_origins=None if options.allowed_origins is None else tuple(options.allowed_origins),
        token_file=options.token_file,
        trusted_proxies=None if options.trusted_proxies is None else tuple(options.trusted_proxies),
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        auth_file=options.auth_file,
        bus=options.bus,
        bus_url=options.bus_url,
        log_level=options.log_level,
    )
    if options.data_dir is not None:
        settings = replace(settings, ledger=replace(settings.ledger, data_dir=options.data_dir))
    return settings


@contextmanager
def database_of(options: argparse.Namespace) -> Iterator[tuple[LedgerSettings, str]]:
    """The database that the gateway would use, for a command beside it: one of its own is started for so long.

    Raises `SettingsError`, and `EmbeddedError` where there is none of its own yet.
    """
    settings = LedgerSettings.from_environment(os.environ)
    with ExitStack() as stack:
        dsn = settings.direct_database_url or settings.database_url
        if dsn is None:
            data_dir = options.data_dir or settings.data_dir
            dsn = stack.enter_context(EmbeddedPostgres.start(data_dir, existing=True)).dsn
        yield settings, dsn
