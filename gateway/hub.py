"""Who watches what on this node, and that none of them misses anything.

The writer tells the hub of this node's commits; hints (of other nodes, of repeats) and the regular re-read of watched
tasks tell it that the ledger has more. The hub forwards a task's transitions in sequence, each encoded once for all
watchers, and never forwards over a gap: it reads the missing ones from the ledger first, once for all watchers.

It keeps no history: what a watcher missed before it came is read by its own session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import structlog

from gateway.bus import hints
from gateway.bus.announcer import Announcer
from gateway.bus.port import Bus, Hint
from gateway.counts import Counts
from gateway.protocol.burst import bursts
from gateway.protocol.codec import transition_frame
from gateway.protocol.effects import Event
from gateway.topics import BEGUN_ANEW, Topic, Watcher
from ledger.epoch import Loss
from ledger.errors import LedgerError
from ledger.machine import TERMINAL, Liveness
from ledger.model import Head, Key, Transition
from ledger.reader import Reader

log = structlog.get_logger(__name__)

REREAD_SECONDS: Final = 0.9
"""A task that moved since the last re-read is left out of this one, since what comes next shows any gap: a lost hint
makes a watcher late by two of these at most. The promise is 2 s, the read itself takes its share."""
TASKS_PER_READ: Final = 1_000
_NO_TASK: Final = "0" * 32


class Hub:
    """One per node. All methods but `run` return at once."""

    def __init__(self, reader: Reader, bus: Bus, *, reread_seconds: float = REREAD_SECONDS) -> None:
        self._reader = reader
        self._history = reader.of_history
        self._history.listen(self.begin_anew)
        self._bus = bus
        self._topics: dict[Key, Topic] = {}
        self._everyone: set[Watcher] = set()
        self._reread_seconds = reread_seconds
        self._announcer = Announcer(bus, self._history)
        self._behind: dict[Key, None] = {}
        self._unsure: dict[Key, None] = {}
        self._wake = asyncio.Event()
        self.counts = Counts()
        self.degraded = False
        """Whether the last re-read failed."""

    @property
    def topics(self) -> int:
        """Tasks watched on this node."""
        return len(self._topics)

    @property
    def subscriptions(self) -> int:
        """Watchers of all tasks together."""
        return sum(len(topic.watchers) for topic in self._topics.values())

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
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic()
            self._bus.interest(key)
        topic.watchers.add(watcher)

    def unwatch(self, key: Key, watcher: Watcher) -> None:
        """No longer."""
        topic = self._topics.get(key)
        if topic is not None:
            topic.watchers.discard(watcher)
            if not topic.watchers:
                del self._topics[key]
                self._behind.pop(key, None)
                self._bus.no_interest(key)

    def seen(self, key: Key, head: Head | None) -> None:
        """A watcher has read the task up to here (None: nobody has heard of it)."""
        topic = self._topics.get(key)
        if topic is None:
            return
        if topic.seq is None:
            topic.seq = 0 if head is None else head.seq
            if topic.known > topic.seq:
                self._lags(key, topic, topic.known)
            if topic.unsure:
                topic.unsure = False
                self.missed([key])
        if head is not None:
            topic.ended = topic.ended or head.ended
            self._compare_one(key, topic, head)

    # From the writer

    def watches(self, key: Key) -> bool:
        """Whether anybody here watches this task, or may on another node."""
        return key in self._topics or self._bus.wants_frames

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[Key, int]]) -> None:
        """These are in the ledger now: forward them here, announce how far the tasks came to the other nodes."""
        frames: dict[Key, list[bytes]] = {}
        for key, group in _by_task(transitions):
            events = [_event(transition) for transition in group]
            topic = self._topics.get(key)
            if topic is not None:
                self._forward(key, topic, events)
            if self._bus.remote:
                frames[key] = [event.frame for event in events]
        if self._bus.remote:
            self._announcer.announce(heads, frames)

    def reached(self, key: Key, seq: int) -> None:
        """A task has come at least so far; what happened in between may not have been seen here."""
        topic = self._topics.get(key)
        if topic is None:
            return
        if topic.seq is None:
            topic.known = max(topic.known, seq)  # whoever is reading it may have read less
        elif seq > topic.seq:
            self._lags(key, topic, seq)

    # From the bus

    def hinted(self, hint: Hint) -> None:
        """Another node says so. Its frames are forwarded only if they are the next ones; else the ledger is read."""
        topic = self._topics.get(hint.key)
        if topic is None or hint.epoch != self._history.epoch:
            return
        if topic.seq is not None and (events := hints.events_after(hint, topic.seq)):
            self._forward(hint.key, topic, events)
        self.reached(hint.key, hint.seq)

    def missed(self, keys: Sequence[Key] | None) -> None:
        """Hints of these tasks (None: of any) may have been lost: compare them with the ledger now."""
        for key in self._topics if keys is None else keys:
            topic = self._topics.get(key)
            if topic is not None and topic.seq is None:
                topic.unsure = True
            elif topic is not None and not topic.ended:
                self._unsure[key] = None
        self._wake.set()

    # From the ledger

    def begin_anew(self) -> None:
        """The history is another one: forget what was forwarded, and tell everyone."""
        log.warning("sessions_ended_by_epoch", connections=len(self._everyone), topics=len(self._topics))
        for key in self._topics:
            self._bus.no_interest(key)
        self.counts.epoch_changes += 1
        self._topics.clear()
        self._behind.clear()
        self._unsure.clear()
        for watcher in list(self._everyone):
            watcher.notice(BEGUN_ANEW)

    async def run(self) -> None:
        """Re-read watched tasks regularly, and at once where something is known to be missing. Ends when cancelled."""
        loop = asyncio.get_running_loop()
        next_reread = loop.time() + self._reread_seconds
        while True:
            try:
                async with asyncio.timeout_at(next_reread):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                if loop.time() >= next_reread:
                    next_reread = loop.time() + self._reread_seconds
                    self._unsure.clear()
                    await self._compare(self._at_rest())
                elif self._unsure:
                    unsure, self._unsure = self._unsure, {}
                    await self._compare(unsure)
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

    def _at_rest(self) -> list[Key]:
        """The tasks of which nothing was forwarded since the last time."""
        still = [key for key, topic in self._topics.items() if not topic.moved]
        for topic in self._topics.values():
            topic.moved = False
        return still

    async def _compare(self, keys: Iterable[Key]) -> None:
        """Ask the ledger how far these have come (if watched and unfinished), and whether its history is the same."""
        epoch = self._history.epoch
        topics = ((key, self._topics.get(key)) for key in keys)
        forwarded = {key: topic.seq for key, topic in topics if topic and not topic.ended and topic.seq is not None}
        for some in _slices([*forwarded] or [_NO_TASK], TASKS_PER_READ):
            self.counts.rereads += 1
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
        self.counts.fills += 1
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
            self._forward(key, topic, [_event(transition) for transition in missing])
        served = {transition.key for transition in page}
        for place, (key, _) in enumerate(cursors):
            topic = self._topics.get(key)
            if topic is None or topic.seq is None or topic.known <= topic.seq:
                continue
            if page and (key in served or place > 0):
                self._behind[key] = None  # the page was full
            else:
                topic.known = topic.seq  # the ledger has no more: the hint was wrong

    def _forward(self, key: Key, topic: Topic, come: Iterable[Event]) -> None:
        events = []
        for event in come:
            transition = event.transition
            if topic.seq is not None:
                if transition.seq <= topic.seq:
                    continue
                if transition.seq > topic.seq + 1:
                    self._lags(key, topic, transition.seq)
                    break
                topic.seq = transition.seq
            topic.ended = topic.ended or transition.status in TERMINAL
            topic.late = topic.late and not event.shows_life  # each watcher sees that for itself
            events.append(event)
        if events:
            topic.moved = True
            self.counts.deliveries += len(events) * len(topic.watchers)
            for burst in bursts(events):
                for watcher in list(topic.watchers):
                    try:
                        watcher.deliver(burst)
                    except Exception:
                        log.exception("watcher_fault", key=key)
                        watcher.give_up()

    def _compare_one(self, key: Key, topic: Topic, head: Head) -> None:
        """So far has a task come, says the ledger: is there more, and is it news how the worker is?"""
        if topic.seq is not None and head.seq > topic.seq:
            self._lags(key, topic, head.seq)
        late = head.liveness is Liveness.LATE
        if late is not topic.late and head.seq >= (topic.seq or 0):  # else something has come since it was read
            topic.late = late
            for watcher in list(topic.watchers):
                watcher.see(key, head)

    def _lags(self, key: Key, topic: Topic, seq: int) -> None:
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


def _event(transition: Transition) -> Event:
    return Event(transition, transition_frame(transition))


def _slices(keys: Sequence[Key], size: int) -> Iterable[Sequence[Key]]:
    return (keys[i : i + size] for i in range(0, len(keys), size))
