"""A token bucket, kept as the moment at which all that was taken is paid for. Pure: `now` is any monotonic clock."""

from __future__ import annotations

from typing import Final

INSTANT_SECONDS: Final = 1e-9
"""Sums of times are no more exact than this."""
BURST_SECONDS: Final = 2.0
"""Of a rate may be taken at once: who was quiet has that much."""
LEAST_HINT_SECONDS: Final = 0.1
MOST_HINT_SECONDS: Final = 30.0
"""A client that waits for longer than this thinks that the service is down."""


class Bucket:
    """So much a second, and `burst` at once (by default what comes in `BURST_SECONDS`); 0 a second: no bound."""

    __slots__ = ("_burst_seconds", "_hinted_until", "_paid_at", "_per_second")

    def __init__(self, per_second: float, *, burst: float | None = None) -> None:
        self._per_second = per_second
        self._burst_seconds = burst / per_second if burst is not None and per_second else BURST_SECONDS
        self._paid_at = self._hinted_until = float("-inf")

    def has(self, amount: float, now: float) -> bool:
        """Whether `take` would take so much."""
        if not self._per_second or self._paid_at <= now:
            return True
        return self._paid_at + amount / self._per_second - now - self._burst_seconds <= INSTANT_SECONDS

    def take(self, amount: float, now: float) -> float:
        """0.0: taken. Else nothing was taken, and it makes sense to come again after so many seconds.

        More than a burst can be taken when nothing else was. Those who are refused are given different times, as far
        apart as what they want takes to come: then most of them find it.
        """
        if not self._per_second:
            return 0.0
        cost = amount / self._per_second
        # No calls of `max`: this is on the way of each report.
        paid_at = (self._paid_at if self._paid_at > now else now) + cost
        wait = paid_at - now - self._burst_seconds
        if wait <= INSTANT_SECONDS or self._paid_at <= now:
            self._paid_at = paid_at
            return 0.0
        self._hinted_until = max(self._hinted_until, now) + cost
        hint = max(wait, self._hinted_until - now, LEAST_HINT_SECONDS)
        return min(hint, MOST_HINT_SECONDS)

    def draw(self, amount: float, now: float) -> float:
        """Take it in any case; after so many seconds the next may be taken."""
        if not self._per_second:
            return 0.0
        self._paid_at = max(self._paid_at, now) + amount / self._per_second
        return max(0.0, self._paid_at - now - self._burst_seconds)
