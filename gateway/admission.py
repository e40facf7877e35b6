"""How many new WebSockets a process lets in: after a restart or an outage all clients want to come back at once.

A handshake, the token, the subscriptions and the first reads of a client cost as much as hundreds of frames. Let in all
together, they would keep the event loop from pings and commits for seconds, and all would time out and come again. So
there are two bounds, and beyond them a refusal that costs next to nothing and says when to come again:

    a rate        a token bucket that holds `BURST_SECONDS` of it: steady, whatever the machine
    an opening    so many may have been let in and not been welcomed yet: this one adapts, since a process that falls
                  behind is slow to welcome

The hints are spread over the time that it takes to let in all who were refused. Pure: no clock and no socket.
"""

from __future__ import annotations

import random
from typing import Final

from gateway.protocol.errors import ProtocolError

BURST_SECONDS: Final = 2.0
LEAST_SPREAD_SECONDS: Final = 2.0
MOST_SPREAD_SECONDS: Final = 30.0
"""A client that waits for longer than this thinks that the service is down."""
FIRST_HINT_SECONDS: Final = 0.5


class Admission:
    """The door of one process. `now` is always the same monotonic clock, in seconds."""

    def __init__(self, *, per_second: float, most_opening: int, dice: random.Random | None = None) -> None:
        """`per_second` 0: as many as come."""
        self._per_second = per_second
        self._most_opening = most_opening
        self._dice = dice or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._burst = max(1.0, per_second * BURST_SECONDS)
        self._tokens = self._burst
        self._filled_at = float("-inf")
        self._turned_away = 0  # since the bucket was full
        self._opening: set[object] = set()
        self._closed = False
        self.admitted = 0
        self.refused = 0

    @property
    def opening(self) -> int:
        """How many have been let in and not been welcomed yet."""
        return len(self._opening)

    def admit(self, now: float) -> None:
        """One more wants to come in. Raises `ProtocolError` with a time to come again."""
        if self._closed:
            raise ProtocolError(
                "unavailable", "This server is shutting down; connect again.", retry_after_ms=self._hint_ms()
            )
        if not self._has_room(now):
            self.refused += 1
            self._turned_away += 1
            raise ProtocolError(
                "busy", "Too many clients connect at this moment; try again.", retry_after_ms=self._hint_ms()
            )
        self.admitted += 1

    def would_admit(self, now: float) -> bool:
        """Whether `admit` would let one in. Counts nothing."""
        return not self._closed and len(self._opening) < self._most_opening and self._tokens_at(now) >= 1

    def enter(self, client: object) -> None:
        """One that was admitted begins to introduce itself."""
        self._opening.add(client)

    def leave(self, client: object) -> None:
        """It was welcomed, or has gone. Repeatable."""
        self._opening.discard(client)

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    def _has_room(self, now: float) -> bool:
        if len(self._opening) >= self._most_opening:
            return False
        if not self._per_second:
            return True
        self._tokens = self._tokens_at(now)
        self._filled_at = now
        if self._tokens == self._burst:
            self._turned_away = 0
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _tokens_at(self, now: float) -> float:
        if not self._per_second:
            return self._burst
        return min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)

    def _hint_ms(self) -> int:
        needed = self._turned_away / self._per_second if self._per_second else 0.0
        spread = min(max(needed, LEAST_SPREAD_SECONDS), MOST_SPREAD_SECONDS)
        return round(1000 * (FIRST_HINT_SECONDS + self._dice.uniform(0.0, spread)))
