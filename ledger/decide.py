"""The one decision of the ledger: what a request does to a task.

Pure. `decide` looks at a task's state and one request and says what is to be appended, or why nothing is. It never
assigns a time (PostgreSQL's clock does) and never says that something was written (only a commit does).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from ledger.machine import NEXT, REPORTED, TERMINAL, CancelStage, Move, Status
from ledger.model import (
    Cancel,
    CancelRequest,
    Change,
    Create,
    Lapse,
    Prior,
    Receipt,
    Rejection,
    Report,
    Request,
    State,
)
from ledger.receipts import repeat_of, repeated

ATTEMPTS_AHEAD: Final = 1_000
"""How far a worker may count ahead: a slip of the pen must not use up the numbers for everybody after it."""


NUMBER_MOST: Final = 2**31 - 1
"""The largest `n` or attempt that the ledger has room for."""


def decide(state: State | None, request: Request, prior: Prior | None) -> Change | Receipt | Rejection:
    """Decide one request against the newest state of its task (None: nobody has heard of it).

    `prior` is the transition that already carries the request's key, if there is one. A `Change` is to be appended at
    `state.seq + 1`; a `Receipt` answers a repeat; a `Rejection` says why there is no effect.
    """
    if request.guard is not None and (refusal := request.guard.refusal(request, state)) is not None:
        return refusal
    if prior is not None:
        return repeated(state, request, prior) if prior.digest == request.digest else _key_reused(request)
    if isinstance(request, Report):
        return _decide_report(state, request)
    if isinstance(request, Create):
        return _decide_create(state, request)
    if isinstance(request, CancelRequest):
        return _decide_cancel(state, request)
    return _decide_lapse(state, request)


def _decide_report(state: State | None, report: Report) -> Change | Receipt | Rejection:
    before = state or State(tenant=report.tenant, task_id=report.task_id)
    if _is_plain(before, report):
        return _progress(before, report)
    refusal = _check_report(before, report)
    if refusal is not None:
        return refusal
    move = _move_of(before, report)
    after_status = NEXT[before.status].get(move)
    cancel = before.cancel
    if after_status is None:
        return _illegal(before, report)
    stage: CancelStage | None = None
    if cancel is not None and before.status is Status.CANCELLING:
        stage = _STAGE_AFTER.get(move)
        if stage is cancel.stage is CancelStage.DELIVERED and report.digest is None:
            return repeat_of(before)  # said twice without a key: still one effect
        if stage is not None:
            cancel = replace(cancel, stage=stage)
    attempt = _attempt_after(before, report)
    seq = before.seq + 1
    kept_n = before.n if attempt == before.attempt else 0
    after = replace(
        before,
        kind=before.kind if before.kind is not None else report.kind,
        owner=before.owner if before.owner is not None else report.owner,
        status=after_status,
        seq=seq,
        attempt=attempt,
        n=kept_n if report.n is None else report.n,
        progress=before.progress if report.progress is UNSET else report.progress,
        stage=before.stage if report.stage is UNSET else report.stage,
        message=before.message if report.message is UNSET else report.message,
        data_seq=before.data_seq if report.data is None else seq,
        result_seq=before.result_seq if report.result is None else seq,
        error_seq=before.error_seq if report.error is None else seq,
        cancel=cancel,
        lease_ms=before.lease_ms if report.lease_ms is None else report.lease_ms,
        anchor=seq,
    )
    return _change(after, report, n=report.n, cancel=stage, deadline_ms=report.deadline_ms)


def _is_plain(before: State, report: Report) -> bool:
    """Whether the report is progress within the attempt and no more: nearly all reports are, so they go a short way."""
    return (
        before.status is Status.RUNNING
        and (report.status is None or report.status is Status.RUNNING)
        and (report.attempt == before.attempt or (report.attempt is None and report.n is None))
        and (report.n is None or before.n < report.n <= NUMBER_MOST)
        and (report.kind is None or before.kind is not None)
        and (report.owner is None or before.owner is not None)
        and report.result is None
        and report.error is None
        and report.cancel is None
        and report.idem is None
        and report.lease_ms is None
        and report.deadline_ms is None
        and (report.data is not None or before.data_seq <= before.anchor)
    )


def _progress(before: State, report: Report) -> Change:
    seq = before.seq + 1
    progress = before.progress if report.progress is UNSET else report.progress
    stage = before.stage if report.stage is UNSET else report.stage
    message = before.message if report.message is UNSET else report.message
    after = replace(
        before,
        seq=seq,
        n=before.n if report.n is None else report.n,
        progress=progress,
        stage=stage,
        message=message,
        data_seq=before.data_seq if report.data is None else seq,
    )
    return Change(state=after, n=report.n, data=report.data, plain=True)


_STAGE_AFTER: Final[Mapping[Move, CancelStage]] = {
    Move.DELIVER: CancelStage.DELIVERED,
    Move.REFUSE: CancelStage.REFUSED,
    Move.STOP: CancelStage.HONOURED,
    Move.COMPLETE: CancelStage.TOO_LATE,
    Move.FAIL: CancelStage.TOO_LATE,
}


def _check_report(before: State, report: Report) -> Rejection | None:
    if isinstance(report.attempt, int) and report.attempt < before.attempt:
        return Rejection(
            code="fenced",
            message=f"Attempt {report.attempt} of task {report.task_id} was replaced by attempt {before.attempt};"
            " stop working on it.",
        )
    if isinstance(report.attempt, int) and report.attempt > before.attempt + ATTEMPTS_AHEAD:
        return Rejection(
            code="bad_request",
            message=f"Attempt {report.attempt} of task {report.task_id} is too far ahead of attempt {before.attempt};"
            ' send `"attempt":"new"` to open the next one.',
        )
    if report.n is not None and report.n > NUMBER_MOST:
        return Rejection(code="bad_request", message=f"`n` may be {NUMBER_MOST} at most; open a new attempt.")
    if before.status in TERMINAL:
        return Rejection(
            code="task_ended",
            message=f"Task {report.task_id} ended as {before.status} at sequence {before.seq};"
            " a terminal state never changes.",
        )
    if report.n is not None and report.attempt == before.attempt and report.n <= before.n:
        return Rejection(
            code="superseded",
            message=f"Attempt {before.attempt} of task {report.task_id} has gone on to n={before.n};"
            f" n={report.n} was never accepted and comes too late.",
        )
    return None


def _move_of(before: State, report: Report) -> Move:
    if report.cancel is not None:
        return Move.DELIVER if report.cancel == "delivered" else Move.REFUSE
    if report.status is not None:
        return REPORTED[report.status]
    return Move.RUN  # whoever reports progress is at work


def _attempt_after(before: State, report: Report) -> int:
    if report.attempt is None:
        return before.attempt
    return before.attempt + 1 if report.attempt == "new" else report.attempt


def _decide_create(state: State | None, create: Create) -> Change | Receipt | Rejection:
    before = state or State(tenant=create.tenant, task_id=create.task_id)
    if before.created:
        return Rejection(
            code="task_exists",
            message=f"Task {create.task_id} was already created, with other content or another key;"
            " choose another task_id.",
        )
    if before.cancel is not None and before.cancel.stage is CancelStage.FORCED and before.seq == 2:
        return repeat_of(before)  # a tombstone to which nobody came in time: cancelled all the same
    if before.status in TERMINAL:
        return Rejection(
            code="task_ended",
            message=f"Task {create.task_id} was reported to its end ({before.status}) before it was created; nothing of"
            " this create is kept. Create a task before its worker begins.",
        )
    status, cancel, stage = before.status, before.cancel, None
    if cancel is not None and status is Status.CANCELLING and before.seq == 1:
        # A tombstone: nobody has begun the task, and now nobody will.
        status, stage = Status.CANCELLED, CancelStage.HONOURED
        cancel = replace(cancel, stage=stage)
    seq = before.seq + 1
    after = replace(
        before,
        created=True,
        kind=before.kind if before.kind is not None else create.kind,
        owner=before.owner if before.owner is not None else create.owner,
        status=status,
        seq=seq,
        data_seq=before.data_seq if create.data is None else seq,
        cancel=cancel,
        lease_ms=before.lease_ms if create.lease_ms is None else create.lease_ms,
        anchor=seq,
    )
    return _change(after, create, cancel=stage, deadline_ms=create.deadline_ms)


def _decide_cancel(state: State | None, request: CancelRequest) -> Change | Receipt:
    before = state or State(tenant=request.tenant, task_id=request.task_id)
    cancel = before.cancel
    if before.status in TERMINAL:
        answered = cancel is not None and cancel.stage is not CancelStage.REFUSED
        late = Cancel(stage=CancelStage.TOO_LATE, seq=before.seq, reason=None)
        return replace(repeat_of(before), cancel=cancel if answered else late)
    if cancel is not None and before.status is Status.CANCELLING:
        return replace(repeat_of(before), seq=cancel.seq)
    seq = before.seq + 1
    after = replace(
        before,
        status=NEXT[before.status][Move.CANCEL],
        seq=seq,
        cancel=Cancel(stage=CancelStage.RECORDED, seq=seq, reason=request.reason),
        anchor=seq,
    )
    return _change(after, request, cancel=CancelStage.RECORDED, reason=request.reason)


_LAPSED: Final[Mapping[str, tuple[Move, bytes | None]]] = {
    "lease": (Move.LOSE, b'{"code":"lost","message":"Nothing was heard of the worker for too long."}'),
    "deadline": (Move.EXPIRE, b'{"code":"deadline","message":"The time given to this task is over."}'),
    "cancel": (Move.FORCE, None),
}


def _decide_lapse(state: State | None, lapse: Lapse) -> Change | Rejection:
    move, error = _LAPSED[lapse.why]
    after_status = NEXT[state.status].get(move) if state is not None else None
    if state is None or state.seq != lapse.seq or after_status is None:
        return Rejection(code="superseded", message=f"Task {lapse.task_id} has moved on.")
    cancel, stage = state.cancel, None
    if cancel is not None and state.status is Status.CANCELLING:
        stage = CancelStage.FORCED if move is Move.FORCE else CancelStage.TOO_LATE
        cancel = replace(cancel, stage=stage)
    seq = state.seq + 1
    after = replace(
        state,
        status=after_status,
        seq=seq,
        error_seq=state.error_seq if error is None else seq,
        cancel=cancel,
        anchor=seq,
    )
    return _change(after, lapse, cancel=stage, error=error)


def _change(
    after: State,
    request: Request,
    *,
    n: int | None = None,
    cancel: CancelStage | None,
    reason: str | None = None,
    error: bytes | None = None,
    deadline_ms: int | None = None,
) -> Change:
    return Change(
        state=after,
        n=n,
        data=request.data if isinstance(request, Report | Create) else None,
        result=request.result if isinstance(request, Report) else None,
        error=request.error if isinstance(request, Report) else error,
        cancel=cancel,
        reason=reason,
        deadline_ms=deadline_ms,
    )


def _illegal(before: State, report: Report) -> Rejection:
    wish = f"answer a cancel request ({report.cancel})" if report.cancel else f"become {report.status}"
    return Rejection(code="illegal_transition", message=f"Task {report.task_id} is {before.status} and cannot {wish}.")


def _key_reused(request: Request) -> Rejection:
    if isinstance(request, Report) and request.idem is None:
        message = f"Attempt {request.attempt} of task {request.task_id} already used n={request.n} for another report."
    else:
        message = f"This key was already used in task {request.task_id} for another request."
    return Rejection(code="key_reused", message=message)
