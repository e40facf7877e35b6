"""The joining of replay and live delivery for one subscription: every transition once, in order, without a hole.

Pure. The order of work is: the hub delivers already, then the ledger is read, then both are joined here. What comes
twice is dropped by its sequence; what is missing is read from the ledger, never skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar

BUFFERED_EVENTS: Final = 256
"""Live events kept while a read is under way; beyond it the read is done again instead."""


class Sequenced(Protocol):
    """Something with a place in its task."""

    @property
    def seq(self) -> int: ...


E = TypeVar("E", bound=Sequenced)


class Catchup(Generic[E]):
    """Where one subscription stands.

    `delivered` is the sequence up to which everything has been given out. While `due` is set, a read of the ledger is
    needed: whoever runs the subscription calls `begin_read`, reads after `delivered`, and brings what it found to
    `join`. Live events go through `offer` at any time, and `buffered_events` of them are kept during a read.
    """

    __slots__ = ("_buffer", "_buffered_events", "_floor", "_overflowed", "delivered", "due", "reading")

    def __init__(self, delivered: int = 0, *, buffered_events: int = BUFFERED_EVENTS) -> None:
        self._buffered_events = buffered_events
        self.delivered = delivered
        self._floor = delivered  # where this subscription began: nothing before it is ever given out
        self.due = True
        self.reading = False
        self._buffer: list[E] = []
        self._overflowed = False

    def begin_read(self) -> None:
        """From now on live events are kept: the read may or may not see what they tell."""
        self.due = False
        self.reading = True
        self._overflowed = False
        self._buffer.clear()

    def offer(self, event: E) -> Sequence[E]:
        """A live event; returns what is to be delivered now."""
        if event.seq <= self.delivered:
            return ()
        if self.due:
            return ()  # it was committed before the read that will come, so that read sees it
        if self.reading:
            if len(self._buffer) >= self._buffered_events:
                self._overflowed = True
                self._buffer.clear()
            if not self._overflowed:
                self._buffer.append(event)
            return ()
        if event.seq == self.delivered + 1:
            self.delivered = event.seq
            return (event,)
        self.due = True
        return ()

    def join(self, replayed: Sequence[E], head: int) -> Sequence[E]:
        """What a read found after `delivered`, and the sequence the ledger is known to have reached.

        Returns what is to be delivered now; `due` is set again when that does not reach the head or a live event.
        """
        out: list[E] = []
        for event in (*replayed, *self._buffer):
            if event.seq == self.delivered + 1:
                self.delivered = event.seq
                out.append(event)
            elif event.seq > self.delivered:
                head = max(head, event.seq)
                break
        self._end_read(head)
        return out

    def restart(self, seq: int) -> None:
        """The read gave a snapshot as of `seq`: go on from there, with `join((), seq)`."""
        self.delivered = self._floor = max(self.delivered, seq)

    def reset(self) -> None:
        """The place it began at is not in this history: begin before everything."""
        self.delivered = self._floor = 0

    def fail_read(self) -> None:
        """The read did not succeed; it is needed again."""
        self.reading = False
        self.due = True
        self._buffer.clear()

    def rewind(self, seq: int) -> None:
        """What was given out from `seq` on was dropped before it left: it has to be read again."""
        if seq <= self.delivered:
            self.delivered = max(seq - 1, self._floor)
            self.due = True
            self.reading = False
            self._buffer.clear()

    def _end_read(self, head: int) -> None:
        self.reading = False
        self.due = self._overflowed or self.delivered < head
        self._buffer.clear()
