"""The ledger's two statements on paper: what `heads.sql` and `append.sql` promise, over dictionaries.

It takes the very arrays that the writer sends, so that their order is tested too, and keeps the promises of the tables:
(key, seq), (key, idem) and (key, attempt, n) are unique. Nothing here waits; who calls `append` decides when the
statement takes effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.batch import Entry, Found, heads_arguments
from ledger.machine import CancelStage, Status
from ledger.model import Cancel, Prior, State

TASK_COLUMNS: Final = (
    "key", "expected", "tenant", "task_id", "kind", "owner", "created", "status", "seq", "attempt", "n", "progress",
    "stage", "message", "data_seq", "result_seq", "error_seq", "cancel_stage", "cancel_seq", "cancel_reason",
)  # fmt: skip
TRANSITION_COLUMNS: Final = (
    "key", "seq", "status", "attempt", "n", "progress", "stage", "message", "data", "result", "error", "cancel",
    "reason", "digest", "idem",
)  # fmt: skip
HEADS_COLUMNS: Final = ("ord", "key", "attempt", "n", "idem", "sent_seq", "digest")

Row = dict[str, Any]
Columns = Sequence[Sequence[object]]


def rows_of(names: Sequence[str], columns: Columns) -> list[Row]:
    """Arrays side by side, as `unnest` reads them."""
    assert len(names) == len(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


@dataclass
class PaperLedger:
    """All tasks and transitions."""

    tasks: dict[str, Row] = field(default_factory=dict)
    transitions: dict[str, list[Row]] = field(default_factory=dict)

    def append(self, columns: Columns) -> set[str]:
        """`append.sql`: one commit. Returns the keys of the tasks whose sequence was the expected one."""
        heads = rows_of(TASK_COLUMNS, columns[: len(TASK_COLUMNS)])
        steps = rows_of(TRANSITION_COLUMNS, columns[len(TASK_COLUMNS) :])
        assert [head["key"] for head in heads] == sorted({head["key"] for head in heads})
        applied: set[str] = set()
        for head in heads:
            expected = head.pop("expected")
            known = self.tasks.get(head["key"])
            if (known["seq"] if known is not None else 0) == expected:
                self.tasks[head["key"]] = head
                applied.add(head["key"])
        for step in steps:
            if step["key"] in applied:
                log = self.transitions.setdefault(step["key"], [])
                assert step["seq"] == len(log) + 1
                assert step["idem"] is None or step["idem"] not in {other["idem"] for other in log}
                placed = (step["attempt"], step["n"])
                assert step["n"] is None or placed not in {(other["attempt"], other["n"]) for other in log}
                log.append(step)
        for key in applied:
            assert self.tasks[key]["seq"] == len(self.transitions[key])
        return applied

    def heads(self, entries: Sequence[Entry]) -> list[Found]:
        """`heads.sql`: each entry's task, and the transition that carries the entry already."""
        return [self._found(row) for row in rows_of(HEADS_COLUMNS, heads_arguments(entries))]

    def _found(self, wanted: Row) -> Found:
        task = self.tasks.get(wanted["key"])
        log = self.transitions.get(wanted["key"], [])
        unnamed = wanted["idem"] is None and wanted["n"] is None and wanted["sent_seq"] is not None
        own = [row for row in log if unnamed and row["seq"] >= wanted["sent_seq"] and row["digest"] == wanted["digest"]]
        keyed = [row for row in log if wanted["idem"] is not None and row["idem"] == wanted["idem"]]
        numbered = [
            row
            for row in log
            if wanted["n"] is not None and (row["attempt"], row["n"]) == (wanted["attempt"], wanted["n"])
        ]
        priors = [
            Prior(seq=row["seq"], status=Status(row["status"]), attempt=row["attempt"], digest=row["digest"])
            for row in (*own, *keyed, *numbered)
        ]
        return Found(state=None if task is None else state_of(task), prior=priors[0] if priors else None)


def state_of(row: Row) -> State:
    """A task's row, in the words of the model."""
    members = {name: value for name, value in row.items() if name not in {"key", "expected"}}
    stage, seq, reason = (members.pop(f"cancel_{name}") for name in ("stage", "seq", "reason"))
    cancel = None if stage is None else Cancel(stage=CancelStage(stage), seq=seq, reason=reason)
    return State(**{**members, "status": Status(row["status"])}, cancel=cancel)
