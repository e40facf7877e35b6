"""The ledger's settings: where the database is, and every limit between us and it.

Read once at the start, from the environment or by a caller; frozen afterwards. This module decides nothing
but whether the numbers make sense together. It never connects, never logs, and never shows a password:
neither in an error nor in `repr`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from ledger.errors import SettingsError
from ledger.model import Patience

PREFIX: Final = "LEDGERWIRE_"
DATABASE_URL_EXAMPLE: Final = "postgresql://ledgerwire:secret@db.example:5432/ledgerwire"

# SQLAlchemy writes its driver into the scheme; such a URL is taken as it is and the driver left out.
_SCHEME: Final = re.compile(r"^(?:postgresql|postgres)(?:\+[A-Za-z0-9_]+)?://")
# A password that was not percent-encoded may hold any character, so it is taken to go as far as the last "@".
_USER_PASSWORD: Final = re.compile(r"^(?P<before>[a-z+0-9_]+://[^:/?#@]*):.*@", re.IGNORECASE | re.DOTALL)
_QUERY_PASSWORD: Final = re.compile(r"(?P<before>[?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)


def redacted(dsn: str) -> str:
    """The database URL with every password replaced by `***`, fit for a log."""
    return _QUERY_PASSWORD.sub(r"\g<before>***", _USER_PASSWORD.sub(r"\g<before>:***@", dsn))


def unreadable(dsn: str) -> SettingsError:
    """The error for a URL that the driver cannot read.

    Raise it `from None`: the driver's message quotes what it could not read, which may be the password.
    """
    return SettingsError(
        f"the database URL {redacted(dsn)} cannot be read; are the special characters of the password "
        f"percent-encoded? Example: DATABASE_URL={DATABASE_URL_EXAMPLE}"
    )


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of the ledger. Raises `SettingsError` when a value, or two together, cannot work."""

    database_url: str | None = None
    """postgresql://…; several hosts and target_session_attrs are fine. None: start our own PostgreSQL."""
    direct_database_url: str | None = None
    """The same database without a pooler, for LISTEN and migrations, which a PgBouncer in transaction mode
    swallows or breaks. None: `database_url` is direct already."""
    data_dir: Path | None = None
    """Where our own PostgreSQL keeps its data. None: a folder of this user. Not used with `database_url`."""

    # Three lanes, so that slow replays cannot take appends, heartbeats and health down with them. Small,
    # because group commit needs few connections and the server pays for each one. The sum, 8, one for the
    # reaper and one to listen, times the number of processes must stay below the server's max_connections.
    write_pool_max: int = 2
    write_pool_min: int = 1
    read_pool_max: int = 4
    read_pool_min: int = 1
    control_pool_max: int = 2
    control_pool_min: int = 1
    """`…_min` connections are opened at the start, where the server can be reached; they are no floor: a lane
    must be able to open and to live on while the server is away."""

    connect_timeout_seconds: float = 2.0
    """Resolve, connect, TLS and login together; a healthy server needs milliseconds."""
    acquire_timeout_seconds: float = 1.0
    """How long a caller waits for its turn. Longer only hides a lane that is too small."""
    command_timeout_seconds: float = 2.0
    """Our clock for one statement. Without it a black-holed link hangs for ever."""
    request_deadline_seconds: float = 7.0
    """For all that one caller does with one connection. Beyond it the answer is "unknown, ask again"."""
    statement_timeout_ms: int = 1_500
    """The server's clock for one statement. Shorter than ours, so that a slow statement ends with a clean
    error (rolled back for certain) and ours is left for a server or a link that is gone."""
    lock_timeout_ms: int = 1_000
    """Shorter again, so that waiting for a row is told apart from being slow."""
    append_lock_timeout_ms: int = 50
    """For the writer, which then sets the task aside that somebody's open transaction holds, and goes on with the
    others. Longer than a commit of another writer takes, shorter than PostgreSQL's `deadlock_timeout`."""
    idle_in_transaction_timeout_ms: int = 5_000
    """A transaction left open holds row locks and stops vacuum; ours last milliseconds."""
    recycle_seconds: float = 1_800.0
    """The age at which a connection is replaced (each up to a fifth earlier, so that they do not all go at
    once): server memory grows with age, and moved DNS names or rotated certificates are noticed."""
    liveness_idle_seconds: float = 5.0
    """A connection idle for longer is asked `select 1` before use: a firewall may have dropped it."""
    statement_cache_size: int = 100
    """Prepared statements kept per connection. 0 behind a PgBouncer that shares connections."""
    application_name: str = "ledgerwire"
    """Shown in pg_stat_activity, followed by the lane: `ledgerwire/write`."""

    queue_limit: int = 10_000
    """Reports waiting for the next batch: a bound on memory. Beyond it callers are told `busy`."""
    queue_wait_seconds: float = 2.0
    """How long a report waits while the database is away, before its caller is told `unavailable`."""
    batch_limit: int = 500
    """Reports in one commit. A larger batch holds its row locks for longer and gains little."""

    lease_seconds: float = 60.0
    """How long a worker may be silent (no report, no beat) before its task is called late, where neither task nor
    report named a lease."""
    lease_grace_seconds: float = 120.0
    """How much later the task is committed as lost. Generous: it cannot be undone, and a worker may be in a long stage,
    swapped out, or behind a network that is down."""
    cancel_grace_seconds: float = 30.0
    """How long a cancel request may stay unanswered before the task is committed as cancelled all the same."""

    def __post_init__(self) -> None:
        for field, (low, high) in _RANGES.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise SettingsError(f"{_named(field)} is {value}, must be {low} to {high}. {_example(field)}")
        for lane in ("write", "read", "control"):
            least, most = getattr(self, f"{lane}_pool_min"), getattr(self, f"{lane}_pool_max")
            if least > most:
                names = _named(f"{lane}_pool_min"), _named(f"{lane}_pool_max")
                raise SettingsError(f"{names[0]} is {least}, but {names[1]} is {most}. Example: {names[0]}=0")
        self._require_clocks_in_order()
        for field in ("database_url", "direct_database_url"):
            url = getattr(self, field)
            if url is not None and not _SCHEME.match(url):
                named = _named(field)
                raise SettingsError(f"{named} must begin with postgresql://. Example: {named}={DATABASE_URL_EXAMPLE}")
        if not self.application_name.isascii() or not 1 <= len(self.application_name) <= 50:
            # The server cuts at 63 bytes, and the lane's name has to fit behind it.
            named = _named("application_name")
            raise SettingsError(f"{named} must be 1 to 50 ASCII characters. Example: {named}=ledgerwire")

    def _require_clocks_in_order(self) -> None:
        """Each timeout must leave room for the one inside it, or the clean error never gets its chance."""
        seconds = {
            "lock_timeout_ms": self.lock_timeout_ms / 1_000,
            "statement_timeout_ms": self.statement_timeout_ms / 1_000,
            "command_timeout_seconds": self.command_timeout_seconds,
        }
        for inner, outer in itertools.pairwise(seconds):
            if seconds[inner] >= seconds[outer]:
                raise SettingsError(
                    f"{_named(inner)} ({seconds[inner]:g} s) must be shorter than {_named(outer)} "
                    f"({seconds[outer]:g} s). {_example(inner)} with {_example(outer)[9:]}"
                )
        longest = self.acquire_timeout_seconds + self.connect_timeout_seconds + self.command_timeout_seconds
        if longest > self.request_deadline_seconds + 1e-9:  # 0.1 + 0.2 is not 0.3
            named = _named("request_deadline_seconds")
            raise SettingsError(
                f"{named} is {self.request_deadline_seconds:g}, but acquire, connect and command together "
                f"may take {longest:g} s. Example: {named}={math.ceil(longest)}"
            )

    @property
    def connections(self) -> int:
        """How many connections to PostgreSQL one process has at most: the lanes, the reaper's, and one to listen."""
        return self.write_pool_max + self.read_pool_max + self.control_pool_max + 2

    @property
    def patience(self) -> Patience:
        """The three graces, as the writer and the reaper want them."""
        return Patience(
            lease_ms=round(self.lease_seconds * 1000),
            grace_ms=round(self.lease_grace_seconds * 1000),
            cancel_ms=round(self.cancel_grace_seconds * 1000),
        )

    def __repr__(self) -> str:
        """Every field, with passwords redacted: a settings object does end up in a log one day."""
        shown = {field: getattr(self, field) for field in self.__struct_fields__}
        for field in ("database_url", "direct_database_url"):
            shown[field] = shown[field] and redacted(shown[field])
        return f"LedgerSettings({', '.join(f'{field}={value!r}' for field, value in shown.items())})"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read `DATABASE_URL` and `LEDGERWIRE_<FIELD>`, for example `LEDGERWIRE_READ_POOL_MAX=8`.

        An empty value means "not set", as compose files write it. Raises `SettingsError` that names the
        variable, its value (never a URL) and an example.
        """
        given: dict[str, Any] = {}
        for field in msgspec.structs.fields(cls):
            text = environment.get(_named(field.name), "").strip()
            if not text:
                continue
            if field.name.endswith("database_url"):
                given[field.name] = _SCHEME.sub("postgresql://", text)
            elif field.name == "data_dir":
                given[field.name] = Path(text)
            else:
                try:
                    given[field.name] = msgspec.convert(text, field.type, strict=False)
                except msgspec.ValidationError:
                    kind = "a whole number" if field.type is int else "a number"
                    raise SettingsError(
                        f"{_named(field.name)} is {text[:80]!r}, must be {kind}. {_example(field.name)}"
                    ) from None
        return cls(**given)


_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    # The upper bounds stop a slip of the pen (seconds written as milliseconds), not a large installation.
    "write_pool_max": (1, 100),
    "write_pool_min": (0, 100),
    "read_pool_max": (1, 200),
    "read_pool_min": (0, 200),
    "control_pool_max": (1, 100),
    "control_pool_min": (0, 100),
    "connect_timeout_seconds": (0.05, 60),
    "acquire_timeout_seconds": (0.01, 60),
    "command_timeout_seconds": (0.05, 300),
    "request_deadline_seconds": (0.1, 600),
    "statement_timeout_ms": (10, 300_000),
    "lock_timeout_ms": (1, 300_000),
    "append_lock_timeout_ms": (1, 300_000),
    "idle_in_transaction_timeout_ms": (10, 600_000),
    "recycle_seconds": (0.05, 86_400),
    "liveness_idle_seconds": (0, 3_600),
    "statement_cache_size": (0, 10_000),
    "queue_limit": (1, 1_000_000),
    "queue_wait_seconds": (0.01, 60),
    "batch_limit": (1, 5_000),
    "lease_seconds": (0.1, 86_400),
    "lease_grace_seconds": (0, 86_400),
    "cancel_grace_seconds": (0, 86_400),
}


def _named(field: str) -> str:
    """The environment variable of a field."""
    return "DATABASE_URL" if field == "database_url" else PREFIX + field.upper()


def _example(field: str) -> str:
    """A line that works: the start value."""
    default = next(each.default for each in msgspec.structs.fields(LedgerSettings) if each.name == field)
    return f"Example: {_named(field)}={default}"
