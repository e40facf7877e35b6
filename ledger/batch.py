"""A batch of requests folded into one append: which tasks change, by which steps, and who gets which answer.

Pure. The writer gives it what it remembers or has read of the tasks; it gives back the arguments of `append.sql`. A
memory may be stale, so only a change may rest on it: the append compares the sequence and does nothing where the task
has moved on. Every other answer (a repeat, a rejection) must rest on a fresh read: `Fold.stale` names the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from msgspec.structs import replace

from ledger.decide import decide, repeated
from ledger.model import Change, Digest, Key, Prior, Receipt, Rejection, Report, Request, State, Transition

Answer = Receipt | Rejection


class Entry:
    """A request on its way to the ledger.

    `digest` marks its transition; for a request without a key it is random, so that the writer can find out what became
    of its own statements when an answer was lost. `sent_seq` is the first place where one may have put it, 0 for none.
    """

    __slots__ = ("digest", "key", "request", "sent_seq")

    def __init__(self, *, key: Key, request: Request, digest: Digest) -> None:
        self.key = key
        self.request = request
        self.digest = digest
        self.sent_seq = 0


E = TypeVar("E", bound=Entry)


class Found:
    """What a read said for one entry: its task's state, and the transition that carries the request already."""

    __slots__ = ("prior", "state")

    def __init__(self, *, state: State | None, prior: Prior | None) -> None:
        self.state = state
        self.prior = prior


class Growth(Generic[E]):
    """What a batch does to one task, beginning at the sequence `expected`; at least one change."""

    __slots__ = ("changes", "expected")

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.changes: list[tuple[E, Change]] = []

    @property
    def state(self) -> State:
        """The task's state after the batch."""
        return self.changes[-1][1].state


class Fold(Generic[E]):
    """The decisions of one batch."""

    __slots__ = ("answers", "growth", "stale")

    def __init__(self) -> None:
        self.stale: set[Key] = set()
        """Tasks that must be read before their entries can be decided; none of them is in the rest."""
        self.growth: dict[Key, Growth[E]] = {}
        """What is to be appended, by task."""
        self.answers: dict[Key, list[tuple[E, Answer]]] = {}
        """Entries that change nothing, by task. Where the task grows too, they are true only if it does."""

    def postpone(self, key: Key) -> None:
        """Undo all that was decided for a task: it has to be read first."""
        self.stale.add(key)
        self.growth.pop(key, None)
        self.answers.pop(key, None)


def fold(entries: Iterable[E], heads: Mapping[Key, State], found: Mapping[E, Found]) -> Fold[E]:
    """Decide the entries in their order.

    `heads` is what is remembered of tasks, `found` what was read for entries just now; a read wins over a memory.
    """
    out: Fold[E] = Fold()
    states: dict[Key, State | None] = {}
    carried: dict[tuple[Key, object], Prior] = {}  # what this batch itself puts under a key
    for entry in entries:
        key, request = entry.key, entry.request
        if key in out.stale:
            continue
        fresh = found.get(entry)
        if key not in states:
            states[key] = fresh.state if fresh is not None else heads.get(key)
        state = states[key]
        if fresh is None and (state is None or entry.sent_seq or request.idem is not None):
            out.postpone(key)
            continue
        name = _name_of(request)
        prior = carried.get((key, name)) if name is not None else None
        if prior is None and fresh is not None:
            prior = fresh.prior
        decision: Change | Answer = (
            # Found again after a try whose answer was lost: no repeat in the caller's eyes.
            replace(repeated(state, request, prior), repeat=False)
            if prior is not None and entry.sent_seq and prior.digest == entry.digest
            else decide(state, request, prior)
        )
        if isinstance(decision, Change):
            if key not in out.growth:
                out.growth[key] = Growth(state.seq if state is not None else 0)
            out.growth[key].changes.append((entry, decision))
            states[key] = decision.state
            if name is not None:
                step = decision.step
                carried[key, name] = Prior(seq=step.seq, status=step.status, attempt=step.attempt, digest=entry.digest)
        elif fresh is None:
            out.postpone(key)
        else:
            out.answers.setdefault(key, []).append((entry, decision))
    return out


def heads_arguments(entries: Sequence[Entry]) -> list[list[object]]:
    """The 7 arrays of `heads.sql`, an element per entry; `ord` is its place in `entries`."""
    columns: list[list[object]] = [[] for _ in range(7)]
    for place, entry in enumerate(entries):
        request = entry.request
        attempt, n = (request.attempt, request.n) if isinstance(request, Report) else (None, None)
        values = (
            place,
            entry.key,
            attempt if isinstance(attempt, int) else None,
            n,
            request.idem,
            entry.sent_seq or None,
            entry.digest,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return columns


def append_arguments(growth: Mapping[Key, Growth[E]]) -> list[list[object]]:
    """The 35 arrays of `append.sql`: 20 with an element per task, in key order, and 15 with one per transition."""
    tasks: list[tuple[object, ...]] = []
    transitions: list[tuple[object, ...]] = []
    for key in sorted(growth):
        grown = growth[key]
        s, c = grown.state, grown.state.cancel
        tasks.append((
            key, grown.expected, s.tenant, s.task_id, s.kind, s.owner, s.created, s.status, s.seq, s.attempt, s.n,
            s.progress, s.stage, s.message, s.data_seq, s.result_seq, s.error_seq,
            c and c.stage, c and c.seq, c and c.reason,
        ))  # fmt: skip
        for entry, change in grown.changes:
            p = change.step
            transitions.append((
                key, p.seq, p.status, p.attempt, p.n, p.progress, p.stage, p.message, _text(p.data), _text(p.result),
                _text(p.error), p.cancel, p.reason, entry.digest, entry.request.idem,
            ))  # fmt: skip
    return [list(column) for column in (*zip(*tasks, strict=True), *zip(*transitions, strict=True))]


def transitions_of(key: Key, growth: Growth[E], at: datetime) -> list[Transition]:
    """What a task's growth looks like to a reader, once it is committed at `at`."""
    return [
        Transition(
            key=key,
            task_id=change.state.task_id,
            seq=change.step.seq,
            status=change.step.status,
            attempt=change.step.attempt,
            progress=change.step.progress,
            stage=change.step.stage,
            message=change.step.message,
            data=change.step.data,
            result=change.step.result,
            error=change.step.error,
            cancel=change.step.cancel,
            reason=change.step.reason,
            at=at,
        )
        for _, change in growth.changes
    ]


def _name_of(request: Request) -> object:
    """Under what a request can be found again, within its task; None when it cannot."""
    if request.idem is not None:
        return request.idem
    if isinstance(request, Report) and request.n is not None:
        return (request.attempt, request.n)
    return None


def _text(payload: bytes | None) -> str | None:
    return None if payload is None else payload.decode()
