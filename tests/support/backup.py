"""A backup of a database on the test's server, and its restore under whoever is using the database."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from tests.support.postgres import Cluster, with_database


async def back_up(cluster: Cluster, dsn: str) -> str:
    """A copy of the database as it is now; its URL. Whoever was connected is cut off, and may come back at once."""
    name, copy = _name(dsn), f"{_name(dsn)}_{secrets.token_hex(3)}"
    async with _nobody_in(cluster, name) as admin:
        await admin.execute(f"create database {copy} template {name} strategy wal_log")
    return with_database(dsn, copy)


async def restore(cluster: Cluster, dsn: str, backup: str) -> str:
    """Put the backup in the place of the database; the URL of what was there."""
    name, lost = _name(dsn), f"{_name(dsn)}_{secrets.token_hex(3)}"
    async with _nobody_in(cluster, name) as admin:
        await admin.execute(f"alter database {name} rename to {lost}")
        await admin.execute(f"alter database {lost} allow_connections true")
        await admin.execute(f"alter database {_name(backup)} rename to {name}")
    return with_database(dsn, lost)


@asynccontextmanager
async def _nobody_in(cluster: Cluster, name: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    admin = await asyncpg.connect(cluster.dsn, timeout=30, command_timeout=60)
    try:
        await admin.execute(f"alter database {name} allow_connections false")
        await admin.execute("select pg_terminate_backend(pid, 30000) from pg_stat_activity where datname = $1", name)
        yield admin
        await admin.execute(f"alter database {name} allow_connections true")
    finally:
        await admin.close()


def _name(dsn: str) -> str:
    return urlsplit(dsn).path[1:]
