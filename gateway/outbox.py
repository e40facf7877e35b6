"""A session's unsent frames, bounded. Pure: knows nothing of sockets and never waits.

Two sorts of frames share one queue, in order: answers, which are never dropped (what asks for them is bounded
elsewhere), and frames of subscriptions, which the ledger has as well. When one of the latter does not fit any more, it
and all that follow are dropped until those that wait have left, and each subscription is to be read again from where it
was cut: a slow client costs reads, not memory. What waits is kept, so that every read brings the client forward.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from gateway.protocol.burst import Piece, bytes_of
from gateway.protocol.effects import Slot

FRAMES: Final = 256
"""Frames of subscriptions that may wait: more than a screen can use in the time it takes to send them. A burst counts
as one: all who wait for it share it."""
BYTES: Final = 256 * 1024
"""And their bytes. With what the transport has been given and the largest frame it stays below half a megabyte."""
ANSWERS: Final = 10_000
"""Answers that may wait; far more than a connection may have requests in flight."""


class OutboxFull(Exception):
    """Too many answers wait: the peer sends requests and takes nothing."""


class _Entry:
    __slots__ = ("piece", "size", "slot")

    def __init__(self, piece: Piece, slot: Slot | None) -> None:
        self.slot = slot
        self.fill(piece)

    def fill(self, piece: Piece) -> None:
        self.piece = piece
        self.size = bytes_of(piece)


class Outbox:
    """The queue between a session and its transport."""

    def __init__(self, *, max_frames: int = FRAMES, max_bytes: int = BYTES, max_answers: int = ANSWERS) -> None:
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._max_answers = max_answers
        self._queue: deque[_Entry] = deque()
        self._answers = 0
        self._frames = 0  # of subscriptions
        self._bytes = 0
        self._newest: dict[Slot, _Entry] = {}  # unsent frames that may be replaced
        """Of all frames that were taken."""
        self._full = False  # since a frame did not fit: a smaller one behind it must not overtake it

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        """Of the frames of subscriptions that wait."""
        return self._bytes

    def put(self, frame: bytes) -> None:
        """Queue an answer. Raises `OutboxFull`."""
        if self._answers >= self._max_answers:
            raise OutboxFull
        self._answers += 1
        self._queue.append(_Entry(frame, None))

    def offer(self, slot: Slot, seq: int, piece: Piece, *, replaces: bool = False) -> dict[Slot, int]:
        """Queue a frame of a subscription, or a whole burst; `seq` is the first.

        Returns what had to be dropped to keep the bounds: the subscription and the first sequence that it lost. Empty
        when there was room.
        """
        entry = _Entry(piece, slot)
        waiting = self._newest.get(slot) if replaces else None
        others, size = self._frames, self._bytes + entry.size
        if waiting is not None:
            others, size = others - 1, size - waiting.size
        if others and (others >= self._max_frames or size > self._max_bytes):  # one alone may have any size
            self._full = True
        if self._full:
            return {slot: seq}
        self._bytes = size
        if waiting is not None:
            waiting.fill(piece)
            return {}
        self._queue.append(entry)
        self._frames += 1
        if replaces:
            self._newest[slot] = entry
        return {}

    def take(self, max_bytes: int) -> list[Piece]:
        """The next to send: at least one when there is any, and about so many bytes at most."""
        out: list[Piece] = []
        size = 0
        while self._queue and (not out or size + self._queue[0].size <= max_bytes):
            entry = self._queue.popleft()
            size += entry.size
            out.append(entry.piece)
            if entry.slot is None:
                self._answers -= 1
            else:
                self._frames -= 1
                self._bytes -= entry.size
                if self._newest.get(entry.slot) is entry:
                    del self._newest[entry.slot]
        self._full = self._full and self._frames > 0
        return out
