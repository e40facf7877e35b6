"""What the ledger's tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.postgres import Cluster, create_database, drop_database


@pytest.fixture(scope="module")
def shared_database(cluster: Cluster) -> Iterator[str]:
    """One database for the tests of a module, of which each keeps to a tenant of its own."""
    dsn = asyncio.run(create_database(cluster))
    yield dsn
    asyncio.run(drop_database(cluster, dsn))
