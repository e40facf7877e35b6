"""One timer for all connections of a process: each is called at its time, to within a slot.

`Slots` decides and is pure; `Wheel` holds the one timer of the event loop. A timer of the loop for each connection
costs more memory than what it is for.
"""

from __future__ import annotations

import asyncio
import time
from heapq import heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger(__name__)

SLOT_SECONDS: Final = 1 / 32
"""So late may a call be; what is timed here is counted in tenths of seconds and more."""


class Timed(Protocol):
    """Who is to be called at a time."""

    due_slot: int | None
    """Of `Slots`: where it stands, if it does."""

    def tick(self) -> None:
        """It is time. Must not wait or fail."""


T = TypeVar("T", bound=Timed)


class Slots(Generic[T]):
    """Who is due when, in slots of time. Times are monotonic seconds."""

    def __init__(self, slot_seconds: float = SLOT_SECONDS) -> None:
        self._slot_seconds = slot_seconds
        self._slots: dict[int, set[T]] = {}
        self._order: list[int] = []  # of the slots, a heap

    def put(self, what: T, at: float) -> None:
        """It is due then, at the earliest; no longer when it was due before."""
        slot = -int(-at // self._slot_seconds)
        if what.due_slot == slot:
            return
        self.remove(what)
        what.due_slot = slot
        found = self._slots.get(slot)
        if found is None:
            found = self._slots[slot] = set()
            heappush(self._order, slot)
        found.add(what)

    def remove(self, what: T) -> None:
        """It is not due any more."""
        if what.due_slot is not None:
            found = self._slots.get(what.due_slot)
            if found is not None:
                found.discard(what)
            what.due_slot = None

    @property
    def next_at(self) -> float | None:
        """When somebody may be due next."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heappop(self._order)]
        return self._order[0] * self._slot_seconds if self._order else None

    def due(self, now: float) -> list[T]:
        """Who is due, and no longer from now on."""
        out: list[T] = []
        while self._order and self._order[0] * self._slot_seconds <= now:
            out += self._slots.pop(heappop(self._order))
        for what in out:
            what.due_slot = None
        return out


class Wheel:
    """Calls who is due."""

    def __init__(self) -> None:
        self._slots: Slots[Timed] = Slots()
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handle of a call that is due at once does not tell when

    def put(self, what: Timed, at: float) -> None:
        """Call its `tick` then, and not when it was due before."""
        self._slots.put(what, at)
        self._arm()

    def remove(self, what: Timed) -> None:
        """Do not call it."""
        self._slots.remove(what)

    def _arm(self) -> None:
        at = self._slots.next_at
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._turn)

    def _turn(self) -> None:
        self._timer = None
        for what in self._slots.due(time.monotonic()):
            try:
                what.tick()
            except Exception:
                log.exception("tick_fault")
        self._arm()
