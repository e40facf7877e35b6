"""The bus of a node that is alone, or content to learn of the others by the re-read of watched tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.bus.port import BusState, OnGap, OnHint
from ledger.model import Key


class LocalBus:
    """There is nobody to tell."""

    remote = False
    wants_frames = False
    state = BusState(kind="local")

    async def start(self, on_hint: OnHint, on_gap: OnGap) -> None:
        """Nothing will ever come."""

    def announce(self, epoch: str, heads: Sequence[tuple[Key, int]], frames: Mapping[Key, Sequence[bytes]]) -> None:
        """Nobody hears it."""

    def interest(self, key: Key) -> None:
        """All that happens is told here anyway."""

    def no_interest(self, key: Key) -> None:
        """As before."""

    async def close(self) -> None:
        """Nothing to stop."""
