"""Each fault, made for real, and what `classify` says of the error that came of it.

Rejected: the data is at fault. Retry: rolled back for certain, or never sent. Unknown: only the key can tell.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from ledger.errors import Busy, OutcomeUnknown, Refused, Unavailable
from ledger.pool import Failure, Pools, classify
from tests.support.limits import generous
from tests.support.postgres import Cluster, OwnServer, own_server, with_database
from tests.support.waiting import eventually

Connection = Any  # asyncpg's own type is generic for type checkers only


@pytest.fixture
async def connection(empty_database: str) -> AsyncIterator[Connection]:
    """A connection to a database with one table."""
    async with connected(empty_database) as each:
        await each.execute("create table t (x int primary key, y jsonb); insert into t values (1), (2)")
        yield each


@pytest.fixture
async def other(empty_database: str) -> AsyncIterator[Connection]:
    """Somebody else on the same database."""
    async with connected(empty_database) as each:
        yield each


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """A server to be killed, stopped, frozen and filled."""
    with own_server(max_connections=12) as each:
        yield each


@pytest.fixture
async def victim(server: OwnServer) -> AsyncIterator[Connection]:
    """A connection to that server, which is started again afterwards."""
    async with connected(server.dsn) as each:
        yield each
    server.start()


@asynccontextmanager
async def connected(dsn: str, **options: Any) -> AsyncIterator[Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(dsn, timeout=30, **({"command_timeout": 30} | options))
    try:
        yield connection
    finally:
        connection.terminate()


async def failing(work: Awaitable[object]) -> Exception:
    """The error that `work` ends with."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any, it is what the tests look at
        await work
    return caught.value


def said(failure: Failure) -> tuple[str, str | None]:
    """The verdict and the server's code."""
    return failure.verdict.value, failure.sqlstate


async def at_work(connection: Connection, sql: str = "select pg_sleep(5)") -> asyncio.Task[object]:
    """A statement that the server is working on right now."""
    task: asyncio.Task[object] = asyncio.create_task(connection.execute(sql))
    stat = Path(f"/proc/{connection.get_server_pid()}/cmdline")
    await eventually(lambda: b"SELECT" in stat.read_bytes())
    return task


class TestData:
    """What the data is to blame for is rejected, in whatever layer it is found."""

    DEEP: Final = "[" * 100_000 + "]" * 100_000

    @pytest.mark.parametrize(
        ("sql", "value", "state"),
        [
            ("select $1::text", "a\0b", "22021"),
            ("select $1::text", "lone \ud800", "22000"),
            ("select $1::int8", 2**63, "22000"),
            ("select $1::int8", "text", "22000"),
            ("select $1::text::jsonb", '"\\u0000"', "22P05"),
            ("select $1::text::jsonb", "{", "22P02"),
            ("select $1::text::jsonb", DEEP, "54001"),
            ("select $1::text::float8", "1e400000", "22003"),
            ("insert into t values ($1)", 1, "23505"),
            ("insert into t values ($1)", None, "23502"),
            ("select pg_notify('x', $1)", "x" * 8_000, "22023"),
        ],
        ids=[
            "nul",
            "surrogate",
            "int64",
            "type",
            "json-nul",
            "json",
            "deep-json",
            "float",
            "duplicate",
            "null",
            "notify-size",
        ],
    )
    async def test_poison(self, connection: Connection, sql: str, value: object, state: str) -> None:
        """Each poison of the table, refused by the driver or by the server; the connection lives on."""
        exc = await failing(connection.fetch(sql, value))
        assert said(classify(exc)) == ("rejected", state)
        assert said(classify(exc, sent=False)) == ("rejected", state)
        assert await connection.fetchval("select count(*) from t") == 2

    async def test_a_rule_of_the_operators_says_no(self, connection: Connection) -> None:
        """An exception raised by a trigger or a function is a refusal."""
        exc = await failing(connection.execute("do $$ begin raise exception 'not on sundays'; end $$"))
        assert said(classify(exc)) == ("rejected", "P0001")


class TestRolledBack:
    """The server says that it has undone the statement, and the data was not to blame."""

    async def test_statement_timeout(self, connection: Connection) -> None:
        """The server's own clock."""
        await connection.execute("set statement_timeout = 20")
        assert said(classify(await failing(connection.execute("select pg_sleep(5)")))) == ("retry", "57014")

    @pytest.mark.parametrize("sql", ["select from t for update", "select from t for update nowait"])
    async def test_lock_timeout(self, connection: Connection, other: Connection, sql: str) -> None:
        """A row that somebody holds for too long, waited for or not."""
        await connection.execute("set lock_timeout = 20")
        async with other.transaction():
            await other.execute("select from t for update")
            assert said(classify(await failing(connection.execute(sql)))) == ("retry", "55P03")

    async def test_deadlock(self, connection: Connection, other: Connection) -> None:
        """Two transactions that wait for each other; one of them is rolled back."""
        await connection.execute("set deadlock_timeout = 20")
        await other.execute("set deadlock_timeout = '10s'")
        await connection.execute("begin; update t set y = 'null' where x = 1")
        await other.execute("begin; update t set y = 'null' where x = 2")
        blocked = asyncio.create_task(other.execute("update t set y = 'null' where x = 1"))
        exc = await failing(connection.execute("update t set y = 'null' where x = 2"))
        assert said(classify(exc)) == ("retry", "40P01")
        await connection.execute("rollback")
        await blocked

    async def test_serialization(self, connection: Connection, other: Connection) -> None:
        """Somebody was faster."""
        await connection.execute("begin isolation level serializable; select from t")
        await other.execute("update t set y = 'null'")
        exc = await failing(connection.execute("update t set y = 'null'"))
        assert said(classify(exc)) == ("retry", "40001")

    async def test_a_transaction_that_has_failed(self, connection: Connection) -> None:
        """What comes after an error in the same transaction is not done either."""
        await connection.execute("begin")
        await failing(connection.execute("select 1 / 0"))
        assert said(classify(await failing(connection.execute("select 1")))) == ("retry", "25P02")

    async def test_read_only(self, connection: Connection) -> None:
        """A node that takes no writes."""
        await connection.execute("set default_transaction_read_only = on")
        assert said(classify(await failing(connection.execute("delete from t")))) == ("retry", "25006")

    async def test_a_schema_changed_under_a_prepared_statement(self, connection: Connection, other: Connection) -> None:
        """In a transaction the driver cannot prepare it again by itself."""
        await connection.fetch("select * from t")
        await other.execute("alter table t add column z int")
        await connection.execute("begin")
        exc = await failing(connection.fetch("select * from t"))
        assert isinstance(exc, asyncpg.InvalidCachedStatementError)
        assert said(classify(exc)) == ("retry", "0A000")

    async def test_a_prepared_statement_that_is_gone(self, connection: Connection) -> None:
        """As behind a pooler that shares connections."""
        await connection.fetch("select * from t")
        await connection.execute("deallocate all")
        assert said(classify(await failing(connection.fetch("select * from t")))) == ("retry", "26000")

    @pytest.mark.parametrize(("sql", "state"), [("select from nowhere", "42P01"), ("select missing from t", "42703")])
    async def test_a_schema_that_is_not_ours(self, connection: Connection, sql: str, state: str) -> None:
        """A migration is missing: no report is at fault, and none may be thrown away for it."""
        assert said(classify(await failing(connection.fetch(sql)))) == ("retry", state)

    async def test_a_right_that_was_revoked(self, cluster: Cluster, connection: Connection) -> None:
        """As above."""
        role = f"nobody_{os.getpid()}"
        await connection.execute(f"create role {role}; set role {role}")
        try:
            assert said(classify(await failing(connection.fetch("select from t")))) == ("retry", "42501")
        finally:
            await connection.execute(f"reset role; drop role {role}")

    async def test_disk_full(self, server: OwnServer, victim: Connection) -> None:
        """A tablespace on a disk of one megabyte: the statement is undone, and the server goes on."""
        with small_disk(server) as disk:
            await victim.execute(f"create tablespace small location '{disk}'")
            await victim.execute("create table filler (x text) tablespace small")
            exc = await failing(
                victim.execute("insert into filler select repeat('x', 1000) from generate_series(1, 10000)")
            )
            assert said(classify(exc)) == ("retry", "53100")
            assert await victim.fetchval("select count(*) from filler") == 0
            await victim.execute("drop table filler")
            await victim.execute("drop tablespace small")

    async def test_a_full_notification_queue(self, server: OwnServer, victim: Connection) -> None:
        """A listener that sleeps in a transaction lets a commit of others fail; the data is not at fault."""
        if victim.get_server_version().major < 17:
            pytest.skip("the queue's size can be set from PostgreSQL 17 on")
        await victim.execute("alter system set max_notify_queue_pages = 64")
        server.start()
        async with connected(server.dsn) as sleeper, connected(server.dsn) as sender:
            await sleeper.execute("listen x")
            await sleeper.execute("begin; select 1")
            payload = "x" * 7_000

            async def fill() -> None:
                for n in range(200):
                    await sender.execute("select pg_notify('x', $1 || $2)", payload, str(n))

            exc = await failing(fill())
            assert said(classify(exc)) == ("retry", "54000")
            assert classify(exc).reason == "notify_queue_full"
            await sender.execute("alter system reset max_notify_queue_pages")


class TestLogin:
    """No session, so no statement of ours: always to be tried again."""

    @pytest.mark.parametrize(("part", "state"), [("role", "28000"), ("database", "3D000")])
    async def test_a_wrong_role_or_database(self, server: OwnServer, part: str, state: str) -> None:
        """Refused by the server."""
        dsn = server.dsn.replace("postgres@", "nobody_at_all@") if part == "role" else ""
        exc = await failing(asyncpg.connect(dsn or with_database(server.dsn, "nothing_at_all")))
        assert said(classify(exc)) == ("retry", state)
        assert said(classify(exc, sent=False)) == ("retry", state)

    async def test_too_many_connections(self, server: OwnServer) -> None:
        """The server is full, for us and for everybody."""
        held: list[Connection] = []

        async def fill() -> None:
            while len(held) < 50:
                held.append(await asyncpg.connect(server.dsn))

        exc = await failing(fill())
        for connection in held:
            connection.terminate()
        assert said(classify(exc)) == ("retry", "53300")
        await eventually(partial(can_connect, server.dsn))

    async def test_nobody_listens(self, server: OwnServer, tmp_path: Path) -> None:
        """A stopped server, a socket that is not there, a name that does not resolve."""
        server.now.stop()
        try:
            gone = await failing(asyncpg.connect(server.dsn))
        finally:
            server.start()
        refused = await failing(asyncpg.connect("postgresql://postgres@127.0.0.1:1/x?sslmode=disable"))
        unknown = await failing(asyncpg.connect("postgresql://postgres@no-such-host.invalid/x?sslmode=disable"))
        for exc in (gone, refused, unknown):
            assert classify(exc) == classify(exc, sent=False)
            assert (classify(exc).verdict, classify(exc).reason) == ("retry", "cannot_connect")

    async def test_no_host_fits(self, empty_database: str) -> None:
        """A primary is wanted, and there are standbys only (or the other way round, as here)."""
        more = "&" if "?" in empty_database else "?"
        exc = await failing(asyncpg.connect(f"{empty_database}{more}target_session_attrs=standby"))
        assert (classify(exc).verdict, classify(exc).reason) == ("retry", "no_suitable_host")

    async def test_a_server_that_starts_up(self, server: OwnServer, victim: Connection) -> None:
        """After a crash it listens before it can serve; every attempt until then is `retry`."""
        seen = set()

        async def attempt() -> bool:
            try:
                connection = await asyncpg.connect(server.dsn)
            except Exception as exc:  # noqa: BLE001 - all that comes is looked at
                seen.add(said(classify(exc, sent=False)))
            else:
                os.kill(connection.get_server_pid(), signal.SIGKILL)  # all sessions end, and the server recovers
            return ("retry", "57P03") in seen

        await eventually(attempt, every_seconds=0)
        assert {verdict for verdict, _ in seen} == {"retry"}


class TestLostOnTheWay:
    """The statement had left us, and its answer never came."""

    async def test_pg_terminate_backend(self, connection: Connection, other: Connection) -> None:
        """The session is ended by an operator or a shutdown."""
        work = await at_work(connection)
        await other.execute("select pg_terminate_backend($1)", connection.get_server_pid())
        exc = await failing(work)
        assert said(classify(exc)) == ("unknown", "08003")
        assert isinstance(exc.__cause__, asyncpg.AdminShutdownError)
        assert said(classify(exc.__cause__)) == ("unknown", "57P01")
        assert said(classify(exc, sent=False)) == ("retry", "08003")
        after = await failing(connection.execute("select 1"))
        assert isinstance(after, asyncpg.InterfaceError)
        assert classify(after).verdict == "unknown"

    async def test_in_a_transaction(self, connection: Connection, other: Connection) -> None:
        """What the driver raises at the end of the block instead is no PostgresError, and as unknown."""

        async def work() -> None:
            async with connection.transaction():
                await other.execute("select pg_terminate_backend($1, 5000)", connection.get_server_pid())
                await eventually(connection.is_closed)

        exc = await failing(work())
        assert isinstance(exc, asyncpg.InterfaceError | asyncpg.InternalClientError)
        assert classify(exc).verdict == "unknown"

    async def test_idle_in_transaction(self, connection: Connection) -> None:
        """The server's code for it is lost on the way; what is left is a closed connection."""
        await connection.execute("set idle_in_transaction_session_timeout = 20; begin; select 1")
        await eventually(connection.is_closed)
        exc = await failing(connection.execute("commit"))
        assert classify(exc).verdict == "unknown"

    @pytest.mark.parametrize(
        "number", [signal.SIGKILL, signal.SIGQUIT, signal.SIGINT], ids=["crash", "immediate", "fast"]
    )
    async def test_the_server_goes(self, server: OwnServer, victim: Connection, number: signal.Signals) -> None:
        """Killed, shut down at once, shut down fast: what was under way is unknown."""
        work = await at_work(victim)
        server.kill(number)
        assert classify(await failing(work)).verdict == "unknown"

    async def test_a_neighbour_is_killed(self, server: OwnServer, victim: Connection) -> None:
        """One backend dies by kill -9, and the server ends all sessions."""
        work = await at_work(victim)
        async with connected(server.dsn) as neighbour:
            os.kill(neighbour.get_server_pid(), signal.SIGKILL)
            assert classify(await failing(work)).verdict == "unknown"
            exc = await failing(neighbour.execute("select 1"))
            assert classify(exc).verdict == "unknown"

    async def test_a_frozen_server(self, server: OwnServer) -> None:
        """Nothing is known but that it took too long; at the login that is enough to know."""
        async with connected(server.dsn, command_timeout=0.1) as slow:
            with server.frozen():
                exc = await failing(slow.execute("select 1"))
                assert isinstance(exc, TimeoutError)
                assert (classify(exc).verdict, classify(exc).reason) == ("unknown", "timeout")
                login = await failing(asyncpg.connect(server.dsn, timeout=0.1))
                assert (classify(login, sent=False).verdict, classify(login, sent=False).reason) == ("retry", "timeout")

    async def test_a_cancellation_is_no_failure(self) -> None:
        """It is raised again, never answered."""
        with pytest.raises(asyncio.CancelledError):
            classify(asyncio.CancelledError())
        with pytest.raises(KeyboardInterrupt):
            classify(KeyboardInterrupt())

    def test_an_error_that_ends_the_session_is_unknown(self) -> None:
        """Whatever its code: what the server was doing when it gave up is not said. (The driver's own constructor.)"""
        fields = {"C": "53100", "M": "No space left on device"}
        assert classify(asyncpg.PostgresError.new(fields | {"V": "ERROR"})).verdict == "retry"
        assert classify(asyncpg.PostgresError.new(fields | {"V": "PANIC"})).verdict == "unknown"

    @pytest.mark.parametrize("exc", [RuntimeError("?"), asyncpg.PostgresError("?"), OSError(5, "I/O error")])
    def test_whatever_is_not_listed_is_unknown(self, exc: Exception) -> None:
        """The careful answer is the default."""
        assert classify(exc).verdict == "unknown"
        assert classify(exc, sent=False).verdict == "retry"


class TestThroughALane:
    """The same verdicts, as a caller of the lanes sees them."""

    async def test_a_full_lane(self, empty_database: str) -> None:
        """The driver alone would wait for ever."""
        settings = generous(acquire_timeout_seconds=0.05, write_pool_max=1)
        pools = await Pools.open(settings, empty_database)
        try:
            async with pools.write.acquire():
                exc = await failing(pools.write.fetchval("select 1"))
            assert isinstance(exc, Unavailable)
            assert (classify(exc).verdict, classify(exc).reason) == ("retry", "acquire_timeout")
        finally:
            await pools.close()

    @pytest.mark.parametrize(
        ("exc", "verdict"),
        [
            (Unavailable("", reason="disk_full"), "retry"),
            (Busy("", reason="disk_full"), "retry"),
            (OutcomeUnknown("", reason="disk_full"), "unknown"),
            (Refused("", reason="disk_full"), "rejected"),
        ],
    )
    def test_an_error_of_ours_keeps_its_meaning(self, exc: Exception, verdict: str) -> None:
        """Classified twice, an error says the same."""
        assert (classify(exc).verdict, classify(exc).reason) == (verdict, "disk_full")


async def can_connect(dsn: str) -> bool:
    """Whether a connection can be had now."""
    try:
        connection = await asyncpg.connect(dsn)
    except asyncpg.PostgresError:
        return False
    connection.terminate()
    return True


@contextmanager
def small_disk(server: OwnServer) -> Iterator[Path]:
    """A file system of one megabyte that the server may write to; skips where none can be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="ledgerwire-disk-"))
    owner = server.now.cluster_dir.stat()
    options = f"size=1m,uid={owner.st_uid},gid={owner.st_gid},mode=0700"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode != 0:
        folder.rmdir()
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
