"""The state machine of a task as a table, and the words for how it stands.

Pure. What becomes of one request is `ledger.decide`'s to say.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class _Word(enum.StrEnum):
    """Words are looked up for every transition: by the hash of the text, not by a call of Python."""

    __hash__ = str.__hash__


class Status(_Word):
    """The state of a task. The last four are terminal: nothing follows them."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class Move(_Word):
    """What can be asked of a task."""

    WAIT = "wait"  # a worker says: still pending
    RUN = "run"  # … running, with or without progress
    COMPLETE = "complete"
    FAIL = "fail"
    STOP = "stop"  # … stopped before the end; honours a cancel request if there is one
    DELIVER = "deliver"  # … has heard of the cancel request
    REFUSE = "refuse"  # … will not stop
    CANCEL = "cancel"  # a client asks for the end
    LOSE = "lose"  # the ledger gives up on a silent worker
    EXPIRE = "expire"  # … on a task whose time is over
    FORCE = "force"  # … on the answer to a cancel request


_P, _R, _C = Status.PENDING, Status.RUNNING, Status.CANCELLING
_ENDS: Final = {
    Move.COMPLETE: Status.COMPLETED,
    Move.FAIL: Status.FAILED,
    Move.STOP: Status.CANCELLED,
    Move.EXPIRE: Status.FAILED,
}

NEXT: Final[Mapping[Status, Mapping[Move, Status]]] = {
    Status.PENDING: {Move.WAIT: _P, Move.RUN: _R, Move.CANCEL: _C, **_ENDS},
    Status.RUNNING: {Move.RUN: _R, Move.CANCEL: _C, Move.LOSE: Status.LOST, **_ENDS},
    # Progress that was on its way when the cancel came does not undo it: only REFUSE leads back to running.
    Status.CANCELLING: {
        Move.RUN: _C,
        Move.DELIVER: _C,
        Move.REFUSE: _R,
        Move.LOSE: Status.LOST,
        Move.FORCE: Status.CANCELLED,
        **_ENDS,
    },
    Status.COMPLETED: {},
    Status.FAILED: {},
    Status.CANCELLED: {},
    Status.LOST: {},
}
"""The whole state machine: `NEXT[status][move]` is the status after the move; a missing entry is an illegal move."""

LEASED: Final = frozenset(status for status, moves in NEXT.items() if Move.LOSE in moves)
"""The statuses in which somebody is at work, and is missed when nothing is heard."""

TERMINAL: Final = frozenset(status for status, moves in NEXT.items() if not moves)

REPORTED: Final[Mapping[Status, Move]] = {
    Status.PENDING: Move.WAIT,
    Status.RUNNING: Move.RUN,
    Status.COMPLETED: Move.COMPLETE,
    Status.FAILED: Move.FAIL,
    Status.CANCELLED: Move.STOP,
}
"""The move that a worker makes by reporting a status. `cancelling` and `lost` are not a worker's to report."""


class CancelStage(_Word):
    """How far a cancel request has come."""

    RECORDED = "recorded"
    DELIVERED = "delivered"
    HONOURED = "honoured"
    FORCED = "forced"  # nobody answered in time: the ledger ended the task
    REFUSED = "refused"
    TOO_LATE = "too_late"


class Liveness(_Word):
    """Whether the worker of a task was heard of: within its lease, later than that, or too late."""

    LIVE = "live"
    LATE = "late"
    LOST = "lost"


def liveness_of(status: Status, *, late: bool = False) -> Liveness | None:
    """What is to be said of the worker of a task; `late` when its lease has run out."""
    if status is Status.LOST:
        return Liveness.LOST
    if status not in LEASED:
        return None
    return Liveness.LATE if late else Liveness.LIVE
