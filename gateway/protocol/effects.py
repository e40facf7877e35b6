"""What a session wants done. Pure values; `gateway.connection` performs them in order."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from gateway.protocol.errors import Bye
from ledger.machine import CancelStage
from ledger.model import Head, Key, Request, Task, Transition

Slot = tuple[Key, bool]
"""One subscription of a session: the task's key, and whether it is a worker attending to cancels."""


class Send(Struct, frozen=True):
    """Send this frame. It is never dropped."""

    frame: bytes


class Deliver(Struct, frozen=True):
    """Send this frame of a subscription. It may be dropped and read again later (`Session.rewind`).

    With `replaces`, a frame of the same slot that is still unsent is replaced by it.
    """

    slot: Slot
    seq: int
    frame: bytes
    replaces: bool = False


class Authenticate(Struct, frozen=True):
    """Find out who this is, then call `Session.authenticated` or `Session.refused`. No further message before that.

    `refresh` is the id to answer to when it is not the first time.
    """

    token: str | None
    refresh: int | str | None = None


class Submit(Struct, frozen=True):
    """Give this request to the ledger, then call `Session.settled` with `id`."""

    id: int | str | None
    request: Request


class Watch(Struct, frozen=True):
    """Bring the live events of this task to `Session.deliver`."""

    key: Key


class Unwatch(Struct, frozen=True):
    """No longer."""

    key: Key


class Beats(Struct, frozen=True):
    """The workers of these tasks are there, each by its attempt where it has said so."""

    held: Sequence[tuple[Key, int | None, str | None]]
    """As `ledger.leases.Held`."""


class Close(Struct, frozen=True):
    """Send what is queued, then close with this code."""

    bye: Bye


Effect = Send | Deliver | Authenticate | Submit | Watch | Unwatch | Beats | Close


class Want(Struct, frozen=True):
    """A read that a subscription needs: the transitions after `after`, or a snapshot when it is None."""

    slot: Slot
    after: int | None


class Event(Struct, frozen=True):
    """A transition on its way to watchers, encoded once for all of them."""

    transition: Transition
    frame: bytes

    @property
    def seq(self) -> int:
        """The transition's sequence."""
        return self.transition.seq

    @property
    def shows_life(self) -> bool:
        """Whether it is a sign of the worker: everything but a client's request is."""
        return self.transition.cancel is not CancelStage.RECORDED


class Read(Struct, frozen=True, kw_only=True):
    """What a `Want` brought. `head` is None when nobody has heard of the task."""

    want: Want
    head: Head | None
    task: Task | None = None
    events: Sequence[Event] = ()
