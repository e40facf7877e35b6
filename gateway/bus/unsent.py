"""The hints that wait to be sent: one per task, bounded. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.bus.port import Hint
from ledger.model import Key

MAX_TASKS: Final = 10_000
"""About 200 bytes each. Of further tasks the other nodes learn by their re-read."""
MAX_FRAME_BYTES: Final = 1_048_576
"""Of frames that wait, in all: beyond it hints wait without them."""


class Unsent:
    """Newer hints of a task take the place of older ones, so a bus that stands still costs no more than its tasks."""

    def __init__(self, *, max_frame_bytes_each: int) -> None:
        """A hint carries frames only if all since the last one that was sent have at most so many bytes together."""
        self._max_frame_bytes_each = max_frame_bytes_each
        self._hints: dict[Key, Hint] = {}
        self._frame_bytes = 0
        self._epoch = ""
        self.dropped = 0
        """Hints for which there was no room."""

    def __len__(self) -> int:
        return len(self._hints)

    def add(self, epoch: str, heads: Sequence[tuple[Key, int]], frames: Mapping[Key, Sequence[bytes]]) -> None:
        """These tasks have come so far; `frames` as in `Bus.announce`."""
        if epoch != self._epoch:  # the others would make nothing of hints of a history that is over
            self._clear()
            self._epoch = epoch
        for key, seq in heads:
            before = self._hints.get(key)
            if before is None and len(self._hints) >= MAX_TASKS:
                self.dropped += 1
                continue
            if before is not None and before.seq >= seq:
                continue
            self._hints[key] = Hint(key, seq, epoch, self._joined(before, seq, frames.get(key, ())))

    def take(self, limit: int) -> list[Hint]:
        """So many hints at most, the oldest first, all of one epoch. They wait no longer."""
        if len(self._hints) <= limit:
            taken = list(self._hints.values())
            self._clear()
            return taken
        taken = [self._hints.pop(key) for key in list(self._hints)[:limit]]
        self._frame_bytes -= sum(len(frame) for hint in taken for frame in hint.frames)
        return taken

    def _clear(self) -> None:
        self._hints.clear()
        self._frame_bytes = 0

    def _joined(self, before: Hint | None, seq: int, frames: Sequence[bytes]) -> Sequence[bytes]:
        """The frames of the earlier hint and these, if they follow each other and there is room for them."""
        joined = list(frames)
        if before is not None:
            self._frame_bytes -= sum(map(len, before.frames))
            follows = bool(before.frames and frames) and before.seq + len(frames) == seq
            joined = [*before.frames, *frames] if follows else []
        size = sum(map(len, joined))
        if size > self._max_frame_bytes_each or self._frame_bytes + size > MAX_FRAME_BYTES:
            return []
        self._frame_bytes += size
        return joined
