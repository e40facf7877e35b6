"""Compares what a watcher was shown with what the ledger holds. Pure.

Both must be exactly 1..n: no hole, no repeat, and every number with the same status, progress and stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One transition, as far as it is compared."""

    seq: int
    status: str
    progress: float | None
    stage: str | None

    @classmethod
    def of(cls, transition: dict[str, Any]) -> Row:
        """A transition of `GET /v1/tasks/{id}/transitions`."""
        return cls(**{name: transition[name] for name in ("seq", "status", "progress", "stage")})


def disagreements(streamed: Sequence[Row], stored: Sequence[Row]) -> list[str]:
    """What is wrong, a sentence each; none when the stream and the ledger agree."""
    found = [*irregularities("stream", streamed), *irregularities("ledger", stored)]
    if len(streamed) != len(stored):
        found.append(f"The stream has {len(streamed)} transitions, the ledger has {len(stored)}.")
    by_seq = {row.seq: row for row in stored}
    found += [
        f"Sequence {row.seq} differs: the stream showed {row}, the ledger holds {by_seq[row.seq]}."
        for row in streamed
        if row.seq in by_seq and by_seq[row.seq] != row
    ]
    return found


def irregularities(name: str, rows: Sequence[Row]) -> list[str]:
    """Every place where the numbers do not go 1, 2, 3 …"""
    found = [] if rows else [f"The {name} is empty."]
    expected = 1
    for row in rows:
        if row.seq > expected:
            found.append(f"The {name} has a hole: {expected} was expected and {row.seq} came.")
        elif row.seq < expected:
            found.append(f"The {name} repeats: {expected} was expected and {row.seq} came.")
        expected = row.seq + 1
    return found
