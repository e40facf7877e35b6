"""The words of the ledger: what a task is, what is asked of it, and what is answered.

Pure: no clock, no I/O, no database. What becomes of one request is `ledger.decide`'s to say. What comes by the thousand
is kept from the garbage collector (`gc=False`): it holds nothing that could hold it in turn.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from ledger.machine import LEASED, TERMINAL, CancelStage, Liveness, Status, liveness_of

Key = str
"""A task's key: the 32 hex digits of a uuid. A str, because it is looked up several times for every report."""

Digest = str
"""16 bytes of a sha256, as 32 hex digits."""

KEYS_REMEMBERED: Final = 20_000
"""Tasks whose key is not computed anew for each report; about 200 bytes each."""

TASK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
"""A task id that is safe in a URL, a log line and a bus subject (`*` and `>` would be wildcards there)."""


class Cancel(Struct, frozen=True, kw_only=True, gc=False):
    """A cancel request: its stage, the sequence at which it was recorded, and the asker's reason."""

    stage: CancelStage
    seq: int
    reason: str | None


class State(Struct, frozen=True, kw_only=True, gc=False):
    """A task's state without its payloads and times: all that `decide` needs.

    `created` is false while the task exists only by a report or a cancel. `data_seq`, `result_seq` and `error_seq`
    name the transition that holds the payload in force, 0 for none. `anchor` is the last transition that the task's row
    has taken in; what came since is plain progress (see `Change`).
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
    lease_ms: int | None = None
    anchor: int = 0


class Transition(Struct, frozen=True, kw_only=True, gc=False):
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
    """A snapshot: a task as of sequence `seq`. Payloads are JSON text or None.

    `beat_age_ms` is the age of the worker's last sign of life when the snapshot was read, `liveness` what it amounts
    to; both are None while nobody is at work.
    """

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
    deadline_at: datetime | None
    beat_at: datetime | None
    beat_age_ms: int | None
    liveness: Liveness | None

    @property
    def head(self) -> Head:
        """How far it has come, and how its worker is."""
        return Head(seq=self.seq, status=self.status, liveness=self.liveness, beat_age_ms=self.beat_age_ms)


class Facts(Struct, frozen=True):
    """What of a task's row a grant may depend on: whose task it is, and of what kind."""

    owner: str | None
    kind: str | None


class Guard(Protocol):
    """Says whether somebody may ask this of a task, as it stands when the request is decided. Pure."""

    def refusal(self, request: Report | Create | CancelRequest, state: State | None) -> Rejection | None:
        """Why nothing comes of the request; None where it is granted. `state` None: nobody has heard of the task."""


class Report(Struct, frozen=True, kw_only=True, gc=False):
    """What a worker says of a task. UNSET members keep their value, None clears; payloads are JSON text.

    `idem` is the digest of the caller's key. `digest` is that of the content, where there is an `n` or a key; without
    either a repeat cannot be told, and both are None. `guard` None, here and below: everything is granted.
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
    lease_ms: int | None = None
    deadline_ms: int | None = None
    guard: Guard | None = None


class Create(Struct, frozen=True, kw_only=True):
    """A task is announced. `idem` is never None: without a caller's key it is made of the content."""

    tenant: str
    task_id: str
    idem: Digest
    digest: Digest
    kind: str | None = None
    owner: str | None = None
    data: bytes | None = None
    lease_ms: int | None = None
    deadline_ms: int | None = None
    guard: Guard | None = None


class CancelRequest(Struct, frozen=True, kw_only=True):
    """A client asks for the end of a task, which need not exist yet."""

    tenant: str
    task_id: str
    idem: Digest | None = None
    digest: Digest | None = None
    reason: str | None = None
    guard: Guard | None = None


class Lapse(Struct, frozen=True, kw_only=True):
    """The ledger itself ends a task that was left alone, as it stood at `seq`; later, it is overtaken.

    `why`: the lease ran out, the deadline passed, or nobody answered the cancel request.
    """

    tenant: str
    task_id: str
    seq: int
    why: Literal["lease", "deadline", "cancel"]
    idem: None = None
    digest: None = None
    guard: None = None


Request = Report | Create | CancelRequest | Lapse


class Prior(Struct, frozen=True, kw_only=True, gc=False):
    """The transition that already carries a request's (attempt, n) or key."""

    seq: int
    status: Status
    attempt: int
    digest: Digest


class Change(Struct, frozen=True, kw_only=True, gc=False):
    """The request is to be appended as a transition at `state.seq`: the state after it, and what else it brings.

    Payloads are JSON text; None means unchanged. `cancel` is the stage of a cancel request that is reached by it.
    `plain` is progress and nothing else: status, attempt and all that is said of a task once are as before, and data is
    either brought along or in the task's row. `deadline_ms` from the commit on the task has to be done.
    """

    state: State
    n: int | None = None
    data: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    cancel: CancelStage | None = None
    reason: str | None = None
    plain: bool = False
    deadline_ms: int | None = None


class Head(Struct, frozen=True, kw_only=True):
    """How far a task has come, and how its worker is, as in `Task`."""

    seq: int
    status: Status
    liveness: Liveness | None
    beat_age_ms: int | None

    @property
    def ended(self) -> bool:
        """Whether nothing follows any more."""
        return self.status in TERMINAL


class Patience(Struct, frozen=True, kw_only=True):
    """How long the ledger waits before it acts for somebody who does not, in milliseconds.

    `lease_ms` is how long a worker may be silent where it has not said so itself; `grace_ms` later the task is lost.
    `cancel_ms` is how long a cancel request may stay without an answer.
    """

    lease_ms: int = 60_000
    grace_ms: int = 120_000
    cancel_ms: int = 30_000


class Receipt(Struct, frozen=True, kw_only=True, gc=False):
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


@lru_cache(maxsize=KEYS_REMEMBERED)
def task_key(tenant: str, task_id: str) -> Key:
    """The key of a task: the first half of sha256(tenant ‖ 0x1f ‖ task_id). SQL computes it alike."""
    return hashlib.sha256(f"{tenant}\x1f{task_id}".encode()).hexdigest()[:32]


def fingerprint(*parts: object) -> Digest:
    """A 16-byte digest of any JSON-like parts, to tell whether a repeated key carries the same content."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def advance(task: Task, transition: Transition) -> Task:
    """The snapshot after one more transition. `kind`, `owner` and `beat_at` stay: a transition does not tell them."""
    cancel = task.cancel
    heard = transition.cancel is not CancelStage.RECORDED  # a client's request is no sign of the worker
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
        beat_age_ms=None if transition.status not in LEASED else 0 if heard else task.beat_age_ms,
        liveness=liveness_of(transition.status) if heard or transition.status not in LEASED else task.liveness,
    )
