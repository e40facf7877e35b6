"""What is on its way to one peer, in order, written as seldom as possible and never faster than the peer takes it.

What a turn of the event loop brings for a connection (answers, the bursts of a commit) is gathered and leaves as one
write at the end of that turn. Only when the system does not take all, what follows waits in an outbox, with its bounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from gateway.outbox import Outbox
from gateway.protocol.burst import BURST_BYTES, Piece, bytes_of
from gateway.protocol.effects import Slot
from gateway.protocol.errors import Bye

log = structlog.get_logger(__name__)

BYTES_PER_WRITE: Final = 32 * 1024
"""Of what waited, handed to the transport at once; a peer that takes none of it in the time to be dead is cut."""
PEERS_PER_TURN: Final = 500
"""Written to before others have their turn: some milliseconds."""
CLOSE_SECONDS: Final = 1.0
"""How long a peer may take to take the last frames."""
FAREWELL_SECONDS: Final = 3 * CLOSE_SECONDS
"""After goodbye: a peer that takes nothing for so long is cut, and so is one that has taken all and does not go."""


class Transport(Protocol):
    """Carries frames to one peer. Only `Sending` writes to it."""

    one_way: bool
    """Whether nothing can come back; then a frame that was taken is the sign of life."""

    def write(self, pieces: Sequence[Piece]) -> bool:
        """Write these at once. False when not all of it was taken: nothing more before `drained`."""

    async def drained(self) -> None:
        """Wait until all was taken. Raises ConnectionError."""

    def unsent(self) -> int:
        """Bytes that were not taken yet."""

    async def close(self, bye: Bye) -> None:
        """End the conversation; the frame that says why has been sent."""

    def abort(self) -> None:
        """Cut the line at once."""


class Flushed(Protocol):
    """Who has something to write at the end of the turn."""

    def flush(self) -> None:
        """Write it. Must not wait or fail."""

    def give_up(self) -> None:
        """It has failed all the same: it must end, and the others go on."""


class Turn:
    """Lets each connection write once, after all that a turn of the event loop has brought for it."""

    def __init__(self) -> None:
        self._waiting: list[Flushed] = []
        self._called = False

    def add(self, connection: Flushed) -> None:
        """Flush it at the end of this turn; once for each call."""
        self._waiting.append(connection)
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if len(waiting) > PEERS_PER_TURN:
            self._waiting = waiting[PEERS_PER_TURN:]
            del waiting[PEERS_PER_TURN:]
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._called = False
        for connection in waiting:
            try:
                connection.flush()
            except Exception:
                log.exception("flush_fault")
                connection.give_up()


class Sending:
    """One connection's frames; whoever adds some sees to it that `flush` is called at the end of the turn."""

    __slots__ = ("_outbox", "_progress", "_ready", "_ready_bytes", "_transport", "blocked", "flushing", "sent_bytes")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._ready: list[Piece] = []  # leaves with the next write
        self._ready_bytes = 0
        self._outbox: Outbox | None = None  # what did not fit there, or waits until the transport is drained
        self._progress = (0, 0.0)  # how much was unsent, since when
        self.sent_bytes = 0
        """Of all frames that went out, so far."""
        self.flushing = False
        """Whether somebody will call `flush`."""
        self.blocked = False
        """Whether the transport has not taken all; then somebody waits for it and calls `go_on`."""

    def __len__(self) -> int:
        return len(self._ready) + (0 if self._outbox is None else len(self._outbox))

    def put(self, frame: bytes) -> None:
        """An answer. Raises `OutboxFull`."""
        if self._outbox is None:
            if not self.blocked and self._ready_bytes < BURST_BYTES:
                self._ready.append(frame)
                self._ready_bytes += len(frame)
                return
            self._outbox = Outbox()
        self._outbox.put(frame)

    def offer(self, slot: Slot, seq: int, piece: Piece, *, replaces: bool = False) -> dict[Slot, int]:
        """A frame of a subscription; returns what was dropped, as `Outbox.offer`."""
        if self._outbox is None:
            if not self.blocked and self._ready_bytes < BURST_BYTES:
                self._ready.append(piece)
                self._ready_bytes += bytes_of(piece)
                return {}
            self._outbox = Outbox()
        return self._outbox.offer(slot, seq, piece, replaces=replaces)

    def flush(self) -> bool:
        """Write what there is as long as the transport takes it; whether all has left."""
        self.flushing = False
        if self.blocked:
            return False
        pieces = self._ready
        if pieces:
            self.sent_bytes += self._ready_bytes
            self._ready = []
            self._ready_bytes = 0
            if not self._transport.write(pieces):
                self._block()
                return False
        while self._outbox is not None:
            pieces = self._outbox.take(BYTES_PER_WRITE)
            self.sent_bytes += sum(map(bytes_of, pieces))
            if not len(self._outbox):
                self._outbox = None
            if pieces and not self._transport.write(pieces):
                self._block()
                return False
        return True

    def go_on(self) -> bool:
        """The transport has taken all: flush."""
        self.blocked = False
        return self.flush()

    @property
    def held_bytes(self) -> int:
        """Of frames that the system has not taken."""
        waiting = 0 if self._outbox is None else self._outbox.waiting_bytes
        return self._ready_bytes + waiting + self._transport.unsent()

    def stalled_since(self, now: float) -> float | None:
        """Since when the peer has taken nothing at all of what it was sent; None when nothing waits for it."""
        if not self.blocked:
            return None
        unsent = self._transport.unsent()
        if unsent < self._progress[0]:
            self._progress = (unsent, now)
        return self._progress[1]

    def _block(self) -> None:
        self.blocked = True
        self._progress = (self._transport.unsent(), time.monotonic())
