"""All settings of a gateway process, composed: its own and the ledger's. Frozen; read once by the command line.

Secure by default: without a token file or an auth file it listens on loopback only.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from gateway.bus.own_nats import BESIDE, program
from gateway.bus.servers import servers_in, shown
from gateway.http.proxies import Proxies
from gateway.limits.rates import Limits
from ledger.errors import SettingsError
from ledger.settings import LedgerSettings

DEFAULT_PORT: Final = 8080
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
BUSES: Final = ("local", "postgres", "nats")
MOST_WORKERS: Final = 256
"""More than a machine has cores for; each takes ten connections to PostgreSQL."""
LONGEST_WAIT_SECONDS: Final = 3_600
"""For a stop or a start: longer is a slip of the pen, such as milliseconds."""


class GatewaySettings(Struct, frozen=True, kw_only=True):
    """One process's settings. Raises `SettingsError` with the cure when they do not fit together."""

    ledger: LedgerSettings
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0: the system chooses one; it is in the log line `listening`."""
    workers: int = 1
    """Processes that share the port; more than one needs Linux."""
    allowed_origins: tuple[str, ...] = ()
    """Pages of these origins may connect, besides the server's own."""
    token_file: Path | None = None
    auth_file: Path | None = None
    """Whose JSON Web Tokens are believed (`gateway.auth.config`); with either file API keys are taken too."""
    ping_interval_seconds: float = 25.0
    """Below the 60 s after which proxies cut a silent connection."""
    drain_seconds: float = 10.0
    """How long a stop may take; what is answered to clients is spread over it."""
    database_wait_seconds: float = 30.0
    """How long to wait at the start for a database that cannot be reached yet."""
    max_connections: int = 20_000
    """WebSockets, event streams and long polls of this process; the next one is told `overloaded` or `busy`."""
    bus: str | None = None
    """What carries hints to the other nodes of the same database. None: see `bus_kind`."""
    bus_url: str | None = None
    """The NATS servers, separated by commas; may hold secrets. None: one of its own, for the processes of this node."""
    connect_rate: float = 1_000.0
    """New WebSockets a second, with twice as many at once; the next one is told when to come again. 0: no bound."""
    max_opening: int = 1_000
    """WebSockets that have not been welcomed yet; a process that cannot keep up lets no more in."""
    limits: Limits = Limits()
    """What connections, principals, tenants and addresses may take."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of the proxies in front, whose word for a client's address and scheme is taken."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"The port is {self.port}; it must be 0 to 65535.")
        if self.log_level not in LOG_LEVELS:
            raise SettingsError(f"The log level is {self.log_level!r}; it may be {', '.join(LOG_LEVELS)}.")
        self._check_workers()
        self._check_bus()
        if not 1 <= self.ping_interval_seconds <= 300:
            raise SettingsError(f"The ping interval is {self.ping_interval_seconds:g} s; it must be 1 to 300.")
        if not 1 <= self.max_connections <= 1_000_000:
            raise SettingsError(f"The bound on connections is {self.max_connections}; it must be 1 to 1000000.")
        if not 0 <= self.connect_rate <= 1_000_000:
            raise SettingsError(f"The connect rate is {self.connect_rate:g}; it must be 0 (no bound) to 1000000.")
        if not 1 <= self.max_opening <= 1_000_000:
            raise SettingsError(f"The bound on opening connections is {self.max_opening}; it must be 1 to 1000000.")
        for what, seconds in (("drain time", self.drain_seconds), ("database wait", self.database_wait_seconds)):
            if not 0 <= seconds <= LONGEST_WAIT_SECONDS:
                raise SettingsError(f"The {what} is {seconds:g} s; it must be 0 to {LONGEST_WAIT_SECONDS}.")
        for origin in self.allowed_origins:
            _check_origin(origin)
        for network in self.trusted_proxies:
            _check_proxy(network)
        if (self.tls_cert is None) is not (self.tls_key is None):
            raise SettingsError("TLS needs both: --tls-cert FILE and --tls-key FILE, in PEM.")
        if self.loopback_only and not is_loopback(self.host):
            raise SettingsError(
                f"Refusing to listen on {self.host} without authentication: everybody who can reach it could read and"
                " cancel every task. Give --auth-file FILE or --token-file FILE (docs/security.md), or --host 127.0.0.1"
                " for development."
            )

    def __repr__(self) -> str:
        """Every field, without the secrets in the bus URL: a settings object does end up in a log one day."""
        given = {field: getattr(self, field) for field in self.__struct_fields__}
        given["bus_url"] = self.bus_url and shown(self.bus_url)
        return f"GatewaySettings({', '.join(f'{field}={value!r}' for field, value in given.items())})"

    def _check_workers(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise SettingsError(f"There are to be {self.workers} workers; it must be 1 to {MOST_WORKERS}.")
        if self.workers > 1 and sys.platform != "linux":
            raise SettingsError("More than one worker needs Linux; start it with --workers 1.")

    def _check_bus(self) -> None:
        if self.bus is not None and self.bus not in BUSES:
            raise SettingsError(f"The bus is {self.bus!r}; it may be {', '.join(BUSES)}.")
        if self.bus_url is not None:
            if self.bus_kind != "nats":
                raise SettingsError(f"A bus URL is for --bus nats, and the bus is {self.bus_kind}.")
            servers_in(self.bus_url)

    @property
    def bus_kind(self) -> str:
        """The bus: the one that was named, else the best for so many processes."""
        return self.bus or default_bus(self.workers)

    @property
    def loopback_only(self) -> bool:
        """Whether there is no authentication."""
        return self.token_file is None and self.auth_file is None

    @staticmethod
    def unknown_variables(environment: Mapping[str, str]) -> list[str]:
        """Names that begin like ours and mean nothing: slips that would go unnoticed."""
        limits = (f"limit_{name}" for name in Limits.__struct_fields__)
        fields = (*_READERS, *limits, *LedgerSettings.__struct_fields__)
        known = _ELSEWHERE | {f"LEDGERWIRE_{name.upper()}" for name in fields if name != "database_url"}
        return sorted(name for name in environment if name.startswith("LEDGERWIRE_") and name not in known)

    @classmethod
    def compose(cls, environment: Mapping[str, str], **given: object) -> GatewaySettings:
        """Settings from LEDGERWIRE_* variables, overridden by what was given on the command line (None: not given)."""
        values: dict[str, object] = {
            "ledger": LedgerSettings.from_environment(environment),
            "limits": Limits.from_environment(environment),
        }
        for name, read in _READERS.items():
            text = environment.get(f"LEDGERWIRE_{name.upper()}")
            if text:
                try:
                    values[name] = read(text)
                except ValueError as error:
                    wanted = "a whole number" if read is int else "a number"
                    raise SettingsError(f"LEDGERWIRE_{name.upper()} is {text!r}: it must be {wanted}.") from error
        values |= {name: value for name, value in given.items() if value is not None}
        return cls(**values)  # type: ignore[arg-type] # each value was read by its own reader


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[,\s]+", text.strip()))


_READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "host": str,
    "port": int,
    "workers": int,
    "allowed_origins": _words,
    "token_file": Path,
    "trusted_proxies": _words,
    "tls_cert": Path,
    "tls_key": Path,
    "auth_file": Path,
    "ping_interval_seconds": float,
    "drain_seconds": float,
    "database_wait_seconds": float,
    "max_connections": int,
    "bus": str,
    "bus_url": str,
    "connect_rate": float,
    "max_opening": int,
    "log_level": str,
}
_ELSEWHERE: Final = frozenset({"LEDGERWIRE_POSTGRES_BIN", "LEDGERWIRE_TEST_SEED", "LEDGERWIRE_TEST_SECONDS"})


def default_bus(workers: int, beside: Path = BESIDE) -> str:
    """By which bus the processes of one gateway tell each other of their commits, where none was named.

    One process has nobody to tell. NOTIFY is enough for two; beyond that each notification wakes everybody, and a NATS
    server of our own, where it is installed (`beside` this Python, or on PATH), wakes only those who watch the task.
    """
    if workers == 1:
        return "local"
    return "nats" if workers > 2 and program(beside) is not None else "postgres"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_proxy(network: str) -> None:
    try:
        Proxies([network])
    except ValueError as error:
        raise SettingsError(
            f"Trusted proxy {network!r} is not a network ({error}). Examples: 10.0.0.5, 10.1.0.0/16, fd00::/8."
        ) from None
    if network.endswith("/0"):
        raise SettingsError(
            f"Trusted proxy {network!r} is everybody: any client could then choose its address. Name the proxies."
        )


def _check_origin(origin: str) -> None:
    if origin in {"*", "null"}:
        raise SettingsError(
            f"Allowed origin {origin!r} would let in pages that nobody knows, with the tokens of those who visit them."
            " List each origin: https://app.example"
        )
    try:
        parts = urlsplit(origin)
        good = parts.scheme in {"http", "https"} and parts.hostname and origin == f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        good = False
    if not good or origin != origin.lower() or not {"*", "@"}.isdisjoint(origin):
        raise SettingsError(
            f"Allowed origin {origin!r} is not an origin. Example: https://app.example (scheme, host, port; lower case,"
            " no path, no wildcard)."
        )
