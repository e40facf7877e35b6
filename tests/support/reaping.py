"""What tests of the reaper say to the writer."""

from __future__ import annotations

from typing import Any

import asyncpg

from ledger.model import CancelRequest, Create, Report, fingerprint
from tests.support.node import TENANT

OVER = 181.0  # lease and grace


def report(task_id: str = "a", **members: Any) -> Report:
    return Report(tenant=TENANT, task_id=task_id, **members)


def cancel(task_id: str = "a") -> CancelRequest:
    return CancelRequest(tenant=TENANT, task_id=task_id, reason="enough")


def create(task_id: str = "a", **members: Any) -> Create:
    digest = fingerprint(task_id, sorted(members.items()))
    return Create(tenant=TENANT, task_id=task_id, idem=digest, digest=digest, **members)


# Leases


async def begin_many(connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
    """So many running tasks of which nothing was heard for years."""
    await connection.execute(
        "insert into ledger.task (key, tenant, task_id, created, status, seq, attempt, n, data_seq, result_seq,"
        " error_seq, beat_at, due_at)"
        " select left(encode(sha256(convert_to($1 || e'\\x1f' || name, 'utf8')), 'hex'), 32)::uuid, $1, name,"
        " true, 'running', 1, i % 3, 0, 0, 0, 0, '2000-01-01', '2000-01-01'"
        " from generate_series(1, $2::integer) i cross join lateral (select 'many-' || i as name) n",
        TENANT,
        count,
    )
