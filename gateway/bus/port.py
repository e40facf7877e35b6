"""What a bus is to the gateway. Every adapter passes `tests/contract/test_bus.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ledger.model import Key


class Hint(NamedTuple):
    """A task has come at least so far. Never trusted: a reason to read the ledger, no more."""

    key: Key
    seq: int


class Bus(Protocol):
    """Carries hints to the other nodes. May lose, repeat and reorder them; must not block or fail its caller."""

    async def start(self, on_hint: Callable[[Hint], None]) -> None:
        """Begin to bring the other nodes' hints."""

    def announce(self, heads: Sequence[tuple[Key, int]]) -> None:
        """Tell the other nodes what was committed here; returns at once."""

    async def close(self) -> None:
        """Stop; hints not yet sent are lost."""
