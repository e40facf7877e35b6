"""What the hub knows of each watched task, and how it sees those who watch."""

from __future__ import annotations

from typing import Final, Protocol

from gateway.protocol.burst import Burst
from ledger.model import Head, Key

STOPPING: Final = "stopping"
"""A notice for whoever waits on this node, never sent to a client: the node goes."""
BEGUN_ANEW: Final = "begun_anew"
"""The same: the ledger's history is another one, and what was sent is no beginning of it."""


class Watcher(Protocol):
    """A connection, as the hub sees it. Must not wait or fail."""

    def deliver(self, burst: Burst) -> None:
        """Transitions of one watched task, in order."""

    def see(self, key: Key, head: Head) -> None:
        """The worker of a watched task is late, or no longer."""

    def notice(self, kind: str) -> None:
        """The ledger cannot be reached (`degraded`), can again (`restored`), has another history (`BEGUN_ANEW`), or the
        node goes (`STOPPING`).
        """

    def give_up(self) -> None:
        """It has failed all the same, at something that it was told: it must end, and the others go on."""


class Topic:
    """One watched task."""

    __slots__ = ("ended", "known", "late", "moved", "seq", "unsure", "watchers")

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self.seq: int | None = None
        """Forwarded up to here; None until somebody has read the task."""
        self.known = 0
        """The ledger has at least so much."""
        self.moved = False
        """Whether anything was forwarded since the last regular re-read."""
        self.ended = False
        self.late = False
        """Whether the worker was, when the ledger was looked at last."""
        self.unsure = False
        """Whether a hint may have been lost while nobody had read the task."""
