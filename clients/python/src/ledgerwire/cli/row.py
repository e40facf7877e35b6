"""One task as it is shown: the newest of its state, in words."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Final

import orjson

from ledgerwire.cli.options import clean
from ledgerwire.model import Change, Jumped, Liveness, Snapshot, Status, Transition, WorkerLiveness

_SHOWN_CHARACTERS: Final = 300
_WORTH_TELLING_SECONDS: Final = 0.1


class Row:
    """Takes the changes of a task; `status` is None before the first."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.status: Status | None = None
        self.progress: float | None = None
        self.unknown = False
        self._silent_since: float | None = None
        self.at: datetime | None = None
        self.took = ""
        self._began: datetime | None = None
        self._stage: str | None = None
        self._message: str | None = None
        self._cancel = ""
        self._end: Any = None
        self._attempt = 0

    def take(self, change: Change) -> None:
        """Show this change."""
        if isinstance(change, Transition):
            self.at = change.at
            if change.seq == 1:
                self._began = change.at
        else:
            shown = change.snapshot if isinstance(change, Jumped) else change
            self.at, self._began = shown.updated_at, shown.created_at
            self._hear(shown)
        self.status, self.progress, self._attempt = change.status, change.progress, change.attempt
        self._stage, self._message = change.stage, change.message
        if change.cancel is not None:
            self._cancel = f"cancel {change.cancel.stage.replace('_', ' ')}"
            if change.cancel.reason:
                self._cancel += f" ({change.cancel.reason})"
        if change.status.terminal:
            self._silent_since = None
            self._end = change.error if change.status in {Status.FAILED, Status.LOST} else change.result
            if self._began is not None and self.at is not None:
                seconds = (self.at - self._began).total_seconds()
                self.took = _duration(seconds) if seconds >= _WORTH_TELLING_SECONDS else ""

    def hear(self, worker: WorkerLiveness) -> None:
        """The worker has fallen silent, or is heard of again."""
        self._silent_since = None
        if worker.liveness is Liveness.LATE:
            self._silent_since = time.monotonic() - (worker.beat_age_ms or 0) / 1000

    @property
    def silence(self) -> str:
        """How long nothing has been heard of a late worker, as of now; else nothing."""
        if self._silent_since is None:
            return ""
        return f"nothing heard of the worker for {_duration(time.monotonic() - self._silent_since)}"

    @property
    def percent(self) -> str:
        """`40 %`, or nothing."""
        return "" if self.progress is None else f"{self.progress:.0f} %"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.unknown or (self.status is not None and self.status.terminal)

    @property
    def remarks(self) -> list[str]:
        """What there is to say beside status and progress, the most important first."""
        if self.unknown:
            return ["nobody has created or reported this task"]
        if self.status is None:
            return ["nothing is known of it yet"]
        attempt = f"attempt {self._attempt}" if self._attempt > 1 and not self.ended else ""
        end = "" if self._end is None else _short(self._end)
        took = f"took {self.took}" if self.took else ""
        idle = "nobody works on it yet" if self.status is Status.PENDING else ""
        words = [self.silence, idle, self._cancel, end, self._stage or "", self._message or "", attempt, took]
        return [clean(word) for word in words if word]

    def _hear(self, shown: Snapshot) -> None:
        if shown.liveness is not None:
            self.hear(WorkerLiveness(task_id=self.task_id, liveness=shown.liveness, beat_age_ms=shown.beat_age_ms))


def _short(value: Any) -> str:
    """A result or error in a few words: the message of an error that has one, else JSON, cut."""
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        kind = value.get("type") or value.get("code")
        text = f"{kind}: {value['message']}" if isinstance(kind, str) else value["message"]
    else:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
