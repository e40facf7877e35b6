"""The reaper when something is away: the ledger, the link, or the node that holds the lock. Nobody is lost for that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from ledger.errors import LedgerError
from ledger.machine import Status
from ledger.migrate import migrate
from ledger.model import Report
from ledger.reaper import GAP_SECONDS
from tests.support.limits import PRODUCTION
from tests.support.node import TENANT, Node, connected, node
from tests.support.postgres import OwnServer, address_of, own_server, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import eventually, pace

SHORT: dict[str, Any] = {"lease_seconds": 1.0, "lease_grace_seconds": 1.0}
AWAY_SECONDS = 2.5  # longer than lease and grace


@pytest.fixture
async def own() -> AsyncIterator[OwnServer]:
    """A server of the test's own, with the ledger's schema, whose commits wait for a replica where one is named."""
    with own_server() as server:
        await migrate(server.dsn)
        async with connected(server.dsn) as connection:
            await connection.execute("alter database ledgerwire set synchronous_commit = on")
        yield server


async def keep_reporting(it: Node, task_id: str, stop: asyncio.Event) -> int:
    """A worker that says every 0.2 s how far it is, whatever the answer is; how often it was heard."""
    heard = 0
    while not stop.is_set():
        try:
            await it.receipt(Report(tenant=TENANT, task_id=task_id, progress=heard % 100))
            heard += 1
        except LedgerError:
            pass
        await pace(stop, 0.2)  # its rhythm, well within the lease
    return heard


async def test_nobody_is_lost_because_the_ledger_was_away(own: OwnServer) -> None:
    """PostgreSQL is stopped for longer than lease and grace: who reports then goes on, and who does not is lost later.

    The silent ones have their whole lease and grace from the moment on at which they could be heard again.
    """
    alive, silent = [f"alive-{number}" for number in range(20)], [f"silent-{number}" for number in range(5)]
    async with node(own.dsn, **SHORT) as it:
        it.reaper.start()
        await eventually(lambda: it.reaper.holds)
        stop = asyncio.Event()
        for task_id in silent:
            await it.receipt(Report(tenant=TENANT, task_id=task_id))
        workers = [asyncio.create_task(keep_reporting(it, task_id, stop)) for task_id in alive]
        own.now.stop()
        await eventually(lambda: it.reaper.since is None)
        await asyncio.sleep(AWAY_SECONDS)  # it is the outage that is so long
        own.start()
        await eventually(lambda: it.reaper.holds)
        since = it.reaper.since
        assert since is not None

        def lost() -> set[str]:
            return {step.task_id for step in it.heard.transitions if step.status is Status.LOST}

        await eventually(lambda: lost() >= set(silent))
        stop.set()
        reports = await asyncio.gather(*workers)
        assert lost() == set(silent)
        earliest = min(step.at for step in it.heard.transitions if step.status is Status.LOST)
        print(f"reports={sum(reports)} lost {earliest - since} after the return")  # noqa: T201 - shown on failure
        assert earliest - since >= timedelta(seconds=2)
        assert min(reports) >= 2
        assert [(await it.task(task_id)).status for task_id in alive] == [Status.RUNNING] * len(alive)


async def test_a_ledger_that_cannot_commit_counts_as_away(own: OwnServer) -> None:
    """Reads still work while commits wait for a replica that is gone: that time is no silence of the workers."""
    async with node(own.dsn, **PRODUCTION, **SHORT) as it, connected(own.dsn) as connection:
        await it.receipt(Report(tenant=TENANT, task_id="a"))
        it.reaper.start()
        await eventually(lambda: it.reaper.holds)
        began = it.reaper.since
        assert began is not None
        await connection.execute("alter system set synchronous_standby_names = 'nobody'")
        await connection.execute("select pg_reload_conf()")
        await eventually(lambda: it.reaper.since is None)
        await asyncio.sleep(AWAY_SECONDS)  # as above
        assert (await it.task()).status is Status.RUNNING
        await connection.execute("alter system reset synchronous_standby_names")
        await connection.execute("select pg_reload_conf()")
        await eventually(lambda: it.reaper.holds)
        assert it.reaper.since is not None
        assert it.reaper.since - began > timedelta(seconds=AWAY_SECONDS)
        await eventually(lambda: [step.status for step in it.heard.of("a")] == ["running", "lost"])


async def test_a_node_behind_a_dead_link_loses_the_lock_to_another(database: str) -> None:
    """Nothing comes through and nothing is closed: the server ends the session, and the other node goes on."""
    async with Proxy(address_of(database)) as proxy:
        behind = through(database, proxy.port)
        async with node(database, direct_database_url=behind, **PRODUCTION) as one, node(database) as two:
            one.reaper.start()
            await eventually(lambda: one.reaper.holds)
            two.reaper.start()
            await eventually(lambda: two.reaper.since is not None)
            proxy.set(Link.STALL)
            began = time.monotonic()
            await eventually(lambda: not one.reaper.holds and one.reaper.since is None)
            await eventually(lambda: two.reaper.holds, within_seconds=3 * GAP_SECONDS)
            print(f"taken over after {time.monotonic() - began:.1f} s")  # noqa: T201 - shown with -s and on failure
            proxy.set(Link.PASS)
            await eventually(lambda: one.reaper.since is not None)
            assert (one.reaper.holds, two.reaper.holds) == (False, True)


async def test_a_broken_connection_hands_the_lock_over(database: str) -> None:
    """A reset frees the lock at once; whoever looks first has it then, and one has it."""
    async with Proxy(address_of(database)) as proxy:
        behind = through(database, proxy.port)
        async with node(database, direct_database_url=behind, **PRODUCTION) as one, node(database) as two:
            one.reaper.start()
            await eventually(lambda: one.reaper.holds)
            two.reaper.start()
            proxy.set(Link.RESET)
            began = time.monotonic()
            await eventually(lambda: two.reaper.holds)
            print(f"taken over after {time.monotonic() - began:.1f} s")  # noqa: T201 - shown with -s and on failure
            await eventually(lambda: not one.reaper.holds)


async def test_a_node_that_cannot_write_leaves_it_to_another(database: str) -> None:
    """Its reaper reaches the database and its writer does not: it lets go, and the other node ends the task."""
    async with Proxy(address_of(database)) as proxy:
        behind = through(database, proxy.port)
        async with (
            node(behind, direct_database_url=database, **PRODUCTION, **SHORT) as one,
            node(database, **SHORT) as two,
        ):
            one.reaper.start()
            await eventually(lambda: one.reaper.holds)
            two.reaper.start()
            await eventually(lambda: two.reaper.since is not None)
            await two.receipt(Report(tenant=TENANT, task_id="a"))
            proxy.set(Link.RESET)
            await eventually(lambda: two.reaper.holds)
            await eventually(lambda: [step.status for step in two.heard.of("a")] == ["running", "lost"])
