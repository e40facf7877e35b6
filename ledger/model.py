"""What a task is and what may become of it: the words of the ledger, and its state machine as a table.

Pure: no clock, no I/O, no database. What becomes of one request is `ledger.decide`'s to say.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

Key = str
"""A task's key: the 32 hex digits of a uuid. A str, because it is looked up several times for every report."""

Digest = str
"""16 bytes of a sha256, as 32 hex digits."""

TASK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
"""A task id that is safe in a URL, a log line and a bus subject (`*` and `>` would be wildcards there)."""


class Status(enum.StrEnum):
    """The state of a task. The last four are terminal: nothing follows them."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class Move(enum.StrEnum):
    """What can be asked of a task."""

    WAIT = "wait"  # a worker says: still pending
    RUN = "run"  # … running, with or without progress
    COMPLETE = "complete"
    FAIL = "fail"
    STOP = "stop"  # … stopped before the end; honours a cancel request if there is one
    DELIVER = "deliver"  # … has heard of the cancel request
    REFUSE = "refuse"  # … will not stop
    CANCEL = "cancel"  # a client asks for the end
    LOSE = "lose"  # the gateway gives up on a silent worker


_P, _R, _C = Status.PENDING, Status.RUNNING, Status.CANCELLING
_ENDS: Final = {
    Move.COMPLETE: Status.COMPLETED,
    Move.FAIL: Status.FAILED,
    Move.STOP: Status.CANCELLED,
    Move.LOSE: Status.LOST,
}

NEXT: Final[Mapping[Status, Mapping[Move, Status]]] = {
    Status.PENDING: {Move.WAIT: _P, Move.RUN: _R, Move.CANCEL: _C, **_ENDS},
    Status.RUNNING: {Move.RUN: _R, Move.CANCEL: _C, **_ENDS},
    # Progress that was on its way when the cancel came does not undo it: only REFUSE leads back to running.
    Status.CANCELLING: {Move.RUN: _C, Move.DELIVER: _C, Move.REFUSE: _R, **_ENDS},
    Status.COMPLETED: {},
    Status.FAILED: {},
    Status.CANCELLED: {},
    Status.LOST: {},
}
"""The whole state machine: `NEXT[status][move]` is the status after the move; a missing entry is an illegal move."""

TERMINAL: Final = frozenset(status for status, moves in NEXT.items() if not moves)

REPORTED: Final[Mapping[Status, Move]] = {
    Status.PENDING: Move.WAIT,
    Status.RUNNING: Move.RUN,
    Status.COMPLETED: Move.COMPLETE,
    Status.FAILED: Move.FAIL,
    Status.CANCELLED: Move.STOP,
}
"""The move that a worker makes by reporting a status. `cancelling` and `lost` are not a worker's to report."""


class CancelStage(enum.StrEnum):
    """How far a cancel request has come."""

    RECORDED = "recorded"
    DELIVERED = "delivered"
    HONOURED = "honoured"
    REFUSED = "refused"
    TOO_LATE = "too_late"


class Cancel(Struct, frozen=True, kw_only=True):
    """A cancel request: its stage, the sequence at which it was recorded, and the asker's reason."""

    stage: CancelStage
    seq: int
    reason: str | None


class State(Struct, frozen=True, kw_only=True):
    """A task's state without its payloads and times: all that `decide` needs.

    `created` is false while the task exists only by a report or a cancel. `data_seq`, `result_seq` and `error_seq`
    name the transition that holds the payload in force, 0 for none.
    """

    tenant: str
    task_id: str
    kind: str | None = None
    owner: str | None = None
    created: bool = False
    status: Status = Status.PENDING
    seq: int = 0
    attempt: int = 0
    n: int = 0
    progress: float | None = None
    stage: str | None = None
    message: str | None = None
    data_seq: int = 0
    result_seq: int = 0
    error_seq: int = 0
    cancel: Cancel | None = None


class Step(Struct, frozen=True, kw_only=True):
    """One transition to be appended, before it has a time. Payloads are JSON text; None means unchanged."""

    seq: int
    status: Status
    attempt: int
    n: int | None
    progress: float | None
    stage: str | None
    message: str | None
    data: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    cancel: CancelStage | None = None
    reason: str | None = None


class Transition(Struct, frozen=True, kw_only=True):
    """One committed change of a task. Small members hold the state after it; payloads are None when unchanged."""

    key: Key
    task_id: str
    seq: int
    status: Status
    attempt: int
    progress: float | None
    stage: str | None
    message: str | None
    data: bytes | None
    result: bytes | None
    error: bytes | None
    cancel: CancelStage | None
    reason: str | None
    at: datetime


class Task(Struct, frozen=True, kw_only=True):
    """A snapshot: a task as of sequence `seq`. Payloads are JSON text or None."""

    key: Key
    tenant: str
    task_id: str
    kind: str | None
    owner: str | None
    status: Status
    seq: int
    attempt: int
    progress: float | None
    stage: str | None
    message: str | None
    data: bytes | None
    result: bytes | None
    error: bytes | None
    cancel: Cancel | None
    created_at: datetime
    updated_at: datetime
    beat_at: datetime | None


class Report(Struct, frozen=True, kw_only=True):
    """What a worker says of a task. UNSET members keep their value, None clears; payloads are JSON text.

    `idem` is the digest of the caller's key. `digest` is that of the content, where there is an `n` or a key; without
    either a repeat cannot be told, and both are None.
    """

    tenant: str
    task_id: str
    attempt: int | Literal["new"] | None = None
    n: int | None = None
    idem: Digest | None = None
    digest: Digest | None = None
    status: Status | None = None
    progress: float | UnsetType | None = UNSET
    stage: str | UnsetType | None = UNSET
    message: str | UnsetType | None = UNSET
    data: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    kind: str | None = None
    owner: str | None = None
    cancel: Literal["delivered", "refused"] | None = None


class Create(Struct, frozen=True, kw_only=True):
    """A task is announced. `idem` is never None: without a caller's key it is made of the content."""

    tenant: str
    task_id: str
    idem: Digest
    digest: Digest
    kind: str | None = None
    owner: str | None = None
    data: bytes | None = None


class CancelRequest(Struct, frozen=True, kw_only=True):
    """A client asks for the end of a task, which need not exist yet."""

    tenant: str
    task_id: str
    idem: Digest | None = None
    digest: Digest | None = None
    reason: str | None = None


Request = Report | Create | CancelRequest


class Prior(Struct, frozen=True, kw_only=True):
    """The transition that already carries a request's (attempt, n) or key."""

    seq: int
    status: Status
    attempt: int
    digest: Digest


class Change(Struct, frozen=True, kw_only=True):
    """The request is to be appended: the state after it, and the step."""

    state: State
    step: Step


class Receipt(Struct, frozen=True, kw_only=True):
    """The request is in the ledger: where, and the status there. `repeat` when it was there before.

    `cancel` is the task's cancel request while one is open, and always for an answer to a cancel.
    """

    task_id: str
    seq: int
    status: Status
    attempt: int
    repeat: bool
    cancel: Cancel | None = None


class Rejection(Struct, frozen=True, kw_only=True):
    """The request has no effect and never will: a code of docs/protocol.md and a sentence."""

    code: str
    message: str


def task_key(tenant: str, task_id: str) -> Key:
    """The key of a task: the first half of sha256(tenant ‖ 0x1f ‖ task_id). SQL computes it alike."""
    return hashlib.sha256(f"{tenant}\x1f{task_id}".encode()).hexdigest()[:32]


def fingerprint(*parts: object) -> Digest:
    """A 16-byte digest of any JSON-like parts, to tell whether a repeated key carries the same content."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def advance(task: Task, transition: Transition) -> Task:
    """The snapshot after one more transition. `kind`, `owner` and `beat_at` stay: a transition does not tell them."""
    cancel = task.cancel
    if transition.cancel is CancelStage.RECORDED:
        cancel = Cancel(stage=transition.cancel, seq=transition.seq, reason=transition.reason)
    elif transition.cancel is not None and cancel is not None:
        cancel = replace(cancel, stage=transition.cancel)
    return replace(
        task,
        status=transition.status,
        seq=transition.seq,
        attempt=transition.attempt,
        progress=transition.progress,
        stage=transition.stage,
        message=transition.message,
        data=task.data if transition.data is None else transition.data,
        result=task.result if transition.result is None else transition.result,
        error=task.error if transition.error is None else transition.error,
        cancel=cancel,
        updated_at=transition.at,
    )
