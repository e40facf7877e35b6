"""Two gateways serve a whole file: `gateway` without authentication, `guarded` with a token file of two tenants.

Each test has task ids of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.gateway import Gateway, in_process
from tests.support.http import LISTED, TOKENS, Http
from tests.support.postgres import Cluster, temporary_database, temporary_folder
from tests.support.waiting import WAIT_SECONDS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cluster: Cluster) -> AsyncIterator[Gateway]:
    """Without authentication; its pings are frequent, so that a test can see one."""
    async with temporary_database(cluster) as dsn, in_process(dsn, ping_interval_seconds=1.0) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(cluster: Cluster) -> AsyncIterator[Gateway]:
    """With a token for a worker of each tenant, and one page that may connect."""
    with temporary_folder() as folder:
        tokens = folder / "tokens"
        tokens.write_text("".join(f"{tenant} worker {token}  # test\n" for tenant, token in TOKENS.items()))
        tokens.chmod(0o600)
        async with (
            temporary_database(cluster) as dsn,
            in_process(dsn, token_file=tokens, allowed_origins=(LISTED,)) as running,
        ):
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS)) as running:
        yield running


@pytest.fixture
def http(session: aiohttp.ClientSession, gateway: Gateway) -> Http:
    return Http(session, gateway)


@pytest.fixture
def door(session: aiohttp.ClientSession, guarded: Gateway) -> Http:
    return Http(session, guarded)


@pytest.fixture
def task_id() -> str:
    return f"task-{secrets.token_hex(6)}"
