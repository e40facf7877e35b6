"""Brings the schema up to date: numbered SQL files, applied once each, in order, by one process at a time.

The files are `sql/migrations/NNNN_name.sql`, from 0001 without a hole. Each runs in a transaction of its own
together with its row in `ledger.migration`, so a file has been applied as a whole or not at all. An applied
file is never edited; its checksum is kept to notice that.

Runs on a direct connection of its own: an advisory lock belongs to a session, which a pooler shares out. It
never goes back, and never touches a database that a newer version has migrated. PostgreSQL 15 to 18.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Final

import asyncpg
import msgspec

from ledger.errors import MigrationError, Unavailable
from ledger.pool.failure import DRIVER_ERRORS, Verdict, classify
from ledger.settings import unreadable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

# Any number will do, as long as it is always the same: the first eight bytes of "ledgerwire".
LOCK_KEY: Final = int.from_bytes(b"ledgerwi", "big")
LOCK_WAIT_SECONDS: Final = 30.0
# While a change waits for a table, all that come after it wait too; better to fail and be run again.
TABLE_LOCK_WAIT_SECONDS: Final = 5.0
CONNECT_TIMEOUT_SECONDS: Final = 5.0
# For one file: an index on a large table takes its time, a dead link must not take for ever.
COMMAND_TIMEOUT_SECONDS: Final = 3_600.0

_FILE_NAME: Final = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_TABLE: Final = """
create schema if not exists ledger;
create table if not exists ledger.migration (
    version    integer     primary key,
    name       text        not null,
    checksum   text        not null,
    applied_at timestamptz not null default now()
);
"""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its number, its name without the number, its text, and the sha256 of the text in hex."""

    version: int
    name: str
    sql: str
    checksum: str

    @property
    def file_name(self) -> str:
        """The name of the file, as 0001_tasks.sql."""
        return f"{self.version:04}_{self.name}.sql"


def migrations(directory: Traversable | None = None) -> list[Migration]:
    """The files of `directory` (default: those of this package), in order.

    Raises `MigrationError` for a name that does not fit, a number used twice, a hole, and an empty folder.
    """
    folder = directory if directory is not None else files("ledger") / "sql" / "migrations"
    found: dict[int, Migration] = {}
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(entry.name)
        if match is None:
            raise MigrationError(f"{entry.name} is not named like a migration, as 0002_leases.sql")
        version = int(match["version"])
        if version in found:
            raise MigrationError(f"{entry.name} and {found[version].file_name} have the same number")
        # Reading as text makes every line end "\n", so a checkout on another system has the same checksum.
        sql = entry.read_text(encoding="utf-8")
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        found[version] = Migration(version=version, name=match["name"], sql=sql, checksum=checksum)
    for expected, version in enumerate(found, start=1):
        if version != expected:
            raise MigrationError(f"migration {expected:04} is missing before {found[version].file_name}")
    if not found:
        raise MigrationError(f"there are no migrations in {folder}; is the installation complete?")
    return list(found.values())


async def migrate(
    target: str | Connection,
    *,
    directory: Traversable | None = None,
    lock_wait_seconds: float = LOCK_WAIT_SECONDS,
) -> list[Migration]:
    """Apply what is missing; the migrations applied by this call, in order, none when all was up to date.

    `target` is the URL of the database without a pooler, or an open connection that nobody else uses. Several
    processes may call this at once: one works, the others wait for it, at most `lock_wait_seconds`.

    Raises `MigrationError` when a person has to decide: an applied file was edited or is gone, the database
    is newer than this code, a file fails (it is named with the server's message; those before it stay), or
    another process holds the lock for too long. Raises `Unavailable` when the server cannot be reached.
    """
    wanted = migrations(directory)
    async with _connection(target) as connection, _locked(connection, lock_wait_seconds):
        await connection.execute(_TABLE)
        missing = _missing(wanted, await _applied(connection))
        for migration in missing:
            await _apply(connection, migration)
    return missing


async def pending(target: str | Connection, *, directory: Traversable | None = None) -> list[Migration]:
    """What `migrate` would apply. Changes nothing and waits for nobody; raises as `migrate` does."""
    wanted = migrations(directory)
    async with _connection(target) as connection:
        return _missing(wanted, await _applied(connection))


def _missing(wanted: Sequence[Migration], applied: Sequence[asyncpg.Record]) -> list[Migration]:
    """The wanted migrations behind the applied ones; `MigrationError` when the applied ones are others."""
    if len(applied) > len(wanted):
        newest = applied[-1]
        raise MigrationError(
            f"the database is newer than this version: it has {newest['version']:04}_{newest['name']}, and "
            f"the last migration known here is {wanted[-1].file_name}. Run a newer version."
        )
    for row, migration in zip(applied, wanted, strict=False):
        if row["version"] != migration.version:
            raise MigrationError(
                f"{migration.file_name} was not applied, but {row['version']:04}_{row['name']} was; somebody "
                "has changed ledger.migration"
            )
        if row["checksum"] != migration.checksum:
            raise MigrationError(
                f"{migration.file_name} was edited after it was applied on {row['applied_at']:%Y-%m-%d} (as "
                f"{row['version']:04}_{row['name']}). Restore the file, and put the change into a new one."
            )
    return list(wanted[len(applied) :])


async def _applied(connection: Connection) -> list[asyncpg.Record]:
    if await connection.fetchval("select to_regclass('ledger.migration')") is None:
        return []
    return await connection.fetch("select * from ledger.migration order by version")


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            if not connection.is_in_transaction():
                raise MigrationError(
                    f"{migration.file_name} ends the transaction it runs in; take its commit or rollback "
                    "out. What it has done stays, and is not recorded."
                )
            await connection.execute(
                "insert into ledger.migration (version, name, checksum) values ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresError as exc:
        if classify(exc).verdict is Verdict.UNKNOWN:
            raise
        where = f" (line {_line(migration.sql, exc.position)})" if exc.position else ""
        raise MigrationError(
            f"{migration.file_name} failed{where} and was rolled back: {exc}. The migrations before it stay."
        ) from exc


def _line(sql: str, position: str) -> int:
    return sql.count("\n", 0, int(position) - 1) + 1


@asynccontextmanager
async def _connection(target: str | Connection) -> AsyncIterator[Connection]:
    """`target` itself, or a connection to it for the length of the block; the driver's errors become ours."""
    if isinstance(target, str):
        async with _connected(target) as connection, _errors_named():
            yield connection
    else:
        async with _errors_named():
            yield target


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=COMMAND_TIMEOUT_SECONDS,
            server_settings={"application_name": "ledgerwire/migrate"},
        )
    except ValueError:
        raise unreadable(dsn) from None
    except Exception as exc:
        reason = classify(exc, sent=False).reason
        sentence = f"no connection for the migrations ({reason}): {exc}"
        raise Unavailable(sentence, reason=reason, retry_after_ms=1_000) from exc
    try:
        yield connection
    finally:
        try:
            await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)
        except (OSError, asyncpg.PostgresError):
            pass  # it was lost; what became of the work is known by now


@asynccontextmanager
async def _errors_named() -> AsyncIterator[None]:
    try:
        yield
    except DRIVER_ERRORS as exc:
        failure = classify(exc)
        if failure.verdict is Verdict.UNKNOWN:
            # A file and its record are one transaction, so beginning again is safe whatever became of it.
            raise Unavailable(
                f"the connection was lost during the migrations ({failure.reason}); run them again",
                reason=failure.reason,
                retry_after_ms=1_000,
            ) from exc
        raise MigrationError(f"the migrations cannot be run: {exc}", reason=failure.reason) from exc


@asynccontextmanager
async def _locked(connection: Connection, wait_seconds: float) -> AsyncIterator[None]:
    """Hold the advisory lock of all migrations for the length of the block, in a session set up for them."""
    before = {
        name: await connection.fetchval("select current_setting($1)", name)
        for name in ("lock_timeout", "statement_timeout")
    }
    # The role may carry a statement timeout for the gateway's short statements; an index takes longer.
    await _set(connection, lock_timeout=f"{int(wait_seconds * 1_000)}ms", statement_timeout="0")
    try:
        try:
            await connection.execute("select pg_advisory_lock($1)", LOCK_KEY)
        except asyncpg.LockNotAvailableError as exc:
            raise MigrationError(
                f"another process has been migrating this database for more than {wait_seconds:g} s; look "
                "for ledgerwire/migrate in pg_stat_activity"
            ) from exc
        try:
            table_wait_seconds = min(wait_seconds, TABLE_LOCK_WAIT_SECONDS)
            await _set(connection, lock_timeout=f"{int(table_wait_seconds * 1_000)}ms")
            yield
        finally:
            if not connection.is_closed():
                await connection.execute("select pg_advisory_unlock($1)", LOCK_KEY)
    finally:
        if not connection.is_closed():
            await _set(connection, **before)


async def _set(connection: Connection, **settings: str) -> None:
    for name, value in settings.items():
        await connection.execute("select set_config($1, $2, false)", name, value)
