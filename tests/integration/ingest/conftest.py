"""One gateway serves a whole file; tests that stop it, or stand between it and the database, have one of their own."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.gateway import Gateway, in_process
from tests.support.postgres import Cluster, temporary_database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cluster: Cluster) -> AsyncIterator[Gateway]:
    async with temporary_database(cluster) as dsn, in_process(dsn) as running:
        yield running


@pytest.fixture
def task_id() -> str:
    return f"task-{secrets.token_hex(6)}"
