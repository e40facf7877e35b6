"""Real PostgreSQL for the tests: one throwaway server per run, and a fresh database per test.

With DATABASE_URL set, databases are made on that server instead. Tests that stop or kill a server take an
server of their own in either case, from `own_server`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from ledger.embedded import EmbeddedPostgres
from ledger.migrate import migrate


@dataclass(kw_only=True)
class Cluster:
    """A server to make databases on. `server` is None when it is not ours to stop."""

    dsn: str
    server: EmbeddedPostgres | None = None
    template: str | None = None


def with_database(dsn: str, name: str) -> str:
    """The same URL for another database of the server."""
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


def address_of(dsn: str) -> tuple[str, int] | str:
    """Where the server listens: (host, port), or the path of a Unix socket."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    if parts.hostname:
        return parts.hostname, parts.port or 5432
    return f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"


def through(dsn: str, port: int) -> str:
    """The same URL by way of a local TCP port, behind which a proxy stands."""
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{user}@127.0.0.1:{port}", query="sslmode=disable").geturl()


@contextmanager
def temporary_folder(*, on_disk: bool = False) -> Iterator[Path]:
    """A folder that the account of an embedded server can reach; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="ledgerwire-test-", dir=None if on_disk else _memory()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(kw_only=True)
class OwnServer:
    """A server that a test may stop, kill, freeze and start again. The URL stays the same."""

    now: EmbeddedPostgres
    durable: bool
    max_connections: int

    @property
    def dsn(self) -> str:
        """The URL of its database `ledgerwire`."""
        return self.now.dsn

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the postmaster: SIGKILL for a crash, SIGQUIT for an immediate shutdown."""
        os.kill(self.now.pid, number)

    def start(self) -> None:
        """Start it again, whatever has become of it."""
        self.now.stop(timeout_seconds=2)  # a server that is recovering can miss the first request
        self.now = EmbeddedPostgres.start(self.now.data_dir, durable=self.durable, max_connections=self.max_connections)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop every process of the server where it stands (SIGSTOP), and let them go on at the end."""
        children = Path(f"/proc/{self.now.pid}/task/{self.now.pid}/children").read_text().split()
        pids = [self.now.pid, *map(int, children)]
        for pid in pids:
            _send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                _send(pid, signal.SIGCONT)


@contextmanager
def own_server(*, durable: bool = False, max_connections: int = 60) -> Iterator[OwnServer]:
    """A server of the test's own, in a folder that goes with it."""
    with temporary_folder(on_disk=durable) as folder:
        server = EmbeddedPostgres.start(folder, durable=durable, max_connections=max_connections)
        own = OwnServer(now=server, durable=durable, max_connections=max_connections)
        try:
            yield own
        finally:
            own.now.stop()


@contextmanager
def cluster_for_this_run() -> Iterator[Cluster]:
    """The server that DATABASE_URL names, else a throwaway one (with fsync off: not for crash tests)."""
    if dsn := os.environ.get("DATABASE_URL"):
        cluster = Cluster(dsn=dsn)
        yield cluster
        if cluster.template:
            asyncio.run(drop_database(cluster, with_database(dsn, cluster.template)))
        return
    with own_server() as server:
        yield Cluster(dsn=server.dsn, server=server.now)


async def create_database(cluster: Cluster, *, migrated: bool = True) -> str:
    """Make a database and return its URL: a clone of a migrated template (made once), or an empty one."""
    connection = await asyncpg.connect(cluster.dsn)
    try:
        if migrated and cluster.template is None:
            template = _new_name("template")
            await connection.execute(f"create database {template}")
            await migrate(with_database(cluster.dsn, template))
            cluster.template = template
        name = _new_name("test")
        source = cluster.template if migrated else "template1"
        await connection.execute(f"create database {name} template {source} strategy wal_log")
        return with_database(cluster.dsn, name)
    finally:
        await connection.close()


async def drop_database(cluster: Cluster, dsn: str) -> None:
    """Drop what `create_database` made, with whoever is still connected."""
    connection = await asyncpg.connect(cluster.dsn)
    try:
        await connection.execute(f"drop database if exists {urlsplit(dsn).path[1:]} with (force)")
    finally:
        await connection.close()


@asynccontextmanager
async def temporary_database(cluster: Cluster, *, migrated: bool = True) -> AsyncIterator[str]:
    """A database for the length of the block; its URL."""
    dsn = await create_database(cluster, migrated=migrated)
    try:
        yield dsn
    finally:
        await drop_database(cluster, dsn)


async def read_ledger(dsn: str) -> dict[str, list[asyncpg.Record]]:
    """The transitions of all tasks, straight from the tables, in their order."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select t.task_id, r.seq, r.n, r.status, r.progress, r.at from ledger.transition r"
            " join ledger.task t using (key) order by t.task_id, r.seq"
        )
    finally:
        await connection.close()
    ledger: dict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        ledger[row["task_id"]].append(row)
    return ledger


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # a session's process that has just ended


def _memory() -> str | None:
    """A file system in memory, where there is a large one: throwaway data need not wait for a disk."""
    place = "/dev/shm"
    try:
        room = os.statvfs(place)
    except OSError:
        return None
    can_run = not room.f_flag & os.ST_NOEXEC  # for root the binaries may be copied into the data folder
    return place if can_run and room.f_bavail * room.f_frsize > 2 * 1024**3 else None


def _new_name(kind: str) -> str:
    return f"ledgerwire_{kind}_{os.getpid()}_{secrets.token_hex(4)}"
