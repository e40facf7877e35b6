"""What is known of each name (an address, a principal, a tenant), in bounded memory. Pure.

A name that somebody holds is kept; there are as many as there are connections. Of the others those that were met last
are kept for a while, so that who closes and comes again finds the same bucket as before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

MOST_IDLE: Final = 20_000
"""Some megabytes of each table. Somebody with more addresses than that is not stopped by a limit on one."""
IDLE_SECONDS: Final = 60.0
"""Then every bucket is full again, and so no different from a new one."""


class Share:
    """What one name has taken."""

    __slots__ = ("holds", "met_at")

    def __init__(self) -> None:
        self.holds = 0
        """Connections."""
        self.met_at = float("-inf")


S = TypeVar("S", bound=Share)


class Table(Generic[S]):
    """One kind of names."""

    __slots__ = ("_held", "_idle", "_make", "_most_idle")

    def __init__(self, make: Callable[[], S], *, most_idle: int = MOST_IDLE) -> None:
        self._make = make
        self._most_idle = most_idle
        self._held: dict[str, S] = {}
        self._idle: OrderedDict[str, S] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held) + len(self._idle)

    def of(self, name: str, now: float) -> S:
        """What this name has; for one request."""
        share = self._held.get(name)
        if share is None:
            share = self._idle.get(name) or self._make()
            self._keep(name, share, now)
        return share

    def met(self, name: str) -> S | None:
        """What a name has that is known; nothing is kept."""
        return self._held.get(name) or self._idle.get(name)

    def hold(self, name: str) -> S:
        """The same, for a connection; `release` must follow."""
        share = self._held.get(name)
        if share is None:
            share = self._held[name] = self._idle.pop(name, None) or self._make()
        share.holds += 1
        return share

    def release(self, name: str, now: float) -> None:
        """A connection of this name has gone."""
        share = self._held[name]
        share.holds -= 1
        if not share.holds:
            del self._held[name]
            self._keep(name, share, now)

    def _keep(self, name: str, share: S, now: float) -> None:
        share.met_at = now
        self._idle[name] = share
        self._idle.move_to_end(name)
        oldest = next(iter(self._idle.values()))
        while len(self._idle) > self._most_idle or oldest.met_at < now - IDLE_SECONDS:
            self._idle.popitem(last=False)
            oldest = next(iter(self._idle.values()))
