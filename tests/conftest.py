"""Fixtures for all tests: a real PostgreSQL, a fresh database per test, and the seed of the run."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from tests.support.postgres import Cluster, cluster_for_this_run, own_server, temporary_database

SEED = int(os.environ.get("LEDGERWIRE_TEST_SEED") or random.randrange(2**32))
os.environ["LEDGERWIRE_TEST_SEED"] = str(SEED)  # the processes among which the tests are shared out have the same

# structlog's own default draws each traceback with rich and all local variables: tenths of a second in which the event
# loop stands still, and the time-outs of a test run out.
plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All tests are shared out between two processes, file by file; the tests that somebody names run in this one.

    Each process has a PostgreSQL of its own, or databases of its own on that of DATABASE_URL. The tests wait more than
    they work, so that two need half the time of one on two cores.
    """
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    config.option.dist = "loadfile"
    return 2


def pytest_report_header() -> str:
    """Name the seed of the run."""
    return f"seed: LEDGERWIRE_TEST_SEED={SEED}"


@pytest.fixture
def seed() -> int:
    """The seed of the run; printed, so that a failing test shows how to repeat it."""
    print(f"LEDGERWIRE_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    return SEED


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One server for the run. Not to be stopped by a test."""
    with cluster_for_this_run() as running:
        yield running


@pytest.fixture(scope="session")
def durable_cluster() -> Iterator[Cluster]:
    """One server of our own with fsync on, for tests of what survives."""
    with own_server(durable=True) as server:
        yield Cluster(dsn=server.dsn, server=server.now)


@pytest.fixture
async def database(cluster: Cluster) -> AsyncIterator[str]:
    """The URL of a fresh database with the ledger's schema."""
    async with temporary_database(cluster) as dsn:
        yield dsn


@pytest.fixture
async def empty_database(cluster: Cluster) -> AsyncIterator[str]:
    """The URL of a fresh database with nothing in it."""
    async with temporary_database(cluster, migrated=False) as dsn:
        yield dsn
