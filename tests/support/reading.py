"""A reader and a writer of one ledger, without anything around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ledger.model import Create, Receipt, Report, Request, Task, Transition, fingerprint, task_key
from ledger.pool import Pools
from ledger.reader import Reader
from ledger.writer import Writer
from tests.support.limits import generous


class _Nobody:
    def watches(self, key: str) -> bool:
        return False

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[str, int]]) -> None:
        """Nobody listens here."""

    def reached(self, key: str, seq: int) -> None:
        """Nobody listens here."""


class Ledger:
    """One tenant's reader and writer."""

    def __init__(self, reader: Reader, writer: Writer, tenant: str) -> None:
        self.reader = reader
        self.writer = writer
        self.tenant = tenant

    def key(self, task_id: str) -> str:
        return task_key(self.tenant, task_id)

    async def write(self, *requests: Request) -> None:
        answers = await asyncio.gather(*(self.writer.submit(request) for request in requests))
        assert all(isinstance(answer, Receipt) for answer in answers), answers

    def report(self, task_id: str = "a", **members: Any) -> Report:
        return Report(tenant=self.tenant, task_id=task_id, **members)

    def create(self, task_id: str, **members: Any) -> Create:
        digest = fingerprint(task_id)
        return Create(tenant=self.tenant, task_id=task_id, idem=digest, digest=digest, **members)

    async def task(self, task_id: str = "a") -> Task:
        task = await self.reader.task(self.tenant, task_id)
        assert task is not None
        return task


@asynccontextmanager
async def ledger(dsn: str, tenant: str, **given: Any) -> AsyncIterator[Ledger]:
    settings = generous(**given)
    pools = await Pools.open(settings, dsn)
    writer = Writer(pools.write, _Nobody(), settings)
    writer.start()
    try:
        yield Ledger(Reader(pools.read, lease_ms=60_000), writer, tenant)
    finally:
        await writer.close(2.0)
        await pools.close()
