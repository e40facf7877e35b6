"""Fixtures of the client's tests: real gateways on a real PostgreSQL, and the ledger seen without this client."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from tests.conftest import cluster, database, seed
from tests.support.gateway import Gateway, GatewayProcess, in_process
from tests.support.proxy import Proxy

__all__ = ["cluster", "database", "dice", "gateway", "history", "process", "proxy", "seed"]

History: TypeAlias = Callable[[Gateway, str], Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def dice(seed: int) -> random.Random:
    """Chance that can be repeated."""
    return random.Random(seed)


@pytest.fixture
async def gateway(database: str) -> AsyncIterator[Gateway]:
    """A gateway on this event loop."""
    async with in_process(database) as running:
        yield running


@pytest.fixture
async def process(database: str) -> AsyncIterator[GatewayProcess]:
    """A gateway to be killed."""
    async with GatewayProcess(database, environment={"LEDGERWIRE_DRAIN_SECONDS": "1"}) as running:
        yield running


@pytest.fixture
async def proxy(gateway: Gateway) -> AsyncIterator[Proxy]:
    """A link to the gateway that can be made to fail."""
    async with Proxy(("127.0.0.1", gateway.port)) as link:
        yield link


@pytest.fixture
def history() -> History:
    """All transitions of a task as the ledger has them, read by raw frames."""

    async def read(gateway: Gateway, task_id: str) -> list[dict[str, Any]]:
        async with gateway.client() as peer:
            after = {"epoch": peer.epoch, "seq": 0}
            await peer.ask(type="subscribe", tasks=[{"task_id": task_id, "after": after}])
            head = await peer.expect("subscribed", task_id=task_id, recovered=True)
            return [await peer.expect("transition", seq=seq) for seq in range(1, head["seq"] + 1)]

    return read
