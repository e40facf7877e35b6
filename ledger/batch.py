"""A batch of requests folded into one append: which tasks change, by which steps, and who gets which answer.

Pure. The writer gives it what it remembers or has read of the tasks; `ledger.arguments` makes the result a statement. A
memory may be stale, so only a change may rest on it: the append compares the sequence and does nothing where the task
has moved on. Every other answer (a repeat, a rejection) must rest on a fresh read: `Fold.stale` names the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ledger.decide import decide
from ledger.errors import LedgerError
from ledger.model import (
    Change,
    Create,
    Digest,
    Key,
    Prior,
    Receipt,
    Rejection,
    Report,
    Request,
    State,
    Transition,
)
from ledger.receipts import repeated

Answer = Receipt | Rejection
Outcome = Answer | LedgerError


class Entry(Struct, eq=False):
    """A request on its way to the ledger.

    `digest` marks its transition; for a request without a key it is random, so that the writer can find out what became
    of its own statements when an answer was lost. `sent_seq` is the first place where one may have put it, 0 for none.
    `must_read`: what was decided without a read has proved wrong.
    """

    key: Key
    request: Request
    digest: Digest
    sent_seq: int = 0
    must_read: bool = False


E = TypeVar("E", bound=Entry)


class Found:
    """What a read said for one entry: its task's state, and the transition that carries the request already."""

    __slots__ = ("prior", "state")

    def __init__(self, *, state: State | None, prior: Prior | None) -> None:
        self.state = state
        self.prior = prior


class Growth(Generic[E]):
    """What a batch does to one task, beginning at the sequence `expected`; at least one change."""

    __slots__ = ("_named", "changes", "expected", "state")

    state: State
    """The task's state after the batch."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.changes: list[tuple[E, Change]] = []
        self._named: dict[object, Prior] | None = None

    @property
    def plain(self) -> bool:
        """Whether `advance.sql` can write it: one change, and that is progress."""
        return len(self.changes) == 1 and self.changes[0][1].plain

    def add(self, entry: E, change: Change) -> None:
        """One more change."""
        self.changes.append((entry, change))
        self.state = change.state

    def carried(self, request: Request) -> Prior | None:
        """The change of this batch that already carries the request's key or number."""
        name = _name_of(request)
        if name is None:
            return None
        named = self._named = {} if self._named is None else self._named
        for entry, change in self.changes[len(named) :]:
            step = change.step
            prior = Prior(seq=step.seq, status=step.status, attempt=step.attempt, digest=entry.digest)
            named[_name_of(entry.request) or step.seq] = prior
        return named.get(name)


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
    for entry in entries:
        key, request = entry.key, entry.request
        if key in out.stale:
            continue
        fresh = found.get(entry) if found else None
        growth = out.growth.get(key)
        if growth is not None:
            state: State | None = growth.state
            prior = growth.carried(request)
        else:
            state = fresh.state if fresh is not None else heads.get(key)
            prior = None
        if fresh is None:
            if _needs_read(entry, state):
                out.postpone(key)
                continue
        elif prior is None:
            prior = fresh.prior
        decision: Change | Answer = (
            # Found again after a try whose answer was lost: no repeat in the caller's eyes.
            replace(repeated(state, request, prior), repeat=False)
            if prior is not None and entry.sent_seq and prior.digest == entry.digest
            else decide(state, request, prior)
        )
        if isinstance(decision, Change):
            if growth is None:
                growth = out.growth[key] = Growth(state.seq if state is not None else 0)
            growth.add(entry, decision)
        elif fresh is None:
            out.postpone(key)
        else:
            out.answers.setdefault(key, []).append((entry, decision))
    return out


def _needs_read(entry: Entry, state: State | None) -> bool:
    """Whether nothing can be decided on what is remembered."""
    if entry.must_read or entry.sent_seq:
        return True
    request = entry.request
    if state is None:
        # Likely the first that is heard of its task: a wrong guess costs a try that writes nothing.
        return not (isinstance(request, Create) or (isinstance(request, Report) and request.n == 1))
    return request.idem is not None


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
