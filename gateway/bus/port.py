"""What a bus is to the gateway. Every adapter passes `tests/contract/test_bus.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from ledger.model import Key


class Hint(NamedTuple):
    """A task has come at least so far, in this epoch. Never trusted: a reason to read the ledger, no more.

    `frames` may hold the `transition` frames that lead up to `seq`, in order: who stands before them need not read.
    """

    key: Key
    seq: int
    epoch: str
    frames: Sequence[bytes] = ()


class BusState(Struct, frozen=True, kw_only=True):
    """How a bus is. Counts are of hints, since the start."""

    kind: str
    healthy: bool = True
    reason: str = ""
    """Why it is not healthy, as a stable word."""
    sent: int = 0
    heard: int = 0
    dropped: int = 0
    """Not sent, because too many waited."""
    garbled: int = 0
    """Messages that could not be read, and were ignored."""
    connects: int = 0
    """How often it was connected; each time but the first it was away before."""


OnHint = Callable[[Hint], None]
OnGap = Callable[[Sequence[Key] | None], None]


class Bus(Protocol):
    """Carries hints to the other nodes. May lose, repeat and reorder them; must not block or fail its caller."""

    @property
    def remote(self) -> bool:
        """Whether there is anybody to tell; else `announce` need not be called."""

    @property
    def wants_frames(self) -> bool:
        """Whether the frames of tasks that nobody watches here are worth their making."""

    @property
    def state(self) -> BusState:
        """How it is now. Asks nobody."""

    async def start(self, on_hint: OnHint, on_gap: OnGap) -> None:
        """Begin to bring the other nodes' hints; returns at once, also when they cannot be reached.

        `on_gap` says that hints of these tasks (None: of all) may have been lost until now, and from now on come.
        """

    def announce(self, epoch: str, heads: Sequence[tuple[Key, int]], frames: Mapping[Key, Sequence[bytes]]) -> None:
        """Tell the other nodes how far these tasks have come; returns at once.

        `frames` are the frames of those transitions that lead up to the head, for the tasks where they are at hand.
        """

    def interest(self, key: Key) -> None:
        """Somebody here watches this task now; returns at once."""

    def no_interest(self, key: Key) -> None:
        """Nobody here watches it any more; returns at once."""

    async def close(self) -> None:
        """Stop, and send what waits before if that is a matter of a moment. Repeatable."""
