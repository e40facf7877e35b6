"""The arguments of the writer's statements: a fold as columns, and columns as what PostgreSQL reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger.batch import E, Entry, Growth
from ledger.decide import NUMBER_MOST
from ledger.literals import Encoder, payloads, texts, words, words_or_null
from ledger.machine import LEASED, TERMINAL, Status
from ledger.model import Key, Patience, Report

Column = Sequence[Any]

_ADVANCE: Final[tuple[Encoder, ...]] = (
    words, words, words, words, words_or_null, texts, texts, words, payloads,
)  # fmt: skip
_APPEND: Final[tuple[Encoder, ...]] = (
    words, words, texts, texts, texts, texts, words, words, words, words, words, words_or_null, texts, texts, words,
    words, words, words_or_null, words_or_null, texts, words_or_null, words_or_null, words_or_null, words,
    words, words, words, words, words, words_or_null, texts, texts, words_or_null, texts, words, words_or_null,
    payloads, payloads, payloads,
)  # fmt: skip


def advance_arguments(growth: Mapping[Key, Growth[E]]) -> list[str]:
    """The columns of `advance.sql` as array literals. Raises `NotJson`."""
    return [encode(column) for encode, column in zip(_ADVANCE, advance_columns(growth), strict=True)]


def append_arguments(growth: Mapping[Key, Growth[E]], patience: Patience) -> list[str]:
    """The columns of `append.sql` as array literals. Raises `NotJson`."""
    return [encode(column) for encode, column in zip(_APPEND, append_columns(growth, patience), strict=True)]


def advance_columns(growth: Mapping[Key, Growth[E]]) -> list[Column]:
    """The 9 columns of `advance.sql`, an element per transition in key order."""
    rows = []
    for key in sorted(growth):
        for entry, change in growth[key].changes:
            s = change.state
            n = -s.n if change.n is None else s.n  # see schema.sql
            rows.append((key, s.seq, s.attempt, n, s.progress, s.stage, s.message, entry.digest, change.data))
    return list(zip(*rows, strict=True))


def append_columns(growth: Mapping[Key, Growth[E]], patience: Patience) -> list[Column]:
    """The 39 columns of `append.sql`: 24 with an element per task, in key order, and 15 with one per transition."""
    tasks: list[tuple[object, ...]] = []
    transitions: list[tuple[object, ...]] = []
    for key in sorted(growth):
        grown = growth[key]
        s, c = grown.state, grown.state.cancel
        tasks.append((
            key, grown.expected, s.tenant, s.task_id, s.kind, s.owner, s.created, s.status, s.seq, s.attempt, s.n,
            s.progress, s.stage, s.message, s.data_seq, s.result_seq, s.error_seq,
            c and c.stage, c and c.seq, c and c.reason, s.lease_ms, _deadline_ms(grown), _due_ms(grown, patience),
            any(isinstance(entry.request, Report) for entry, _ in grown.changes),
        ))  # fmt: skip
        for entry, change in grown.changes:
            t = change.state
            n = -t.n if change.n is None else t.n
            transitions.append((
                key, t.seq, t.status, t.attempt, n, t.progress, t.stage, t.message, change.cancel, change.reason,
                entry.digest, entry.request.idem, change.data, change.result, change.error,
            ))  # fmt: skip
    return [*zip(*tasks, strict=True), *zip(*transitions, strict=True)]


def _deadline_ms(growth: Growth[E]) -> int | None:
    given = [change.deadline_ms for _, change in growth.changes if change.deadline_ms is not None]
    return given[-1] if given else None


def _due_ms(growth: Growth[E], patience: Patience) -> int | None:
    """When the reaper has to look at the task; None when it need not look earlier, -1 when it is over."""
    state = growth.state
    if state.status in TERMINAL:
        return -1
    due = [_deadline_ms(growth)]
    if state.status in LEASED:
        due.append((patience.lease_ms if state.lease_ms is None else state.lease_ms) + patience.grace_ms)
    if state.status is Status.CANCELLING:
        due.append(patience.cancel_ms)
    return min((ms for ms in due if ms is not None), default=None)


def heads_arguments(entries: Sequence[Entry]) -> list[list[object]]:
    """The 7 arrays of `heads.sql`, an element per entry; `ord` is its place in `entries`."""
    columns: list[list[object]] = [[] for _ in range(7)]
    for place, entry in enumerate(entries):
        request = entry.request
        attempt, n = (request.attempt, request.n) if isinstance(request, Report) else (None, None)
        values = (
            place,
            entry.key,
            attempt if isinstance(attempt, int) and attempt <= NUMBER_MOST else None,  # else it cannot be there
            n if n is not None and n <= NUMBER_MOST else None,
            request.idem,
            entry.sent_seq or None,
            entry.digest,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return columns
