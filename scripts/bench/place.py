"""The one PostgreSQL that a run measures on, and databases on it: made for the run, dropped after it.

Without a URL it is the product's own server (`ledger.embedded`) in a new folder on a disk, with its default settings.
Refuses a server that may forget a commit, and a folder in memory.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from msgspec import Struct

from ledger.embedded import EmbeddedPostgres
from ledger.migrate import migrate

CLONE_ROWS: Final = 300_000
"""Up to so many stored transitions every measurement has a copy of the database to itself. A larger one is used as it
is: what a measurement adds is then a small part of what is there, and a copy would take longer than the measurement."""
_SETTINGS: Final = (
    "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "wal_level", "shared_buffers",
    "max_wal_size", "checkpoint_timeout", "commit_delay", "autovacuum", "max_connections",
)  # fmt: skip
_MUST_BE_ON: Final = ("fsync", "synchronous_commit", "full_page_writes")
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


class CannotMeasure(Exception):
    """There is no place to measure; the sentence says what to do."""


class Place(Struct, kw_only=True):
    """A server: the URL of a database for errands, a folder beside its data, and its postmaster where it is local."""

    dsn: str
    folder: Path
    embedded: bool
    postmaster_pid: int | None
    version: str
    settings: dict[str, str]
    stored_rows: int = 0
    base: str = ""
    """The name of the database that has what every measurement begins with; empty before `prepare`."""
    made: list[str] = []

    def url(self, database: str) -> str:
        """The URL of another database of the server."""
        return urlsplit(self.dsn)._replace(path=f"/{database}").geturl()

    async def prepare(self) -> str:
        """Make a new base database with the ledger's schema; its URL. Fill it before the first `workspace`."""
        self.base, self.stored_rows = await self._create("template0"), 0
        await migrate(self.url(self.base))
        return self.url(self.base)

    @asynccontextmanager
    async def workspace(self) -> AsyncIterator[str]:
        """The URL of a database to measure in, just after a checkpoint: a copy of the base, or a large base itself."""
        own = self.stored_rows <= CLONE_ROWS
        name = await self._create(self.base) if own else self.base
        try:
            connection = await asyncpg.connect(self.url(name))
            try:
                await connection.execute("checkpoint", timeout=600)
            finally:
                await connection.close()
            yield self.url(name)
        finally:
            if own:
                await self._drop(name)

    async def drop_base(self) -> None:
        """Drop the base, to make another."""
        await self._drop(self.base)

    async def close(self) -> None:
        """Drop the databases that were made on a server that stays."""
        if not self.embedded:
            for name in list(self.made):
                await self._drop(name)

    async def _create(self, template: str) -> str:
        name = f"ledgerwire_bench_{secrets.token_hex(6)}"
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(f"create database {name} template {template}", timeout=600)
        finally:
            await connection.close()
        self.made.append(name)
        return name

    async def _drop(self, name: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(f"drop database if exists {name} with (force)", timeout=600)
        finally:
            await connection.close()
        self.made.remove(name)


@contextmanager
def folder_on_disk(parent: Path | None, *, allow_unsafe: bool) -> Iterator[Path]:
    """A new folder for the data of this run's servers, that goes with the run. Raises `CannotMeasure` in memory."""
    chosen = parent or next((path for path in (Path("/var/tmp"),) if path.is_dir()), Path(tempfile.gettempdir()))  # noqa: S108 - a new folder of an unknown name is made in it
    kind = _file_system(chosen)
    if kind in _IN_MEMORY and not allow_unsafe:
        raise CannotMeasure(f"{chosen} is in memory ({kind}); name a folder on a disk with --folder.")
    folder = Path(tempfile.mkdtemp(prefix="ledgerwire-bench-", dir=chosen))
    folder.chmod(0o711)  # the server's account has to pass through it
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_server(folder: Path) -> Iterator[EmbeddedPostgres]:
    """The product's own server with its data in `folder`. Belongs on the main thread, before the loop."""
    with EmbeddedPostgres.start(folder / "postgres") as server:
        yield server


async def look_at(dsn: str, folder: Path, *, embedded: bool, allow_unsafe: bool) -> Place:
    """The server behind a URL. Raises `CannotMeasure` when a crash could lose what it has committed."""
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise CannotMeasure(f"The database cannot be reached: {error}") from error
    try:
        rows = await connection.fetch("select name, setting || coalesce(unit, '') as value from pg_settings")
        version = str(await connection.fetchval("show server_version"))
        backend = int(await connection.fetchval("select pg_backend_pid()"))
        local = await connection.fetchval(
            "select inet_server_addr() is null or inet_server_addr() = inet_client_addr()"
        )
        postmaster_pid = _parent_of_postgres(backend) if local else None
    finally:
        await connection.close()
    known = {row["name"]: row["value"] for row in rows}
    settings = {name: known[name] for name in _SETTINGS if name in known}
    unsafe = [f"{name}={settings[name]}" for name in _MUST_BE_ON if settings[name] == "off"]
    if unsafe and not allow_unsafe:
        raise CannotMeasure(
            f"This server may forget a commit ({', '.join(unsafe)}); --allow-unsafe measures it anyway."
        )
    return Place(
        dsn=dsn, folder=folder, embedded=embedded, postmaster_pid=postmaster_pid, version=version, settings=settings
    )


def _parent_of_postgres(backend_pid: int) -> int | None:
    """The postmaster of a backend of this machine; None when that pid is no PostgreSQL here."""
    try:
        status = Path(f"/proc/{backend_pid}/stat").read_text("ascii", "replace")
        parent = int(status.rpartition(")")[2].split()[1])
        names = {Path(f"/proc/{pid}/comm").read_text("ascii").strip() for pid in (backend_pid, parent)}
    except (OSError, ValueError):
        return None
    return parent if names <= {"postgres", "postmaster"} else None


def _file_system(path: Path) -> str:
    """The kind of file system that a path is on, as /proc/mounts calls it; "" where that is not known."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return ""
    real = os.path.realpath(path)
    over = [mount for mount in mounts if real == mount[1] or real.startswith(mount[1].rstrip("/") + "/")]
    return max(over, key=lambda mount: len(mount[1]))[2] if over else ""
