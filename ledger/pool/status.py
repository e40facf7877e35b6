"""What a lane says of itself, for /health/db."""

from __future__ import annotations

from typing import Final, TypedDict

WAITERS_SHOWN: Final = 10


class Waiter(TypedDict):
    """Who waits for a connection, and since when."""

    label: str
    seconds: float


class Waiting(TypedDict):
    """How many wait; the longest wait in seconds; the first few, longest first."""

    count: int
    longest_seconds: float
    who: list[Waiter]


class LaneStatus(TypedDict):
    """The figures of one lane, or of all together. `overflow` is 0 by construction: a lane has a bound."""

    pool_size: int
    checked_in: int
    checked_out: int
    overflow: int
    max: int
    waiting: Waiting
