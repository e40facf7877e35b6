"""What several files of these tests are given."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.node import Node, node


@pytest.fixture
async def it(database: str) -> AsyncIterator[Node]:
    """A node on a fresh database, whose reaper looks when it is told to."""
    async with node(database) as it:
        yield it
