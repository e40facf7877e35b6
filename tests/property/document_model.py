"""What docs/protocol.md says of one task, written down a second time, from the document and not from the code.

Slow, small and plain: it keeps everything that ever happened to the task and looks it up. Where the document is silent
the comment says so. `tests/property` compares the ledger's decisions with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from msgspec import UNSET

from ledger.model import CancelRequest, Create, Lapse, Receipt, Rejection, Report, Request

SAYS: Final = ("nothing", "pending", "running", "completed", "failed", "cancelled", "delivered", "refused")
"""What a report can say of the status, or in answer to a cancel request."""

ENDS: Final = ("completed", "failed", "cancelled", "lost")

_END: Final = {"completed": "completed", "failed": "failed", "cancelled": "cancelled"}
AFTER: Final[dict[str, dict[str, str]]] = {
    "unknown": {"nothing": "running", "pending": "pending", "running": "running", **_END},
    "pending": {"nothing": "running", "pending": "pending", "running": "running", **_END},
    "running": {"nothing": "running", "running": "running", **_END},
    "cancelling": {
        "nothing": "cancelling",
        "running": "cancelling",
        "delivered": "cancelling",
        "refused": "running",
        **_END,
    },
    "completed": {},
    "failed": {},
    "cancelled": {},
    "lost": {},
}
"""The status after a report, by the status before it and what the report says; what is missing is not allowed."""

STAGE: Final = {
    "delivered": "delivered",
    "refused": "refused",
    "cancelled": "honoured",
    "completed": "too_late",
    "failed": "too_late",
}
"""The stage that an open cancel request reaches by what a report says."""

LAPSES: Final = {
    "lease": (("running", "cancelling"), "lost", "too_late", "lost"),
    "deadline": (("pending", "running", "cancelling"), "failed", "too_late", "deadline"),
    "cancel": (("cancelling",), "cancelled", "forced", None),
}
"""What the ledger does by itself: from which status, to which, the stage of an open cancel request, `error.code`."""


@dataclass(kw_only=True)
class Cancelling:
    """A cancel request and how far it has come."""

    seq: int
    reason: str | None
    stage: str = "recorded"


@dataclass(kw_only=True)
class Happened:
    """One transition: the small state after it, and what it brought."""

    seq: int
    request: Request
    digest: str
    status: str
    attempt: int
    progress: float | None
    stage: str | None
    message: str | None
    data: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    error_code: str | None = None
    """Of an error that the ledger itself has written; its sentence is free."""
    cancel: str | None = None
    reason: str | None = None
    deadline_ms: int | None = None


@dataclass(kw_only=True)
class Accepted:
    """The answer to a request that is in the ledger."""

    seq: int
    status: str
    attempt: int
    repeat: bool
    cancel: tuple[str, int, str | None] | None


@dataclass(kw_only=True)
class Refused:
    """The answer to a request without effect."""

    code: str


@dataclass(kw_only=True)
class PaperTask:
    """A task and everything that has happened to it."""

    kind: str | None = None
    owner: str | None = None
    created: bool = False
    status: str = "unknown"
    attempt: int = 0
    last_n: int = 0
    progress: float | None = None
    stage: str | None = None
    message: str | None = None
    lease_ms: int | None = None
    payload_at: dict[str, int] = field(default_factory=lambda: {"data": 0, "result": 0, "error": 0})
    cancels: list[Cancelling] = field(default_factory=list)
    log: list[Happened] = field(default_factory=list)
    names: dict[object, Happened] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Another task with the same past; what has happened never changes, so both may have it."""
        return replace(
            self,
            payload_at=dict(self.payload_at),
            cancels=[replace(cancel) for cancel in self.cancels],
            log=list(self.log),
            names=dict(self.names),
        )

    @property
    def seq(self) -> int:
        """The sequence of the last transition."""
        return len(self.log)

    @property
    def ended(self) -> bool:
        """Whether the task is in a terminal state."""
        return self.status in ENDS

    @property
    def open_cancel(self) -> Cancelling | None:
        """The cancel request that waits for the worker."""
        return self.cancels[-1] if self.status == "cancelling" else None

    @property
    def is_forced_tombstone(self) -> bool:
        """Whether the task was cancelled before it was there, and nobody came."""
        asked = bool(self.log) and isinstance(self.log[0].request, CancelRequest)
        return asked and len(self.log) == 2 and self.log[1].cancel == "forced"

    def happen(self, request: Request, digest: str) -> Accepted | Refused:
        """One request; `digest` marks it, and is the request's own where it has a name."""
        first = self.names.get(name_of(request))
        if first is not None:
            return self._repeated(request, first)
        if isinstance(request, Report):
            return self._report(request, digest)
        if isinstance(request, Create):
            return self._create(request, digest)
        if isinstance(request, CancelRequest):
            return self._cancel(request, digest)
        return self._lapse(request, digest)

    def _repeated(self, request: Request, first: Happened) -> Accepted | Refused:
        if first.digest != request.digest:
            return Refused(code="key_reused")
        cancel = self.open_cancel
        if isinstance(request, CancelRequest):  # the stage that the first has reached
            cancel = next(one for one in self.cancels if one.seq == first.seq)
        return Accepted(seq=first.seq, status=first.status, attempt=first.attempt, repeat=True, cancel=_triple(cancel))

    def _report(self, report: Report, digest: str) -> Accepted | Refused:
        if isinstance(report.attempt, int) and report.attempt < self.attempt:
            return Refused(code="fenced")
        if self.ended:
            return Refused(code="task_ended")
        if report.n is not None and report.attempt == self.attempt and report.n <= self.last_n:
            return Refused(code="superseded")
        says = report.cancel or (str(report.status) if report.status is not None else "nothing")
        after = AFTER[self.status].get(says)
        if after is None:
            return Refused(code="illegal_transition")
        cancel = self.open_cancel
        reached = STAGE.get(says) if cancel is not None else None
        if cancel is not None and cancel.stage == reached == "delivered" and name_of(report) is None:
            return self._as_it_is(cancel)  # the document is silent: heard of it twice, one effect
        if cancel is not None and reached is not None:
            cancel.stage = reached
        attempt = self.attempt + 1 if report.attempt == "new" else report.attempt or self.attempt
        if attempt != self.attempt:
            self.attempt, self.last_n = attempt, 0
        if report.n is not None:
            self.last_n = report.n
        self.status = after
        for member in ("progress", "stage", "message"):
            said = getattr(report, member)
            if said is not UNSET:
                setattr(self, member, said)
        return self._append(report, digest, cancel=reached)

    def _create(self, create: Create, digest: str) -> Accepted | Refused:
        if self.created:
            return Refused(code="task_exists")
        if self.is_forced_tombstone:
            return self._as_it_is(None)  # cancelled all the same
        if self.ended:  # reported to its end before it was created
            return Refused(code="task_ended")
        reached = None
        if len(self.log) == 1 and isinstance(self.log[0].request, CancelRequest):
            self.status, self.cancels[-1].stage, reached = "cancelled", "honoured", "honoured"
        elif self.status == "unknown":
            self.status = "pending"
        self.created = True
        return self._append(create, digest, cancel=reached)

    def _cancel(self, request: CancelRequest, digest: str) -> Accepted:
        if self.ended:
            last = self.cancels[-1] if self.cancels else None
            if last is None or last.stage == "refused":  # it ended without one
                last = Cancelling(seq=self.seq, reason=None, stage="too_late")
            return self._as_it_is(last)
        if self.open_cancel is not None:
            first = self.open_cancel
            return Accepted(seq=first.seq, status=self.status, attempt=self.attempt, repeat=True, cancel=_triple(first))
        self.status = "cancelling"
        self.cancels.append(Cancelling(seq=self.seq + 1, reason=request.reason))
        return self._append(request, digest, cancel="recorded")

    def _lapse(self, lapse: Lapse, digest: str) -> Accepted | Refused:
        before, after, reached, error_code = LAPSES[lapse.why]
        if lapse.seq != self.seq or self.status not in before:  # the task has moved on since it was looked at
            return Refused(code="superseded")
        asked = self.open_cancel
        if asked is not None:
            asked.stage = reached
        self.status = after
        told = self._append(lapse, digest, cancel=reached if asked is not None else None)
        if error_code is not None:
            self.log[-1].error_code = error_code
            self.payload_at["error"] = self.seq
        return told

    def _append(self, request: Request, digest: str, *, cancel: str | None) -> Accepted:
        happened = Happened(
            seq=self.seq + 1,
            request=request,
            digest=digest,
            status=self.status,
            attempt=self.attempt,
            progress=self.progress,
            stage=self.stage,
            message=self.message,
            cancel=cancel,
            reason=request.reason if isinstance(request, CancelRequest) else None,
        )
        self.log.append(happened)
        for member in self.payload_at:
            payload = getattr(request, member, None)
            if payload is not None:
                self.payload_at[member] = happened.seq
                setattr(happened, member, payload)
        if isinstance(request, Report | Create):
            self.kind = self.kind if self.kind is not None else request.kind  # set once, by whoever names it first
            self.owner = self.owner if self.owner is not None else request.owner
            self.lease_ms = self.lease_ms if request.lease_ms is None else request.lease_ms
            happened.deadline_ms = request.deadline_ms
        if (name := name_of(request)) is not None:
            self.names[name] = happened
        return self._as_it_is(self.open_cancel, repeat=False)

    def _as_it_is(self, cancel: Cancelling | None, *, repeat: bool = True) -> Accepted:
        return Accepted(seq=self.seq, status=self.status, attempt=self.attempt, repeat=repeat, cancel=_triple(cancel))


def in_paper_words(answer: Receipt | Rejection) -> Accepted | Refused:
    """What the ledger answers, in the words of this model."""
    if isinstance(answer, Rejection):
        return Refused(code=answer.code)
    cancel = None
    if answer.cancel is not None:
        cancel = (str(answer.cancel.stage), answer.cancel.seq, answer.cancel.reason)
    return Accepted(
        seq=answer.seq, status=str(answer.status), attempt=answer.attempt, repeat=answer.repeat, cancel=cancel
    )


def name_of(request: Request) -> object:
    """What makes a request repeatable: its key, or its number within an attempt; None when nothing does."""
    if request.idem is not None:
        return request.idem
    if isinstance(request, Report) and request.n is not None:
        return (request.attempt, request.n)
    return None


def _triple(cancel: Cancelling | None) -> tuple[str, int, str | None] | None:
    return None if cancel is None else (cancel.stage, cancel.seq, cancel.reason)
