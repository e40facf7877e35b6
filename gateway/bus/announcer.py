"""Announces commits on a bus, each in the epoch in which it was made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from gateway.bus.port import Bus
from ledger.epoch import History
from ledger.model import Key


class Announcer:
    """What a hub tells the other nodes."""

    def __init__(self, bus: Bus, history: History) -> None:
        self._bus = bus
        self._history = history
        self._turning = False
        history.listen(self._turn)

    def announce(self, heads: Sequence[tuple[Key, int]], frames: Mapping[Key, Sequence[bytes]]) -> None:
        """These tasks have come so far; `frames` as in `Bus.announce`."""
        if not self._turning:
            self._bus.announce(self._history.epoch, heads, frames)

    def _turn(self) -> None:
        # What was committed before and is told after this, in the next turn of the loop, is of the other history.
        self._turning = True
        asyncio.get_running_loop().call_soon(self._has_turned)

    def _has_turned(self) -> None:
        self._turning = False
