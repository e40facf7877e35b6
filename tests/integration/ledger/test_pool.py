"""The lanes: bounded in connections, in waiting and in time, whatever happens to the link or the server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest

from ledger.errors import OutcomeUnknown, Refused, SettingsError, Unavailable
from ledger.pool import Lane, Pools
from ledger.settings import LedgerSettings
from tests.support.limits import QUICK, generous
from tests.support.postgres import Cluster, OwnServer, address_of, own_server, through, with_database
from tests.support.proxy import Link, Proxy
from tests.support.waiting import eventually


def quick(**changes: Any) -> LedgerSettings:
    """Settings with short clocks, in the same order as the real ones: for tests of what ends by them."""
    return LedgerSettings(**(QUICK | changes))


@asynccontextmanager
async def opened(dsn: str, settings: LedgerSettings | None = None) -> AsyncIterator[Pools]:
    """Pools for the length of the block."""
    pools = await Pools.open(settings or generous(), dsn)
    try:
        yield pools
    finally:
        await pools.close(timeout_seconds=0.5)


@pytest.fixture
async def pools(empty_database: str) -> AsyncIterator[Pools]:
    """Pools on a database with nothing in it."""
    async with opened(empty_database) as each:
        yield each


@pytest.fixture
async def proxy(empty_database: str) -> AsyncIterator[Proxy]:
    """A link to the database that can be made to fail."""
    async with Proxy(address_of(empty_database)) as each:
        yield each


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    """A server to be stopped and started."""
    with own_server() as each:
        yield each


async def backend(lane: Lane) -> int:
    """The pid of the server process behind the connection that the lane uses next."""
    return int(await lane.fetchval("select pg_backend_pid()"))


async def works(lane: Lane) -> bool:
    """Whether a statement gets through now."""
    try:
        return bool(await lane.fetchval("select true"))
    except (Unavailable, OutcomeUnknown):
        return False


class TestOpening:
    """What a lane is when it is open."""

    async def test_each_lane_names_itself_and_limits_its_sessions(self, empty_database: str) -> None:
        """The operator sees the lane in pg_stat_activity; the server holds the limits, and does not compile."""
        limits = {
            "statement_timeout_ms": 19_400,
            "lock_timeout_ms": 9_200,
            "append_lock_timeout_ms": 8_100,
            "idle_in_transaction_timeout_ms": 50_000,
        }
        async with opened(empty_database, generous(**limits)) as pools:
            for lane in (pools.write, pools.read, pools.control):
                assert await lane.fetchval("show application_name") == f"ledgerwire/{lane.name}"
                assert await lane.fetchval("show statement_timeout") == "19400ms"
                patience = "9200ms" if lane is not pools.write else "8100ms"  # an append steps aside, the rest waits
                assert await lane.fetchval("show lock_timeout") == patience
                assert await lane.fetchval("show idle_in_transaction_session_timeout") == "50s"
                assert await lane.fetchval("show jit") == "off"

    async def test_every_way_to_run_a_statement(self, pools: Pools) -> None:
        """Rows, one row, one value, a command tag; json stays text."""
        assert [row["x"] for row in await pools.read.fetch("select unnest($1::int[]) as x", [1, 2])] == [1, 2]
        assert await pools.read.fetchrow("select 1 as x where false") is None
        assert await pools.read.fetchval("""select '{"b": 1,  "a": 2}'::json""") == '{"b": 1,  "a": 2}'
        assert await pools.write.execute("create table t (x int)") == "CREATE TABLE"

    async def test_a_release_costs_no_round_trip(self, pools: Pools) -> None:
        """Nothing is left behind by a caller, so nothing is reset."""
        async with pools.read.acquire() as connection:
            assert connection.get_reset_query() == ""

    async def test_the_probe_says_what_the_server_is(self, cluster: Cluster, durable_cluster: Cluster) -> None:
        """Readiness learns the version, whether it may write, and whether a commit is safe."""
        async with opened(durable_cluster.dsn) as pools:
            state = await pools.check()
            assert (state.read_only, state.unsafe) == (False, ())
            assert 150_000 <= state.version < 190_000
        if cluster.server is not None:
            async with opened(cluster.dsn) as pools:
                assert (await pools.check()).unsafe == ("fsync=off", "full_page_writes=off", "synchronous_commit=off")

    @pytest.mark.parametrize("url", ["postgresql://u:pa/ss@h/d", "postgresql://u:pa@h:port/d"])
    async def test_a_url_that_cannot_be_read(self, url: str) -> None:
        """It is refused at once, and its password is not shown."""
        with pytest.raises(SettingsError) as caught:
            await Pools.open(quick(), url)
        assert "pa" not in caught.value.sentence.replace("password", "").replace("DATABASE_URL", "").split(" can")[0]
        assert caught.value.__cause__ is None

    async def test_it_opens_while_the_server_is_away(self, server: OwnServer) -> None:
        """A gateway may be started before its database, and connects when that is there."""
        server.now.stop()
        try:
            async with opened(server.dsn) as pools:
                assert pools.status()["pool_size"] == 0
                with pytest.raises(Unavailable) as caught:
                    await pools.check()
                assert caught.value.reason == "cannot_connect"
                server.start()
                await eventually(partial(works, pools.control))
                assert not (await pools.check()).read_only
        finally:
            server.start()


class TestBounds:
    """Size, waiting and time."""

    async def test_status_counts_connections_and_waiters(self, pools: Pools) -> None:
        """The figures of /health/db, for each lane and for all, while one works and two wait."""
        status = pools.status()
        assert (status["pool_size"], status["checked_in"], status["checked_out"]) == (3, 3, 0)
        assert (status["overflow"], status["max"], status["waiting"]["count"]) == (0, 8, 0)
        async with pools.write.acquire("first"), pools.write.acquire("second"):
            waiters = [asyncio.create_task(works(pools.write), name=f"waiter-{n}") for n in range(2)]
            await eventually(lambda: pools.status()["waiting"]["count"] == 2)
            status = pools.status()
            lane = status["lanes"]["write"]
            assert (lane["pool_size"], lane["checked_in"], lane["checked_out"], lane["max"]) == (2, 0, 2, 2)
            assert [waiter["label"] for waiter in lane["waiting"]["who"]] == ["waiter-0", "waiter-1"]
            assert lane["waiting"]["longest_seconds"] == lane["waiting"]["who"][0]["seconds"] < 15.0
            assert (status["pool_size"], status["checked_in"], status["checked_out"]) == (4, 2, 2)
            assert status["waiting"]["who"] == lane["waiting"]["who"]
        assert await asyncio.gather(*waiters) == [True, True]
        assert pools.status()["checked_out"] == 0

    async def test_a_caller_waits_for_its_turn_only_so_long(self, empty_database: str) -> None:
        """A full lane answers in time, says so, and leaves the other lanes alone."""
        async with opened(empty_database, generous(acquire_timeout_seconds=0.2)) as pools:
            async with pools.write.acquire(), pools.write.acquire():
                began = time.monotonic()
                with pytest.raises(Unavailable) as caught:
                    await pools.write.fetchval("select 1")
                assert 0.2 <= time.monotonic() - began < 10.0, "no other clock is as short"
                assert caught.value.reason == "acquire_timeout"
                assert 250 <= (caught.value.retry_after_ms or 0) <= 1_000
                assert await works(pools.read)
            assert await works(pools.write)

    async def test_the_server_never_sees_more_connections_than_the_bound(self, pools: Pools) -> None:
        """Sixty statements at once share the four connections of a lane."""
        pids = await asyncio.gather(*(backend(pools.read) for _ in range(60)))
        assert 1 <= len(set(pids)) <= 4
        status = pools.read.status()
        assert status["pool_size"] == status["checked_in"] <= 4

    async def test_a_slow_statement_ends_by_the_servers_clock(self, empty_database: str) -> None:
        """It is rolled back for certain, and the connection is kept."""
        async with opened(empty_database, generous(statement_timeout_ms=400, lock_timeout_ms=200)) as pools:
            pid = await backend(pools.write)
            with pytest.raises(Unavailable) as caught:
                await pools.write.execute("select pg_sleep(30)")
            assert caught.value.reason == "statement_timeout"
            assert isinstance(caught.value.__cause__, asyncpg.QueryCanceledError)
            assert await backend(pools.write) == pid

    async def test_a_caller_that_holds_on_for_too_long_is_cut(self, empty_database: str) -> None:
        """The deadline is for everything in the block; its connection is not used again."""
        clocks = {"acquire_timeout_seconds": 0.1, "connect_timeout_seconds": 0.2, "command_timeout_seconds": 0.3}
        settings = quick(**clocks, statement_timeout_ms=250, lock_timeout_ms=200, request_deadline_seconds=0.6)
        async with opened(empty_database, settings) as pools:
            pid = await backend(pools.write)

            async def hold() -> None:
                async with pools.write.acquire() as connection:
                    while True:
                        await connection.fetchval("select pg_sleep(0.05)")

            with pytest.raises(OutcomeUnknown) as caught:
                await hold()
            assert caught.value.reason == "timeout"
            assert await backend(pools.write) != pid

    async def test_a_cancelled_caller_gives_its_turn_back(self, pools: Pools) -> None:
        """A cancellation passes through as it is, while waiting and while working."""
        async with pools.write.acquire():
            working = asyncio.create_task(pools.write.fetchval("select pg_sleep(15)"))
            await eventually(lambda: pools.write.status()["checked_out"] == 2)
            waiting = asyncio.create_task(pools.write.fetchval("select 1"))
            await eventually(lambda: pools.write.status()["waiting"]["count"] == 1)
            for task in (waiting, working):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert pools.write.status()["waiting"]["count"] == 0
            assert await works(pools.write)
        assert pools.write.status()["checked_out"] == 0

    async def test_an_error_of_the_callers_own_passes_through(self, pools: Pools) -> None:
        """What is not the database's fault is not renamed, rolls the transaction back, and costs no connection."""
        pid = await backend(pools.write)
        await pools.write.execute("create table t (x int)")

        async def fail() -> None:
            async with pools.write.acquire() as connection, connection.transaction():
                await connection.execute("insert into t values (1)")
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await fail()
        assert await pools.write.fetchval("select count(*) from t") == 0
        assert await backend(pools.write) == pid

    async def test_closing_waits_for_those_who_work_and_then_cuts(self, empty_database: str) -> None:
        """Who finishes in time finishes; who does not is cut; who comes later is told to come back."""
        pools = await Pools.open(generous(), empty_database)
        short = asyncio.create_task(pools.read.fetchval("select pg_sleep(0.5), 1"))
        long = asyncio.create_task(pools.write.fetchval("select pg_sleep(15)"))
        await eventually(lambda: pools.status()["checked_out"] == 2)
        await pools.close(timeout_seconds=2.0)
        await short
        with pytest.raises(OutcomeUnknown):
            await long
        with pytest.raises(Unavailable):
            await pools.read.fetchval("select 1")


class TestAge:
    """A connection is replaced in time, and not trusted after a long rest."""

    async def test_a_connection_is_replaced_when_it_is_old(self, empty_database: str) -> None:
        """At release and at acquire; and no caller notices."""
        async with opened(empty_database, generous(recycle_seconds=0.25)) as pools:
            began, pids = time.monotonic(), set[int]()
            while (passed := time.monotonic() - began) < 1.0 or len(pids) < 3:
                pids.add(await backend(pools.write))
            assert len(pids) <= passed / 0.2 + 2  # one for every 0.20 to 0.25 s, less on a busy machine
            assert pools.write.status()["pool_size"] <= 1

    async def test_an_idle_connection_is_closed_when_it_is_old(self, empty_database: str) -> None:
        """One that nobody uses does not stay for ever either."""
        async with opened(empty_database, generous(recycle_seconds=0.1)) as pools:
            await eventually(lambda: pools.status()["pool_size"] == 0)

    async def test_a_connection_that_was_forgotten_on_the_way(self, proxy: Proxy, empty_database: str) -> None:
        """After a rest it is asked first; when no answer comes, the statement goes out on a new one."""
        settings = generous(liveness_idle_seconds=0, read_pool_min=4, connect_timeout_seconds=6)
        async with opened(through(empty_database, proxy.port), settings) as pools:
            before = await backend(pools.read)
            proxy.strand()
            began = time.monotonic()
            assert await backend(pools.read) != before
            # Four connections were forgotten, and only one of them was asked, for a quarter of the time to connect.
            assert 1.5 <= time.monotonic() - began < 4.5
            assert pools.read.status()["pool_size"] <= 4

    async def test_a_connection_in_use_is_not_asked(self, pools: Pools, empty_database: str) -> None:
        """Within liveness_idle_seconds a statement is one round trip and no more."""
        async with opened(empty_database, generous(write_pool_max=1)) as watched:
            for _ in range(5):
                await watched.write.fetchval("select 'work'")
            query = "select query from pg_stat_activity where application_name = 'ledgerwire/write' and datname = $1"
            name = await pools.read.fetchval("select current_database()")
            assert "select 'work'" in [row["query"] for row in await pools.control.fetch(query, name)]


class TestLostLink:
    """What callers get when the link or the server goes."""

    async def test_a_session_ended_while_idle_is_not_noticed(self, pools: Pools) -> None:
        """The next statement takes another connection."""
        pid = await backend(pools.write)
        assert await pools.control.fetchval("select pg_terminate_backend($1, 1000)", pid)
        await eventually(lambda: pools.write.status()["pool_size"] == 0)
        assert await backend(pools.write) != pid

    @pytest.mark.parametrize(("name", "outcome"), [("write", OutcomeUnknown), ("read", Unavailable)])
    async def test_a_session_ended_at_work(self, pools: Pools, name: str, outcome: type[Exception]) -> None:
        """A write has an unknown outcome; a read has none, and may be repeated."""
        lane: Lane = getattr(pools, name)
        pid = await backend(lane)
        work = asyncio.create_task(lane.fetchval("select pg_sleep(15)"))
        await eventually(
            lambda: pools.control.fetchval("select state = 'active' from pg_stat_activity where pid = $1", pid)
        )
        await pools.control.fetchval("select pg_terminate_backend($1)", pid)
        with pytest.raises(outcome) as caught:
            await work
        assert caught.value.__cause__ is not None
        assert await works(lane)

    async def test_a_reset_link(self, proxy: Proxy, empty_database: str) -> None:
        """Unknown at once for what was under way, unavailable for what comes next, and well again afterwards."""
        async with opened(through(empty_database, proxy.port)) as pools:
            await pools.write.execute("create table t (x int)")
            work = asyncio.create_task(pools.write.execute("insert into t select 1 from pg_sleep(15)"))
            await eventually(lambda: pools.write.status()["checked_out"] == 1)
            proxy.set(Link.RESET)
            with pytest.raises(OutcomeUnknown):
                await work
            with pytest.raises(Unavailable):
                await pools.write.fetchval("select 1")
            proxy.set(Link.PASS)
            await eventually(partial(works, pools.write))

    async def test_a_black_hole_is_bounded_and_only_once_unknown(self, proxy: Proxy, empty_database: str) -> None:
        """The first statement waits for our clock; those behind it fail at the login, where nothing was sent."""
        async with opened(through(empty_database, proxy.port), quick(write_pool_min=2)) as pools:
            proxy.set(Link.STALL)
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown) as caught:
                await pools.write.fetchval("select 1")
            assert caught.value.reason == "timeout"
            # Not twice: asyncpg's release would wait for its cancel request for another command timeout.
            assert 1.5 <= time.monotonic() - began < 2.9
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await pools.write.fetchval("select 1")
                assert time.monotonic() - began < 3.0
            proxy.set(Link.PASS)
            await eventually(partial(works, pools.write))

    async def test_an_answer_that_is_lost(self, proxy: Proxy, empty_database: str) -> None:
        """The statement arrives and commits, its answer does not: exactly what `OutcomeUnknown` is for."""
        async with opened(through(empty_database, proxy.port), quick()) as pools:
            await pools.write.execute("create table t (x int)")
            await pools.write.execute("insert into t values (1)")
            proxy.set(Link.MUTE)
            with pytest.raises(OutcomeUnknown):
                await pools.write.execute("insert into t values (1)")
            proxy.set(Link.PASS)
            await eventually(partial(works, pools.write))
            assert await pools.write.fetchval("select count(*) from t") == 2

    async def test_a_server_that_restarts(self, server: OwnServer, caplog: pytest.LogCaptureFixture) -> None:
        """Every lane is well again on its own, soon after the server is, and the log is not flooded."""
        async with opened(server.dsn) as pools:
            with caplog.at_level(logging.INFO):
                server.now.stop()
                for lane in (pools.write, pools.read, pools.control):
                    for _ in range(100):
                        assert not await works(lane)
                server.start()
                ready = time.monotonic()
                for lane in (pools.write, pools.read, pools.control):
                    await eventually(partial(works, lane))
                assert time.monotonic() - ready < 5.0
            assert [record for record in caplog.records if record.name.startswith("asyncpg")] == []

    async def test_a_frozen_server(self, server: OwnServer) -> None:
        """No caller waits longer than its clocks allow, and nothing has to be restarted."""
        async with opened(server.dsn, quick()) as pools:
            with server.frozen():
                began = time.monotonic()
                lanes = [pools.write, pools.read, pools.control] * 4
                outcomes = await asyncio.gather(*(lane.fetchval("select 1") for lane in lanes), return_exceptions=True)
                assert all(isinstance(outcome, Unavailable | OutcomeUnknown) for outcome in outcomes)
                assert time.monotonic() - began < 5.0
            await eventually(partial(works, pools.write))

    async def test_attempts_to_connect_are_paced(self, proxy: Proxy, empty_database: str) -> None:
        """A storm of callers is not a storm of logins: most are answered without an attempt."""
        async with opened(through(empty_database, proxy.port)) as pools:
            proxy.set(Link.RESET)
            before = proxy.accepted
            began, hints = time.monotonic(), list[int | None]()
            while (passed := time.monotonic() - began) < 0.5 or len(hints) <= 50:
                with pytest.raises(Unavailable) as caught:
                    await pools.read.fetchval("select 1")
                hints.append(caught.value.retry_after_ms)
            assert proxy.accepted - before < 60 * passed
            assert all(hint is not None and 1 <= hint <= 1_000 for hint in hints)


class TestOtherNodes:
    """Several hosts, and a node that turns read-only."""

    async def test_a_host_that_swallows_everything_is_passed_by(self, proxy: Proxy, empty_database: str) -> None:
        """asyncpg would spend every attempt's time on it; the next attempt begins with the host behind it."""
        async with Proxy(address_of(empty_database)) as hole:
            hole.set(Link.STALL)
            first = f"127.0.0.1:{hole.port}"
            dsn = through(empty_database, proxy.port).replace("@", f"@{first},") + "&target_session_attrs=read-write"
            async with opened(dsn, quick(connect_timeout_seconds=0.3)) as pools:
                await eventually(partial(works, pools.write), within_seconds=20)
                assert hole.accepted >= 1

    async def test_a_node_that_became_read_only_is_left(self, pools: Pools, cluster: Cluster) -> None:
        """The write is not lost in words: it may be repeated, and a new connection finds a node that takes it."""
        await pools.write.execute("create table t (x int)")
        name = await pools.write.fetchval("select current_database()")
        await pools.control.execute(f"alter database {name} set default_transaction_read_only = on")
        async with opened(with_database(cluster.dsn, name)) as fresh:
            pid = await backend(fresh.write)
            admin = await asyncpg.connect(cluster.dsn)
            await admin.execute(f"alter database {name} reset default_transaction_read_only")
            await admin.close()
            with pytest.raises(Unavailable) as caught:
                await fresh.write.execute("insert into t values (1)")
            assert caught.value.reason == "read_only"
            assert await fresh.write.execute("insert into t values (1)") == "INSERT 0 1"
            assert await backend(fresh.write) != pid

    async def test_data_that_the_database_refuses(self, pools: Pools) -> None:
        """Refused in words, without a retry, and the connection is kept."""
        pid = await backend(pools.write)
        with pytest.raises(Refused) as caught:
            await pools.write.fetchval("select $1::text::int", "abc")
        assert (caught.value.code, caught.value.retryable, caught.value.reason) == (
            "bad_request",
            False,
            "data_exception",
        )
        assert await backend(pools.write) == pid
