"""One gateway serves a whole file: its auth file believes two issuers, each for a tenant of its name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest_asyncio

from tests.support.gateway import Gateway, in_process
from tests.support.http import Http
from tests.support.postgres import Cluster, temporary_database, temporary_folder
from tests.support.tokens import auth_file
from tests.support.waiting import WAIT_SECONDS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dsn(cluster: Cluster) -> AsyncIterator[str]:
    """Its database."""
    async with temporary_database(cluster) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(dsn: str) -> AsyncIterator[Gateway]:
    with temporary_folder() as folder:
        file = auth_file(folder, tenants=("acme", "beta"))
        async with in_process(dsn, auth_file=file, recheck_seconds=0.2) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(gateway: Gateway) -> AsyncIterator[Http]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS)) as session:
        yield Http(session, gateway)
