"""Requests of all shapes over few values, so that they meet: for hypothesis, and one by one."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from hypothesis import strategies as st
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from ledger.machine import Status
from ledger.model import CancelRequest, Create, Lapse, Report, Request

TENANT: Final = "tenant"
TASK: Final = "task-1"
REPORTED: Final = (Status.PENDING, Status.RUNNING, Status.COMPLETED, Status.FAILED, Status.CANCELLED)

_labels = st.sampled_from([None, None, "x", "y"])
_payloads = st.sampled_from([None, None, b"1", b'{"a":2}', b"null"])
_tasks = st.sampled_from([TASK])


def key(word: str) -> str:
    """A caller's key, as the ledger keeps it."""
    return hashlib.sha256(word.encode()).hexdigest()[:32]


def content_digest(request: Request) -> str:
    """Of what a request says, without what only places it."""
    said = {name: value for name, value in asdict(request).items() if name not in {"attempt", "n", "idem", "digest"}}
    return key(repr((type(request).__name__, said)))


def named(request: Request) -> Request:
    """With the digest of its content where the request has a name: with `n`, with a key, and every create."""
    if isinstance(request, Report) and request.n is None and request.idem is None:
        return request
    if isinstance(request, CancelRequest) and request.idem is None:
        return request
    return replace(request, digest=content_digest(request))


_small = st.sampled_from([UNSET, UNSET, None, "a", "b"])
_progress: st.SearchStrategy[float | UnsetType | None] = st.sampled_from([UNSET, UNSET, None, 0.0, 50.0, 100.0])
_attempts: st.SearchStrategy[int | Literal["new"] | None] = st.sampled_from([None, None, 1, 1, 2, 3, "new"])
_keys = st.sampled_from([None, None, None, "k1", "k2", "k3"])
_terms: st.SearchStrategy[tuple[int | None, int | None]] = st.sampled_from([
    (None, None), (None, None), (None, None), (5_000, None), (None, 1_000), (90_000, 600_000),
])  # fmt: skip

AT_HEAD: Final = 0
"""The `seq` of a lapse that is to be asked for as the task stands then; see `aimed`."""


@st.composite
def reports(draw: st.DrawFn, tasks: st.SearchStrategy[str] = _tasks) -> Report:
    """A report, with a number, a key or neither; progress is likelier than an end, so that tasks live for a while."""
    attempt = draw(_attempts)
    n = draw(st.sampled_from([None, 1, 2, 3, 4, 5])) if isinstance(attempt, int) else None
    idem = draw(_keys) if n is None else None
    terms = draw(_terms)
    says = draw(st.sampled_from([None, None, None, None, "delivered", "refused", *REPORTED, Status.RUNNING]))
    report = Report(
        tenant=TENANT,
        task_id=draw(tasks),
        attempt=attempt,
        n=n,
        idem=None if idem is None else key(idem),
        status=says if isinstance(says, Status) else None,
        cancel="delivered" if says == "delivered" else "refused" if says == "refused" else None,
        progress=draw(_progress),
        stage=draw(_small),
        message=draw(_small),
        data=draw(_payloads),
        result=draw(_payloads),
        error=draw(_payloads),
        kind=draw(_labels),
        owner=draw(_labels),
        lease_ms=terms[0],
        deadline_ms=terms[1],
    )
    made = named(report)
    assert isinstance(made, Report)
    return made


_places: st.SearchStrategy[tuple[int | None, int | None]] = st.sampled_from([
    (None, None), (None, None), (None, None), (None, None), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2),
])  # fmt: skip


@st.composite
def progress(draw: st.DrawFn, tasks: st.SearchStrategy[str] = _tasks) -> Report:
    """What most reports say: progress and no more, with a number or without."""
    attempt, n = draw(_places)
    data = draw(_payloads)
    report = Report(tenant=TENANT, task_id=draw(tasks), attempt=attempt, n=n, progress=draw(_progress), data=data)
    made = named(report)
    assert isinstance(made, Report)
    return made


@st.composite
def creates(draw: st.DrawFn, tasks: st.SearchStrategy[str] = _tasks) -> Create:
    """A create, with a caller's key or the content's own."""
    terms = draw(_terms)
    create = Create(
        tenant=TENANT,
        task_id=draw(tasks),
        idem=f"{0:032x}",
        digest=f"{0:032x}",
        kind=draw(_labels),
        owner=draw(_labels),
        data=draw(_payloads),
        lease_ms=terms[0],
        deadline_ms=terms[1],
    )
    digest, idem = content_digest(create), draw(_keys)
    return replace(create, digest=digest, idem=digest if idem is None else key(idem))


@st.composite
def cancel_requests(draw: st.DrawFn, tasks: st.SearchStrategy[str] = _tasks) -> CancelRequest:
    """A cancel, with a key or without."""
    idem = draw(_keys)
    request = named(
        CancelRequest(
            tenant=TENANT,
            task_id=draw(tasks),
            idem=None if idem is None else key(idem),
            reason=draw(st.sampled_from([None, "changed my mind"])),
        )
    )
    assert isinstance(request, CancelRequest)
    return request


@st.composite
def lapses(draw: st.DrawFn, tasks: st.SearchStrategy[str] = _tasks) -> Lapse:
    """What the ledger asks of itself: mostly of the task as it stands, sometimes of how it stood at some time."""
    seq = draw(st.sampled_from([AT_HEAD, AT_HEAD, AT_HEAD, 1, 2, 3, 4]))
    why: st.SearchStrategy[Literal["lease", "deadline", "cancel"]] = st.sampled_from(["lease", "deadline", "cancel"])
    return Lapse(tenant=TENANT, task_id=draw(tasks), seq=seq, why=draw(why))


def aimed(request: Request, head: int) -> Request:
    """The request as it is asked of a task that has come to `head`."""
    return replace(request, seq=head) if isinstance(request, Lapse) and request.seq == AT_HEAD else request


def requests(tasks: st.SearchStrategy[str] = _tasks) -> st.SearchStrategy[Request]:
    """Any request; reports are the most common."""
    some = reports(tasks)
    return st.one_of(progress(tasks), some, some, some, creates(tasks), cancel_requests(tasks), lapses(tasks))
