"""The ledger's statements on paper: what `heads.sql`, `advance.sql` and `append.sql` promise, over dictionaries.

It takes the very columns that the writer sends, so that their order is tested too, and keeps the promises of the
tables: (key, seq), (key, idem) and (key, attempt, n) are unique, and `due_at` is never later than the reaper has to
look. Nothing here waits; who calls `write` decides when a statement takes effect, and what time it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.arguments import advance_columns, append_columns, heads_arguments
from ledger.batch import E, Entry, Found, Growth, apart
from ledger.machine import LEASED, TERMINAL, CancelStage, Status
from ledger.model import Cancel, Patience, Prior, State

TASK_COLUMNS: Final = (
    "key", "expected", "tenant", "task_id", "kind", "owner", "created", "status", "seq", "attempt", "n", "progress",
    "stage", "message", "data_seq", "result_seq", "error_seq", "cancel_stage", "cancel_seq", "cancel_reason",
    "lease_ms", "deadline_ms", "due_ms", "heard",
)  # fmt: skip
TRANSITION_COLUMNS: Final = (
    "key", "seq", "status", "attempt", "n", "progress", "stage", "message", "cancel", "reason", "digest", "idem",
    "data", "result", "error",
)  # fmt: skip
STEP_COLUMNS: Final = ("key", "seq", "attempt", "n", "progress", "stage", "message", "digest", "data")
HEADS_COLUMNS: Final = ("ord", "key", "attempt", "n", "idem", "sent_seq", "digest")
TIMES: Final = ("deadline_at", "due_at", "beat_at")
PATIENCE: Final = Patience(lease_ms=30_000, grace_ms=10_000, cancel_ms=20_000)

Row = dict[str, Any]
Columns = Sequence[Sequence[object]]


def rows_of(names: Sequence[str], columns: Columns) -> list[Row]:
    """Columns side by side, as `unnest` reads them."""
    assert len(names) == len(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Statement:
    """What the writer sends: `advance` or `append`, with its columns."""

    name: str
    columns: Columns


def statements(growth: Mapping[str, Growth[E]]) -> list[tuple[Statement, dict[str, Growth[E]]]]:
    """What a batch is written with, each with the tasks it writes: progress first, then the rest."""
    progress, rest = apart(growth)
    made = []
    if progress:
        made.append((Statement("advance", advance_columns(progress)), progress))
    if rest:
        made.append((Statement("append", append_columns(rest, PATIENCE)), rest))
    return made


@dataclass
class PaperLedger:
    """All tasks and transitions; `now` is its clock in milliseconds."""

    tasks: dict[str, Row] = field(default_factory=dict)
    transitions: dict[str, list[Row]] = field(default_factory=dict)
    now: int = 0
    leased_at: dict[str, int] = field(default_factory=dict)
    """When the lease of each task was named, or somebody came to be at work: who names a lease has all of it."""

    def write(self, statement: Statement) -> set[str]:
        """One commit. Returns the keys of the tasks whose sequence was the expected one."""
        if statement.name == "advance":
            applied, steps = self._advance(rows_of(STEP_COLUMNS, statement.columns))
        else:
            some = len(TASK_COLUMNS)
            steps = rows_of(TRANSITION_COLUMNS, statement.columns[some:])
            applied = self._append(rows_of(TASK_COLUMNS, statement.columns[:some]))
        for step in steps:
            if step["key"] in applied:
                log = self.transitions.setdefault(step["key"], [])
                assert step["seq"] == len(log) + 1
                assert step["idem"] is None or step["idem"] not in {other["idem"] for other in log}
                placed, last = (step["attempt"], abs(step["n"])), log[-1] if log else {"attempt": 0, "n": 0}
                told_before = (last["attempt"], abs(last["n"]))  # repeats are found by halving: places never fall
                assert placed > told_before if step["n"] > 0 else placed >= told_before
                log.append({**step, "at": self.now})
        for key in applied:
            head = self.head(key)
            assert head is not None
            assert head["seq"] == len(self.transitions[key])
            self._check_due(head)
        return applied

    def head(self, key: str) -> Row | None:
        """`ledger.head`: a task's row, and the progress that it has not taken in."""
        task, log = self.tasks.get(key), self.transitions.get(key, [])
        if task is None:
            return None
        head = {**task, "anchor": task["seq"]}
        if task["status"] != "running" or len(log) <= task["seq"]:
            return head
        last = log[-1]
        data_seq = task["data_seq"] if last["data"] is None else last["seq"]
        head |= {name: last[name] for name in ("seq", "progress", "stage", "message")}
        return head | {"n": abs(last["n"]), "data_seq": data_seq, "beat_at": last["at"]}

    def _advance(self, steps: list[Row]) -> tuple[set[str], list[Row]]:
        """The statement fails by the primary key where a task has moved on; here is what comes of it in the end."""
        assert [(step["key"], step["seq"]) for step in steps] == sorted({(step["key"], step["seq"]) for step in steps})
        applied = set()
        first = {step["key"]: step["seq"] for step in reversed(steps)}
        for key, seq in first.items():
            head = self.head(key)
            if head is None or head["seq"] != seq - 1:
                continue
            assert head["status"] == "running"  # as it was when this was decided: the sequence says so
            applied.add(key)
        more = {"status": "running", "cancel": None, "reason": None, "idem": None, "result": None, "error": None}
        return applied, [{**step, **more} for step in steps]

    def _append(self, heads: list[Row]) -> set[str]:
        assert [head["key"] for head in heads] == sorted({head["key"] for head in heads})
        applied = set()
        for head in heads:
            expected, deadline_ms, due_ms, heard = (
                head.pop(name) for name in ("expected", "deadline_ms", "due_ms", "heard")
            )
            known = self.head(head["key"])
            if (known["seq"] if known is not None else 0) != expected:
                continue
            applied.add(head["key"])
            before = known or dict.fromkeys(TIMES)
            if head["lease_ms"] != before.get("lease_ms") or before.get("status") not in LEASED:
                self.leased_at[head["key"]] = self.now
            task = self.tasks[head["key"]] = {**head, **{name: before[name] for name in TIMES}}
            if deadline_ms is not None:
                task["deadline_at"] = self.now + deadline_ms
            if heard:
                task["beat_at"] = self.now
            if due_ms is not None and due_ms < 0:
                task["due_at"] = None
            elif due_ms is not None:
                task["due_at"] = min(self.now + due_ms, task["due_at"] if task["due_at"] is not None else 1 << 60)
        return applied

    def _check_due(self, task: Row) -> None:
        """The reaper looks in time at what may lapse, and never again at what has ended."""
        if task["status"] in TERMINAL:
            assert task["due_at"] is None
            return
        lapses = [] if task["deadline_at"] is None else [task["deadline_at"]]
        if task["status"] in LEASED and task["beat_at"] is not None:
            lease_ms = PATIENCE.lease_ms if task["lease_ms"] is None else task["lease_ms"]
            begun = max(task["beat_at"], self.leased_at[task["key"]])
            lapses.append(begun + lease_ms + PATIENCE.grace_ms)
        if task["status"] == "cancelling":
            asked = self.transitions[task["key"]][task["cancel_seq"] - 1]
            assert asked["cancel"] == "recorded"
            lapses.append(asked["at"] + PATIENCE.cancel_ms)
        assert not lapses or (task["due_at"] is not None and task["due_at"] <= min(lapses))

    def heads(self, entries: Sequence[Entry]) -> list[Found]:
        """`heads.sql`: each entry's task, and the transition that carries the entry already."""
        return [self._found(row) for row in rows_of(HEADS_COLUMNS, heads_arguments(entries))]

    def _found(self, wanted: Row) -> Found:
        task = self.head(wanted["key"])
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
    members = {name: value for name, value in row.items() if name not in {"key", *TIMES}}
    stage, seq, reason = (members.pop(f"cancel_{name}") for name in ("stage", "seq", "reason"))
    cancel = None if stage is None else Cancel(stage=CancelStage(stage), seq=seq, reason=reason)
    return State(**{**members, "status": Status(row["status"])}, cancel=cancel)
