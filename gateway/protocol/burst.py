"""Transitions of one task that are told of together, encoded once for all who watch. Pure.

Frames of a server are not masked (RFC 6455, 5.1), so the bytes that go to one WebSocket can go to all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct as Layout
from typing import Final

from gateway.protocol.effects import Event, Slot
from ledger.machine import TERMINAL
from ledger.model import Key

BURST_BYTES: Final = 64 * 1024
"""What one connection can be given at once; a larger burst is several."""

_TEXT: Final = 0x81  # the only fragment of a text message
_SHORT: Final = tuple(bytes((_TEXT, size)) for size in range(126))
_MEDIUM: Final = Layout("!BBH")
_LONG: Final = Layout("!BBQ")


class Burst:
    """Events of one task in order and without a hole."""

    __slots__ = ("_ready", "bytes", "events", "first", "last", "plain", "slot")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.slot: Slot = (events[0].transition.key, False)
        """The subscription that takes it as it is."""
        self.first = events[0].seq
        self.last = events[-1].seq
        plain, size = not self.ended, 0
        for event in events:  # a loop costs a third of two generators
            plain = plain and event.shows_life
            size += len(event.frame)
        self.plain = plain
        """Whether it says no more than that the task goes on: no end, no request of a client."""
        self.bytes = size
        """Of all frames."""
        self._ready: bytes | None = None

    @property
    def key(self) -> Key:
        """Its task."""
        return self.slot[0]

    @property
    def ended(self) -> bool:
        """Whether the task has ended with it."""
        return self.events[-1].transition.status in TERMINAL

    @property
    def ready(self) -> bytes:
        """Its frames as a WebSocket takes them, joined; made when the first connection asks for them."""
        made = self._ready
        if made is None:
            made = self._ready = ready([event.frame for event in self.events])
        return made

    @property
    def frames(self) -> Sequence[bytes]:
        """Its frames, one for each event."""
        return [event.frame for event in self.events]


Piece = bytes | Burst
"""What waits to be sent: one frame, or those of a burst."""


def bursts(events: Sequence[Event]) -> list[Burst]:
    """The events of a task as bursts that are not too large to be given to a connection at once."""
    if not events:
        return []
    whole = Burst(events)
    if whole.bytes <= BURST_BYTES or len(events) == 1:
        return [whole]
    out: list[Burst] = []
    some: list[Event] = []
    size = 0
    for event in events:
        if some and size + len(event.frame) > BURST_BYTES:
            out.append(Burst(some))
            some, size = [], 0
        some.append(event)
        size += len(event.frame)
    return [*out, Burst(some)]


def ready(frames: Sequence[bytes]) -> bytes:
    """Frames as a WebSocket takes them, joined: text messages of a server."""
    if len(frames) == 1:
        return _header(len(frames[0])) + frames[0]
    return b"".join([part for frame in frames for part in (_header(len(frame)), frame)])


def ready_pieces(pieces: Sequence[Piece]) -> bytes:
    """The same of pieces."""
    first = pieces[0]
    if len(pieces) == 1 and isinstance(first, Burst):
        return first.ready
    out: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, Burst):
            out.append(piece.ready)
        else:
            out += (_header(len(piece)), piece)
    return b"".join(out)


def bytes_of(piece: Piece) -> int:
    """Of all its frames."""
    return piece.bytes if isinstance(piece, Burst) else len(piece)


def frames_of(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """The frames of pieces, one by one."""
    for piece in pieces:
        if isinstance(piece, Burst):
            yield from piece.frames
        else:
            yield piece


def _header(size: int) -> bytes:
    if size < 126:
        return _SHORT[size]
    return _MEDIUM.pack(_TEXT, 126, size) if size < 65_536 else _LONG.pack(_TEXT, 127, size)
