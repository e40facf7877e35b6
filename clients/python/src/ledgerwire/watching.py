"""The state of one subscription: cursor, gap check, duplicates, jumps. Decides only; does no I/O.

    NEEDED      ── request ──────▶ ASKED
    ASKED       ── reply ────────▶ UNDERSTOOD
    UNDERSTOOD  ── subscribed ───▶ HELD (nobody knows the task yet) | STREAMING | ENDED (seen before)
    HELD        ── transition ───▶ STREAMING
    STREAMING   ── terminal ─────▶ ENDED
    STREAMING   ── gap ──────────▶ NEEDED
    all but ENDED ── connection lost, or set aside ──▶ NEEDED

What comes for the task in NEEDED and ASKED belongs to an earlier subscription and is ignored; the cursor then
fetches it again. So every sequence is seen once, in order, or a `Jumped` says that it was not.
"""

from __future__ import annotations

import enum
from typing import Any, Literal, TypeAlias

from ledgerwire import wire
from ledgerwire.errors import UnknownTask
from ledgerwire.model import Change, Cursor, Jumped, Liveness, Snapshot, Status, Transition, WorkerLiveness

Mode: TypeAlias = Literal["all", "latest"]


class Phase(enum.Enum):
    """Where a subscription stands."""

    NEEDED = "needed"
    ASKED = "asked"
    UNDERSTOOD = "understood"
    HELD = "held"
    STREAMING = "streaming"
    ENDED = "ended"


class Watching:
    """One task as a watcher sees it. `cursor`: what was accepted; `gaps`: how often the stream had a hole."""

    def __init__(self, task_id: str, after: Cursor | None, mode: Mode) -> None:
        self.task_id = task_id
        self.cursor = after
        self.mode: Mode = mode
        self.phase = Phase.NEEDED
        self.gaps = 0
        self.worker = WorkerLiveness(task_id=task_id, liveness=Liveness.LIVE)
        """How the worker is, as far as the gateway has said; it is taken for live until something else is said.

        A new subscription says nothing about it: what was said last stands until the next word."""
        self._asked_as: int | None = None
        self._epoch = ""
        self._jump: tuple[Cursor | None, str] | None = None

    def request(self, wire_id: int, wait_ms: int | None) -> wire.Message:
        """The `subscribe` message, from the cursor on."""
        self.phase = Phase.ASKED
        self._asked_as = wire_id
        self._jump = None
        task: dict[str, Any] = {"task_id": self.task_id}
        if self.cursor is not None:
            task["after"] = {"epoch": self.cursor.epoch, "seq": self.cursor.seq}
        message: wire.Message = {"type": "subscribe", "id": wire_id, "tasks": [task], "mode": self.mode}
        if wait_ms is not None:
            message["wait_ms"] = wait_ms
        return message

    def understood(self, wire_id: int) -> None:
        """The reply to `request` was ok."""
        if self.phase is Phase.ASKED and wire_id == self._asked_as:
            self.phase = Phase.UNDERSTOOD

    def interrupt(self) -> None:
        """The subscription is gone (connection lost, rejected for now, set aside): it is needed again."""
        if self.phase is not Phase.ENDED:
            self.phase = Phase.NEEDED

    def receive(self, message: wire.Message) -> Change | None:
        """What a message about this task shows, if anything new.

        Raises UnknownTask when the gateway knows no such task and holds no subscription for it;
        wire.Malformed.
        """
        if self.phase not in {Phase.UNDERSTOOD, Phase.HELD, Phase.STREAMING}:
            return None
        kind = message["type"]
        if kind == "subscribed":
            self._subscribed(message)
            return None
        if self.phase is Phase.UNDERSTOOD:  # still of an earlier subscription
            return None
        if kind == "transition":
            return self._transition(wire.transition(message, self._epoch))
        if kind == "snapshot":
            return self._snapshot(wire.snapshot(message["task"], self._epoch))
        if kind == "liveness":
            self.worker = wire.liveness(message)
            return None
        if kind == "notice" and message.get("kind") == "jumped":
            self._jump = (wire.cursor(message.get("from")), str(message.get("reason", "unannounced")))
        return None

    def _subscribed(self, message: wire.Message) -> None:
        subscribed = wire.subscribed(message)
        self._epoch = subscribed.epoch
        if subscribed.verdict == "unknown":
            # A task of which something was seen cannot be waited for: the ledger was rewound to before it.
            if not subscribed.waiting or (self.cursor is not None and self.cursor.seq > 0):
                self.phase = Phase.NEEDED
                raise UnknownTask("unknown_task", f"Nobody has created or reported task {self.task_id}.")
            # From its beginning when it appears, also when that is after a reconnect.
            self.cursor = Cursor(subscribed.epoch, 0)
            self.phase = Phase.HELD
            return
        self.phase = Phase.STREAMING
        if subscribed.recovered and self.cursor is not None:
            self.cursor = Cursor(subscribed.epoch, self.cursor.seq)
            if subscribed.verdict == "ended" and self.cursor.seq >= subscribed.seq:
                self.phase = Phase.ENDED  # its end was seen before

    def _transition(self, transition: Transition) -> Change | None:
        seen = self.cursor.seq if self.cursor is not None else 0
        if transition.seq <= seen:
            self._drop(transition)
            return None
        if transition.seq != seen + 1:
            self.gaps += 1
            self.phase = Phase.NEEDED
            return None
        return self._accept(transition)

    def _snapshot(self, snapshot: Snapshot) -> Change | None:
        before, jump, self._jump = self.cursor, self._jump, None
        if jump is not None:
            return self._accept(Jumped(origin=jump[0] or before, reason=jump[1], snapshot=snapshot))
        if before is None:
            return self._accept(snapshot)
        if snapshot.cursor.epoch == before.epoch:
            if snapshot.seq <= before.seq:
                self._drop(snapshot)
                return None
            if self.mode == "latest":
                return self._accept(snapshot)
        return self._accept(Jumped(origin=before, reason="unannounced", snapshot=snapshot))

    def _drop(self, known: Snapshot | Transition) -> None:
        if known.status.terminal:
            self.phase = Phase.ENDED

    def _heard(self, liveness: Liveness, beat_age_ms: int | None = None) -> None:
        self.worker = WorkerLiveness(task_id=self.task_id, liveness=liveness, beat_age_ms=beat_age_ms)

    def _accept(self, change: Change) -> Change:
        if isinstance(change, Transition):
            if change.cancel is None or change.cancel.stage != "recorded":  # that is a client's word, not the worker's
                self._heard(Liveness.LOST if change.status is Status.LOST else Liveness.LIVE)
        else:
            shown = change.snapshot if isinstance(change, Jumped) else change
            self._heard(shown.liveness or Liveness.LIVE, shown.beat_age_ms)
        self.cursor = change.cursor
        self.phase = Phase.ENDED if change.status.terminal else Phase.STREAMING
        return change
