"""Everything around a session, on paper: the ledger it reads, the hub that brings events, the outbox, the connection.

The connection performs effects as `gateway.connection` does, a step at a time, so that a test decides what comes when:
answers late or never, events lost, doubled or out of order, reads that are cut or fail, a peer that takes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from gateway.outbox import Outbox
from gateway.protocol import codec
from gateway.protocol.burst import frames_of
from gateway.protocol.effects import (
    Authenticate,
    Beats,
    Close,
    Deliver,
    Effect,
    Event,
    Read,
    Send,
    Submit,
    Unwatch,
    Want,
    Watch,
)  # fmt: skip
from gateway.protocol.session import Session
from ledger.batch import Entry, Growth, transitions_of
from ledger.machine import TERMINAL, Liveness, Status
from ledger.model import Change, Head, Receipt, Rejection, Request, Task, advance, task_key
from ledger.receipts import receipt
from tests.property.conversation import Conversation

TENANT: Final = "tenant"
EPOCH: Final = "e-1"
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
PING_SECONDS: Final = 10.0
SILENT_MS: Final = 70_000


class PaperTasks:
    """The ledger as a session sees it: every task with every snapshot and transition that it ever had."""

    def __init__(self) -> None:
        self._talks: dict[str, Conversation] = {}
        self.snapshots: dict[str, list[Task]] = {}
        self.events: dict[str, list[Event]] = {}
        self.late: set[str] = set()
        """Tasks whose worker has been silent for longer than its lease."""
        self.late_at: dict[str, set[int]] = {}
        """And at which sequences tasks ever were like that."""
        self._requests = 0

    def commit(self, request: Request) -> Receipt | Rejection:
        """Decide a request, and append what it changes."""
        key = task_key(request.tenant, request.task_id)
        talk = self._talks.setdefault(key, Conversation())
        self._requests += 1
        decision = talk.ask(request, request.digest or f"{self._requests:032x}")
        if not isinstance(decision, Change):
            return decision
        state = decision.state
        entry = Entry(key, request, "")
        (transition,) = transitions_of(key, Growth(state.seq - 1, entry, decision), NOW)
        snapshots = self.snapshots.setdefault(key, [])
        before = snapshots[-1] if snapshots else unborn(key, state.task_id)
        snapshots.append(advance(before, transition))
        event = Event(transition, codec.transition_frame(transition))
        self.events.setdefault(key, []).append(event)
        if event.shows_life:
            self.late.discard(key)
        elif key in self.late:
            self.late_at[key].add(state.seq)
        return receipt(decision.state)

    def head(self, key: str) -> int:
        """How far a task has come; 0 when nobody has heard of it."""
        return len(self.events.get(key, ()))

    def ended(self, key: str) -> bool:
        """Whether a task is in a terminal state."""
        return self.head(key) > 0 and self.snapshots[key][-1].status in TERMINAL

    def fall_silent(self, key: str) -> None:
        """The worker's lease runs out, if somebody is at work and was ever heard of."""
        if self.head(key) and self.snapshots[key][-1].beat_age_ms is not None:
            self.late.add(key)
            self.late_at.setdefault(key, set()).add(self.head(key))

    def look(self, key: str) -> Head | None:
        """How far the task has come and how its worker is."""
        return self.snapshot(key).head if self.head(key) else None

    def snapshot(self, key: str) -> Task:
        """The newest."""
        task = self.snapshots[key][-1]
        return replace(task, liveness=Liveness.LATE, beat_age_ms=SILENT_MS) if key in self.late else task

    def answer(self, wants: Sequence[Want], heads: Mapping[str, Head | None], page_rows: int) -> list[Read]:
        """As `gateway.replay.answer`: heads first, then one page for all; those it does not reach are left out."""
        reads = []
        for want in wants:
            key = want.slot[0]
            if want.after is None:
                task = self.snapshot(key) if self.head(key) else None
                reads.append(Read(want=want, head=self.look(key), task=task))
        rows = [
            event
            for want in wants
            if want.after is not None
            for event in self.events.get(want.slot[0], ())[want.after :]
        ][:page_rows]
        last_served = rows[-1].transition.key if rows else None
        for want in wants:
            if want.after is None:
                continue
            key = want.slot[0]
            page = [event for event in rows if event.transition.key == key]
            reads.append(Read(want=want, head=heads[key], events=page))
            if key == last_served:
                break
        return reads


def unborn(key: str, task_id: str) -> Task:
    """A task before its first transition."""
    return Task(
        key=key, tenant=TENANT, task_id=task_id, kind=None, owner=None, status=Status.PENDING, seq=0, attempt=0,
        progress=None, stage=None, message=None, data=None, result=None, error=None, cancel=None, created_at=NOW,
        updated_at=NOW, deadline_at=None, beat_at=None, beat_age_ms=None, liveness=None,
    )  # fmt: skip


class PaperConnection:
    """A session with its outbox, and what it has asked for."""

    def __init__(self, tasks: PaperTasks, *, ping_phase: float = 0.5, now: float = 1_000.0) -> None:
        self.tasks = tasks
        self.session = Session(
            session_id="s-1", epoch=EPOCH, ping_interval_seconds=PING_SECONDS, ping_phase=ping_phase, server_time=NOW,
            now=now,
        )  # fmt: skip
        self.outbox = Outbox(max_frames=4, max_bytes=1_500)
        self.watched: set[str] = set()
        self.asking: Authenticate | None = None
        self._behind_asking: Iterator[Effect] = iter(())
        self.submits: list[Submit] = []
        self.beats = 0
        self.closed = False
        self.live: dict[str, list[Event]] = {}
        """Events of watched tasks on their way from the hub."""
        self.wants: list[Want] = []
        """What the read under way is for."""
        self.looks: dict[str, Head] = {}
        """What the hub has seen of tasks and not told yet."""
        self.heads: dict[str, Head | None] = {}
        self.did: Counter[str] = Counter()

    def perform(self, effects: Iterable[Effect]) -> None:
        """Effects in order, not looking at one before the last is done; behind a question they wait for its answer."""
        waiting = iter(effects)
        for effect in waiting:
            assert not self.closed or isinstance(effect, Unwatch), f"after bye: {effect}"
            match effect:
                case Authenticate():
                    assert self.asking is None
                    self.asking, self._behind_asking = effect, waiting
                    return
                case Deliver():
                    for slot, seq in self.outbox.offer(
                        effect.slot, effect.seq, effect.frame, replaces=effect.replaces
                    ).items():
                        self.did["dropped"] += 1
                        self.session.rewind(slot, seq)
                case Send():
                    self.outbox.put(effect.frame)
                case Submit():
                    self.submits.append(effect)
                case Watch():
                    assert effect.key not in self.watched
                    self.watched.add(effect.key)
                case Unwatch():
                    self.watched.remove(effect.key)
                    self.live.pop(effect.key, None)
                case Beats():
                    self.beats += len(effect.held)
                case Close():
                    self.closed = True

    def identified(self, effects: Sequence[Effect]) -> None:
        """The question of identity is answered: go on."""
        self.asking = None
        behind, self._behind_asking = self._behind_asking, iter(())
        self.perform(effects)
        self.perform(behind)

    def commit(self, request: Request) -> Receipt | Rejection:
        """By whomever: the hub has the event for those who watch."""
        key = task_key(request.tenant, request.task_id)
        before = self.tasks.head(key)
        answer = self.tasks.commit(request)
        if key in self.watched and self.tasks.head(key) > before:
            self.live.setdefault(key, []).append(self.tasks.events[key][-1])
        return answer

    def deliver(self, events: Sequence[Event]) -> None:
        """The hub brings events of a task that is watched."""
        assert events[0].transition.key in self.watched
        self.perform(self.session.deliver(events))

    def hint(self, key: str) -> None:
        """The regular re-read of watched tasks brings the newest event, if nothing else has."""
        if key in self.watched and self.tasks.head(key):
            self.deliver(self.tasks.events[key][-1:])

    def hub_looks(self, key: str) -> None:
        """The regular re-read sees how a worker is."""
        if key in self.watched and (head := self.tasks.look(key)) is not None:
            self.looks[key] = head

    def hub_tells(self) -> None:
        """And says so, perhaps after something newer has come."""
        for key in self.looks.keys() & self.watched:
            self.session.see(key, self.looks[key])
        self.looks.clear()
        self.wake()

    def wake(self) -> None:
        """As `gateway.connection`: with nothing left to send, the session may speak of itself."""
        if not len(self.outbox) and not self.closed:
            assert bool(self.session.has_words) is bool(self._drain())

    def _drain(self) -> list[Effect]:
        effects = self.session.drained()
        self.perform(effects)
        return [effect for effect in effects if isinstance(effect, Send)]

    @property
    def may_read(self) -> bool:
        """As `gateway.connection`: one read at a time, and none while something waits to be sent."""
        return not self.wants and not len(self.outbox) and self.session.has_due_reads

    def begin_read(self) -> None:
        """Find out what to read."""
        self.wants = self.session.subscriptions.due_reads()
        assert self.wants
        self.heads = {}

    def read_heads(self) -> None:
        """The first statement of the read."""
        self.heads = {want.slot[0]: self.tasks.look(want.slot[0]) for want in self.wants}

    def answer_read(self, page_rows: int) -> None:
        """The second one, and both come back."""
        if not self.heads:
            self.read_heads()
        wants, self.wants = self.wants, []
        reads = self.tasks.answer(wants, self.heads, page_rows)
        self.perform(self.session.read(reads))
        served = {read.want.slot for read in reads}
        left_out = [want for want in wants if want.slot not in served]
        self.did["left out"] += len(left_out)
        self.session.read_failed(left_out)

    def fail_read(self) -> None:
        """The ledger could not be read."""
        wants, self.wants = self.wants, []
        self.session.read_failed(wants)

    def take(self, max_bytes: int) -> list[bytes]:
        """The peer takes something; when nothing is left, subscriptions of ended tasks end."""
        frames = list(frames_of(self.outbox.take(max_bytes)))
        if not len(self.outbox):
            self._drain()
        return frames
