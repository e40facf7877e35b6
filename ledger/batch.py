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

    __slots__ = ("_named", "changes", "expected", "plain", "state")

    def __init__(self, expected: int, entry: E, change: Change) -> None:
        self.expected = expected
        self.changes = [(entry, change)]
        self.state = change.state
        """The task's state after the batch."""
        self.plain = change.plain
        """Whether it is all progress, which `advance.sql` can write."""
        self._named: dict[object, Prior] | None = None

    def add(self, entry: E, change: Change) -> None:
        """One more change."""
        self.changes.append((entry, change))
        self.state = change.state
        self.plain = self.plain and change.plain

    def carried(self, request: Request) -> Prior | None:
        """The change of this batch that already carries the request's key or number."""
        name = _name_of(request)
        if name is None:
            return None
        named = self._named = {} if self._named is None else self._named
        for entry, change in self.changes[len(named) :]:
            state = change.state
            prior = Prior(seq=state.seq, status=state.status, attempt=state.attempt, digest=entry.digest)
            named[_name_of(entry.request) or state.seq] = prior
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
                out.growth[key] = Growth(0 if state is None else state.seq, entry, decision)
            else:
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
            seq=change.state.seq,
            status=change.state.status,
            attempt=change.state.attempt,
            progress=change.state.progress,
            stage=change.state.stage,
            message=change.state.message,
            data=change.data,
            result=change.result,
            error=change.error,
            cancel=change.cancel,
            reason=change.reason,
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


def apart(
    growth: Mapping[Key, Growth[E]],
) -> tuple[dict[Key, Growth[E]], dict[Key, Growth[E]]]:
    """The tasks that only progress, and the others."""
    progress: dict[Key, Growth[E]] = {}
    rest: dict[Key, Growth[E]] = {}
    for key, grown in growth.items():
        (progress if grown.plain else rest)[key] = grown
    return progress, rest
