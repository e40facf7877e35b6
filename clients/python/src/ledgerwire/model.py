"""The values a caller sees: receipts, cursors, changes. Frozen and pure; made from messages by `wire`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

Json: TypeAlias = Any
"""Anything JSON can say: None, bool, int, float, str, and lists and str-keyed dicts of these."""


class Status(enum.StrEnum):
    """`pending → running → completed | failed | cancelled | lost`; `cancelling` after a cancel request."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def terminal(self) -> bool:
        """True for the four that never change."""
        return self in TERMINAL


class Liveness(enum.StrEnum):
    """Whether a worker was heard of within its lease (live), later than that (late), or too late (lost)."""

    LIVE = "live"
    LATE = "late"
    LOST = "lost"


TERMINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.LOST})


class Keep(enum.Enum):
    """`KEEP` as an argument leaves the value of the task as it is; `None` would clear it."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


@dataclass(frozen=True, slots=True)
class Cursor:
    """All transitions of a task up to `seq`, in the history `epoch`, have been seen. Keep it to resume."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The inverse of `str(cursor)`. Raises ValueError for anything else."""
        epoch, colon, seq = text.rpartition(":")
        if not (epoch and colon and seq.isascii() and seq.isdecimal()):
            message = f"not a cursor: {text!r}"
            raise ValueError(message)
        return cls(epoch, int(seq))


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelState:
    """How far a cancel request has come: `stage` is recorded, delivered, honoured, forced, refused or too_late.

    `seq` is the sequence at which the request was recorded, None where the gateway does not repeat it.
    """

    stage: str
    reason: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Somebody wants this task to stop. `seq` is the sequence at which the request was recorded."""

    seq: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The durable acknowledgement of a report, create or cancel: it is committed as `seq` of its task.

    `repeat` is True when the gateway had committed it before and this was a harmless repetition. `cancel` is
    there while a cancel request is open.
    """

    task_id: str
    seq: int
    status: Status
    attempt: int
    repeat: bool
    cancel: CancelState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLiveness:
    """The worker of a watched task has fallen silent (late), is heard of again (live), or was given up (lost).

    `beat_age_ms` is how old its last sign of life is, None where that is not known.
    """

    task_id: str
    liveness: Liveness
    beat_age_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A whole task as of `seq`.

    `liveness` and `beat_age_ms` (since the worker's last sign of life `beat_at`) are as of when it was read, and None
    while nobody is at work. `forced`: cancelled because nobody answered; the worker may be at work still.
    """

    task_id: str
    cursor: Cursor
    status: Status
    attempt: int
    progress: float | None
    stage: str | None
    message: str | None
    kind: str | None
    owner: str | None
    data: Json
    result: Json
    error: Json
    cancel: CancelState | None
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime | None
    beat_at: datetime | None
    beat_age_ms: int | None
    liveness: Liveness | None
    forced: bool = False

    @property
    def seq(self) -> int:
        """The sequence of the newest transition in it."""
        return self.cursor.seq


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One committed change, with the whole small state after it.

    `data`, `result` and `error` are None unless this change set them; `sets` names those that it did set
    (perhaps to null). `forced` is as in `Snapshot`.
    """

    task_id: str
    cursor: Cursor
    status: Status
    attempt: int
    progress: float | None
    stage: str | None
    message: str | None
    at: datetime
    sets: frozenset[str] = frozenset()
    data: Json = None
    result: Json = None
    error: Json = None
    cancel: CancelState | None = None
    forced: bool = False

    @property
    def seq(self) -> int:
        """Its place in the task."""
        return self.cursor.seq


@dataclass(frozen=True, slots=True, kw_only=True)
class Jumped:
    """The stream could not go on from `origin` and continues from `snapshot` instead.

    `reason` is the gateway's word for it (`other_epoch`, …), or `unannounced` when it gave none. The members
    of a snapshot can be read here directly, so that a consumer which does not care need not look inside.
    """

    origin: Cursor | None
    reason: str
    snapshot: Snapshot

    @property
    def task_id(self) -> str:
        """The task."""
        return self.snapshot.task_id

    @property
    def cursor(self) -> Cursor:
        """Where the stream goes on."""
        return self.snapshot.cursor

    @property
    def seq(self) -> int:
        """The sequence of the snapshot."""
        return self.snapshot.seq

    @property
    def status(self) -> Status:
        """The status in the snapshot."""
        return self.snapshot.status

    @property
    def attempt(self) -> int:
        """The attempt in the snapshot."""
        return self.snapshot.attempt

    @property
    def progress(self) -> float | None:
        """The progress in the snapshot."""
        return self.snapshot.progress

    @property
    def stage(self) -> str | None:
        """The stage in the snapshot."""
        return self.snapshot.stage

    @property
    def message(self) -> str | None:
        """The message in the snapshot."""
        return self.snapshot.message

    @property
    def data(self) -> Json:
        """The data in the snapshot."""
        return self.snapshot.data

    @property
    def result(self) -> Json:
        """The result in the snapshot."""
        return self.snapshot.result

    @property
    def error(self) -> Json:
        """The error in the snapshot."""
        return self.snapshot.error

    @property
    def cancel(self) -> CancelState | None:
        """The cancel request in the snapshot."""
        return self.snapshot.cancel

    @property
    def forced(self) -> bool:
        """Whether the task in the snapshot was cancelled without its worker."""
        return self.snapshot.forced


Change: TypeAlias = Snapshot | Transition | Jumped
"""What a watcher yields. Each has `task_id`, `seq`, `cursor`, `status`, `progress`, `stage`, `message`, …"""
