"""The bus of a node that is alone, or content to learn of the others by the re-read of watched tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.bus.port import Hint
from ledger.model import Key


class LocalBus:
    """There is nobody to tell."""

    async def start(self, on_hint: Callable[[Hint], None]) -> None:
        """Nothing will ever come."""

    def announce(self, heads: Sequence[tuple[Key, int]]) -> None:
        """Nobody hears it."""

    async def close(self) -> None:
        """Nothing to stop."""
