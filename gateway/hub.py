"""Who watches what on this node, and that none of them misses anything.

The writer tells the hub of this node's commits; hints (of other nodes, of repeats) and the regular re-read of watched
tasks tell it that the ledger has more. The hub forwards a task's transitions in sequence, each encoded once for all
watchers, and never forwards over a gap: it reads the missing ones from the ledger first, once for all watchers.

It keeps no history: what a watcher missed before it came is read by its own session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import structlog

from gateway.bus.port import Bus, Hint
from gateway.protocol.burst import Burst, bursts
from gateway.protocol.codec import transition_frame
from gateway.protocol.effects import Event
from ledger.epoch import Loss
from ledger.errors import LedgerError
from ledger.machine import TERMINAL, Liveness
from ledger.model import Head, Key, Transition
from ledger.reader import Reader

log = structlog.get_logger(__name__)

REREAD_SECONDS: Final = 1.0
"""How late a lost hint may make a watcher; the promise is 2 s, the read itself takes its share."""
TASKS_PER_READ: Final = 1_000
STOPPING: Final = "stopping"
"""A notice for whoever waits on this node, never sent to a client: the node goes."""
BEGUN_ANEW: Final = "begun_anew"
"""The same: the ledger's history is another one, and what was sent is no beginning of it."""
_NO_TASK: Final = "0" * 32


class Watcher(Protocol):
    """A connection, as the hub sees it. Must not wait or fail."""

    def deliver(self, burst: Burst) -> None:
        """Transitions of one watched task, in order."""

    def see(self, key: Key, head: Head) -> None:
        """The worker of a watched task is late, or no longer."""

    def notice(self, kind: str) -> None:
        """The ledger cannot be reached (`degraded`), can again (`restored`), has another history (`BEGUN_ANEW`), or the
        node goes (`STOPPING`).
        """


class _Topic:
    __slots__ = ("ended", "known", "late", "seq", "watchers")

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self.seq: int | None = None  # forwarded up to here; None until somebody has read the task
        self.known = 0  # the ledger has at least so much
        self.ended = False
        self.late = False  # the worker was, when the ledger was looked at last


class Hub:
    """One per node. All methods but `run` return at once."""

    def __init__(self, reader: Reader, bus: Bus) -> None:
        self._reader = reader
        self._history = reader.of_history
        self._history.listen(self.begin_anew)
        self._bus = bus
        self._topics: dict[Key, _Topic] = {}
        self._everyone: set[Watcher] = set()
        self._behind: dict[Key, None] = {}
        self._wake = asyncio.Event()
        self.degraded = False
        """Whether the last re-read failed."""

    @property
    def topics(self) -> int:
        """Tasks watched on this node."""
        return len(self._topics)

    @property
    def connections(self) -> int:
        """How many there are on this node: asked for each that comes, so nothing is copied."""
        return len(self._everyone)

    @property
    def everyone(self) -> frozenset[Watcher]:
        """The connections of this node."""
        return frozenset(self._everyone)

    def join(self, watcher: Watcher) -> None:
        """A connection begins; it hears notices."""
        self._everyone.add(watcher)

    def leave(self, watcher: Watcher) -> None:
        """A connection has ended; call `unwatch` for what it watched."""
        self._everyone.discard(watcher)

    def watch(self, key: Key, watcher: Watcher) -> None:
        """From now on the watcher gets what is forwarded of this task."""
        self._topics.setdefault(key, _Topic()).watchers.add(watcher)

    def unwatch(self, key: Key, watcher: Watcher) -> None:
        """No longer."""
        topic = self._topics.get(key)
        if topic is not None:
            topic.watchers.discard(watcher)
            if not topic.watchers:
                del self._topics[key]
                self._behind.pop(key, None)

    def seen(self, key: Key, head: Head | None) -> None:
        """A watcher has read the task up to here (None: nobody has heard of it)."""
        topic = self._topics.get(key)
        if topic is None:
            return
        if topic.seq is None:
            topic.seq = 0 if head is None else head.seq
        if head is not None:
            topic.ended = topic.ended or head.ended
            self._compare_one(key, topic, head)

    # From the writer

    def watches(self, key: Key) -> bool:
        """Whether anybody here watches this task."""
        return key in self._topics

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[Key, int]]) -> None:
        """These are in the ledger now: forward them here, announce how far the tasks came to the other nodes."""
        for key, group in _by_task(transitions):
            topic = self._topics.get(key)
            if topic is not None:
                self._forward(key, topic, group)
        self._bus.announce(heads)

    def reached(self, key: Key, seq: int) -> None:
        """A task has come at least so far; what happened in between may not have been seen here."""
        topic = self._topics.get(key)
        if topic is not None and topic.seq is not None and seq > topic.seq:
            self._lags(key, topic, seq)

    def hinted(self, hint: Hint) -> None:
        """The same, from another node."""
        self.reached(hint.key, hint.seq)

    # From the ledger

    def begin_anew(self) -> None:
        """The history is another one: forget what was forwarded, and tell everyone."""
        log.warning("sessions_ended_by_epoch", connections=len(self._everyone), topics=len(self._topics))
        self._topics.clear()
        self._behind.clear()
        for watcher in list(self._everyone):
            watcher.notice(BEGUN_ANEW)

    async def run(self) -> None:
        """Re-read watched tasks regularly, and at once where something is known to be missing. Ends when cancelled."""
        loop = asyncio.get_running_loop()
        next_reread = loop.time() + REREAD_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(next_reread):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                if loop.time() >= next_reread:
                    next_reread = loop.time() + REREAD_SECONDS
                    await self._compare()
                while self._behind and loop.time() < next_reread:
                    await self._fill()
                if self._behind:
                    self._wake.set()  # the re-read comes first, then on with these
            except LedgerError as error:
                self._set_degraded(True, error.reason)
            except Exception:
                log.exception("hub_fault")
            else:
                continue
            await asyncio.sleep(REREAD_SECONDS / 4)  # a failing ledger is not asked in a tight loop

    async def _compare(self) -> None:
        """Ask the ledger how far the watched, unfinished tasks have come, and whether its history is still the same."""
        epoch = self._history.epoch
        forwarded = {key: topic.seq for key, topic in self._topics.items() if not topic.ended and topic.seq is not None}
        for some in _slices([*forwarded] or [_NO_TASK], TASKS_PER_READ):
            heads = await self._reader.heads(some)
            if self._history.epoch != epoch:
                break
            for key in some:
                known, found = forwarded.get(key, 0), heads[key].seq if key in heads else 0
                if found < known:  # it was committed before it was asked for
                    await self._reader.rewound(Loss(key, known, found))
                if (topic := self._topics.get(key)) is not None and key in heads:
                    self._compare_one(key, topic, heads[key])
        self._set_degraded(False)

    async def _fill(self) -> None:
        """Read and forward a page of what is missing."""
        cursors = []
        for key in list(self._behind)[:TASKS_PER_READ]:
            del self._behind[key]
            topic = self._topics.get(key)
            if topic is not None and topic.seq is not None and topic.known > topic.seq:
                cursors.append((key, topic.seq))
        if not cursors:
            return
        epoch = self._history.epoch
        try:
            page = await self._reader.replay(cursors)
        except LedgerError:
            self._behind.update(dict.fromkeys(key for key, _ in cursors))
            raise
        if self._history.epoch != epoch:
            return  # the cursors are of another history
        for key, missing in _by_task(page):
            topic = self._topics.get(key)
            if topic is None or topic.seq is None:
                continue
            if missing[0].seq > topic.seq + 1:
                # Forward behind the hole: each session sees it, looks itself, and tells its client.
                log.error("ledger_hole", task_id=missing[0].task_id, after=topic.seq, found=missing[0].seq)
                topic.seq = missing[0].seq - 1
            self._forward(key, topic, missing)
        served = {transition.key for transition in page}
        for place, (key, _) in enumerate(cursors):
            topic = self._topics.get(key)
            if topic is None or topic.seq is None or topic.known <= topic.seq:
                continue
            if page and (key in served or place > 0):
                self._behind[key] = None  # the page was full
            else:
                topic.known = topic.seq  # the ledger has no more: the hint was wrong

    def _forward(self, key: Key, topic: _Topic, transitions: Iterable[Transition]) -> None:
        events: list[Event] = []
        for transition in transitions:
            if topic.seq is not None:
                if transition.seq <= topic.seq:
                    continue
                if transition.seq > topic.seq + 1:
                    self._lags(key, topic, transition.seq)
                    break
                topic.seq = transition.seq
            topic.ended = topic.ended or transition.status in TERMINAL
            event = Event(transition, transition_frame(transition))
            topic.late = topic.late and not event.shows_life  # each watcher sees that for itself
            events.append(event)
        if events:
            for burst in bursts(events):
                for watcher in list(topic.watchers):
                    watcher.deliver(burst)

    def _compare_one(self, key: Key, topic: _Topic, head: Head) -> None:
        """So far has a task come, says the ledger: is there more, and is it news how the worker is?"""
        if topic.seq is not None and head.seq > topic.seq:
            self._lags(key, topic, head.seq)
        late = head.liveness is Liveness.LATE
        if late is not topic.late and head.seq >= (topic.seq or 0):  # else something has come since it was read
            topic.late = late
            for watcher in list(topic.watchers):
                watcher.see(key, head)

    def _lags(self, key: Key, topic: _Topic, seq: int) -> None:
        topic.known = max(topic.known, seq)
        self._behind[key] = None
        self._wake.set()

    def _set_degraded(self, degraded: bool, reason: str = "") -> None:
        if degraded is self.degraded:
            return
        self.degraded = degraded
        kind = "degraded" if degraded else "restored"
        log.warning("ledger_state", state=kind, reason=reason)
        for watcher in list(self._everyone):
            watcher.notice(kind)


def _by_task(transitions: Iterable[Transition]) -> Iterator[tuple[Key, list[Transition]]]:
    """Those of one task stand together."""
    some: list[Transition] = []
    for transition in transitions:
        if some and some[0].key != transition.key:
            yield some[0].key, some
            some = []
        some.append(transition)
    if some:
        yield some[0].key, some


def _slices(keys: Sequence[Key], size: int) -> Iterable[Sequence[Key]]:
    return (keys[i : i + size] for i in range(0, len(keys), size))
