"""How much of one peer is read: its requests and their answers are bounded, and others have their turn in between."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from gateway.limits.allowance import Allowance
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

    __slots__ = ("_allowance", "_room", "_sending", "_taken", "in_flight", "stopped", "waits")

    def __init__(self, sending: Sending, allowance: Allowance | None = None) -> None:
        self._allowance = allowance
        self._sending = sending
        self._room: asyncio.Future[None] | None = None  # while nothing is read
        self._taken = 0
        self.waits = False
        """Whether nothing is read until `note` finds that there is room."""
        self.in_flight = 0
        """Requests that wait for their commit."""
        self.stopped = False
        """Whether nothing comes of what is read any more."""

    async def took(self, size: int, frames: int = 1) -> None:
        """A message was taken, in so many frames; returns when the next one may come."""
        if self._allowance is not None and (wait := self._allowance.took(size, frames, time.monotonic())):
            await asyncio.sleep(wait)
        self._taken += 1 + size // FRAME_BYTES
        if self._taken >= FRAMES_PER_TURN:  # a peer whose frames are all here must not keep the others from their turn
            self._taken = 0
            await asyncio.sleep(0)
        while not self._has_room:
            self._room = asyncio.get_running_loop().create_future()
            self.waits = True
            await self._room

    def note(self) -> None:
        """Something was answered or sent, or all is over."""
        if self._room is not None and self._has_room:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None
            self.waits = False

    @property
    def _has_room(self) -> bool:
        if self.stopped:
            return True
        return self.in_flight < IN_FLIGHT and len(self._sending) < UNSENT
