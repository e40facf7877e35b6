"""Rows of the ledger's queries, made into the words of `ledger.model`. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from ledger.machine import LEASED, CancelStage, Liveness, Status, liveness_of
from ledger.model import Cancel, Head, Key, Prior, State, Task, Transition

_STATUS: Final[Mapping[str, Status]] = {status.value: status for status in Status}


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
        cancel=_cancel_of(row),
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
    status = Status(row["status"])
    return Head(
        seq=row["seq"],
        status=status,
        liveness=_liveness(row, status),
        beat_age_ms=_beat_age_ms(row, status),
    )


def task_of(row: asyncpg.Record) -> Task:
    """A snapshot, from a row of `snapshots.sql` or `history.sql`."""
    status = Status(row["status"])
    return Task(
        key=row["key"].hex,
        tenant=row["tenant"],
        task_id=row["task_id"],
        kind=row["kind"],
        owner=row["owner"],
        status=status,
        seq=row["seq"],
        attempt=row["attempt"],
        progress=row["progress"],
        stage=row["stage"],
        message=row["message"],
        data=_payload(row["data"]),
        result=_payload(row["result"]),
        error=_payload(row["error"]),
        cancel=_cancel_of(row),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deadline_at=row["deadline_at"],
        beat_at=row["beat_at"],
        beat_age_ms=_beat_age_ms(row, status),
        liveness=_liveness(row, status),
    )


def transition_of(row: asyncpg.Record, key: Key) -> Transition:
    """A transition, from a row of `replay.sql` about this task.

    Taken apart by place: a client that comes back brings hundreds of rows, and names cost as much as all the rest.
    """
    _, _, task_id, seq, status, attempt, progress, stage, message, data, result, error, cancel, reason, at = row
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
        at=at,
    )


def _cancel_of(row: asyncpg.Record) -> Cancel | None:
    if row["cancel_stage"] is None:
        return None
    return Cancel(stage=CancelStage(row["cancel_stage"]), seq=row["cancel_seq"], reason=row["cancel_reason"])


def _liveness(row: asyncpg.Record, status: Status) -> Liveness | None:
    if status in LEASED and row["beat_age_ms"] is None:
        return None  # cancelled before anybody began
    return liveness_of(status, late=row["late"])


def _beat_age_ms(row: asyncpg.Record, status: Status) -> int | None:
    age_ms: int | None = row["beat_age_ms"]
    return age_ms if status in LEASED else None


def _payload(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
