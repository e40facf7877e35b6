"""Rows of the ledger's queries, made into the words of `ledger.model`. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg

from ledger.machine import LEASED, CancelStage, Liveness, Status, liveness_of
from ledger.model import Cancel, Head, Key, Prior, State, Task, Transition

_STATUS: Final[Mapping[str, Status]] = {status.value: status for status in Status}
_time: Final = datetime.fromtimestamp
"""Seconds since 1970 as a time, exact to the microsecond until the year 2242. The driver's own decoder of times takes
three times as long, which was half of all that it did for a row."""


def state_of(row: asyncpg.Record) -> State | None:
    """The task in a row of `heads.sql`; None when there is no such task."""
    if row["tenant"] is None:
        return None
    return State(
        tenant=row["tenant"],
        task_id=row["task_id"],
        kind=row["kind"],
        owner=row["owner"],
        created=row["created"],
        status=Status(row["status"]),
        seq=row["seq"],
        attempt=row["attempt"],
        n=row["n"],
        progress=row["progress"],
        stage=row["stage"],
        message=row["message"],
        data_seq=row["data_seq"],
        result_seq=row["result_seq"],
        error_seq=row["error_seq"],
        cancel=_cancel(row["cancel_stage"], row["cancel_seq"], row["cancel_reason"]),
        lease_ms=row["lease_ms"],
        anchor=row["anchor"],
    )


def prior_of(row: asyncpg.Record) -> Prior | None:
    """The transition in a row of `heads.sql` that carries the request already."""
    if row["prior_seq"] is None:
        return None
    return Prior(
        seq=row["prior_seq"],
        status=Status(row["prior_status"]),
        attempt=row["prior_attempt"],
        digest=row["prior_digest"].hex,
    )


def head_of(row: asyncpg.Record) -> Head:
    """How far a task has come, from a row of `sequences.sql`."""
    status = _STATUS[row["status"]]
    age_ms = row["beat_age_ms"]
    return Head(
        seq=row["seq"],
        status=status,
        liveness=_liveness(status, age_ms, late=row["late"]),
        beat_age_ms=age_ms if status in LEASED else None,
    )


def task_of(row: asyncpg.Record) -> Task:
    """A snapshot, from a row of `snapshots.sql` or `history.sql`. Taken apart by place, as in `transition_of`."""
    (
        _, key, tenant, task_id, kind, owner, status_name, seq, attempt, progress, stage, message, data, result, error,
        cancel_stage, cancel_seq, cancel_reason, created_at, updated_at, beat_at, deadline_at, beat_age_ms, late, *_,
    ) = row  # fmt: skip
    status = _STATUS[status_name]
    return Task(
        key=key.hex,
        tenant=tenant,
        task_id=task_id,
        kind=kind,
        owner=owner,
        status=status,
        seq=seq,
        attempt=attempt,
        progress=progress,
        stage=stage,
        message=message,
        data=None if data is None else data.encode(),
        result=None if result is None else result.encode(),
        error=None if error is None else error.encode(),
        cancel=_cancel(cancel_stage, cancel_seq, cancel_reason),
        created_at=_time(created_at, UTC),
        updated_at=_time(updated_at, UTC),
        deadline_at=deadline_at,
        beat_at=None if beat_at is None else _time(beat_at, UTC),
        beat_age_ms=beat_age_ms if status in LEASED else None,
        liveness=_liveness(status, beat_age_ms, late=late),
    )


def transition_of(row: asyncpg.Record, key: Key) -> Transition:
    """A transition, from a row of `replay.sql` about this task.

    Taken apart by place: a client that comes back brings hundreds of rows, and names cost as much as all the rest.
    """
    _, _, task_id, seq, status, attempt, progress, stage, message, data, result, error, cancel, reason, at, _ = row
    return Transition(
        key=key,
        task_id=task_id,
        seq=seq,
        status=_STATUS[status],
        attempt=attempt,
        progress=progress,
        stage=stage,
        message=message,
        data=None if data is None else data.encode(),
        result=None if result is None else result.encode(),
        error=None if error is None else error.encode(),
        cancel=None if cancel is None else CancelStage(cancel),
        reason=reason,
        at=_time(at, UTC),
    )


def fitting(rows: Sequence[asyncpg.Record], most: int) -> int:
    """How many of the first rows of `replay.sql` or `history.sql` have so many bytes of payload at most; at least 1."""
    size = 0
    for place, row in enumerate(rows):
        payloads = row["data"], row["result"], row["error"]
        size += row["large"] or sum(len(text.encode()) for text in payloads if text)
        if size > most:
            return max(place, 1)
    return len(rows)


def _cancel(stage: str | None, seq: int, reason: str | None) -> Cancel | None:
    return None if stage is None else Cancel(stage=CancelStage(stage), seq=seq, reason=reason)


def _liveness(status: Status, beat_age_ms: int | None, *, late: bool) -> Liveness | None:
    if status in LEASED and beat_age_ms is None:
        return None  # cancelled before anybody began
    return liveness_of(status, late=late)
