"""How much of one peer is read: its requests and their answers are bounded, and others have their turn in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.sending import Sending

IN_FLIGHT: Final = 5_000
"""Requests of one connection that may wait for their commit; then it is not read from until some are answered."""
UNSENT: Final = 1_000
"""Frames that may wait to be sent before no more is read from the peer."""
FRAMES_PER_TURN: Final = 32
"""Of one peer that are taken before the others have their turn; a long frame counts for several."""
FRAME_BYTES: Final = 256
"""So long is a frame that counts for two."""


class Inflow:
    """One connection's."""

    __slots__ = ("_go_on", "_sending", "asking", "in_flight", "stopped")

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        self._go_on: Callable[[], None] | None = None
        self.asking = False
        """Whether it is being found out who the peer is; what it says meanwhile has to wait."""
        self.in_flight = 0
        """Requests that wait for their commit."""
        self.stopped = False
        """Whether nothing comes of what is read any more."""

    @property
    def has_room(self) -> bool:
        """Whether the next frame may be taken."""
        if self.stopped:
            return True
        return not self.asking and self.in_flight < IN_FLIGHT and len(self._sending) < UNSENT

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call this once, as soon as there is room. One at a time."""
        self._go_on = go_on
        self.note()

    @property
    def waits(self) -> bool:
        """Whether somebody waits for room, so that `note` has to be called."""
        return self._go_on is not None

    def note(self) -> None:
        """Something was answered or sent, or all is over."""
        if self._go_on is not None and self.has_room:
            asyncio.get_running_loop().call_soon(self._go_on)
            self._go_on = None
