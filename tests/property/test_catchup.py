"""The joining of replay and live delivery, under every interleaving of small scopes and many of large ones.

The world around a `Catchup`: a ledger that grows; a hub that offers any committed event at any time, any number of
times, in any order, or never; reads that ask for the head and then for a page, each at any time, with pages cut
anywhere; an outbox from which any unsent tail may be dropped. What the peer has taken must be after+1, after+2, … at
all times, and when nothing is under way any more it must reach the head. Planted faults show that this would notice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.protocol.catchup import Catchup


class Commit(int):
    """A committed event: nothing but its sequence."""

    @property
    def seq(self) -> int:
        """Its place in the task."""
        return int(self)


class Violation(Exception):
    """The stream is not what it must be."""


class World(NamedTuple):
    """One moment, as a value: of the catchup its slots, of everything else what can still matter."""

    catchup: tuple[Any, ...]
    head: int
    offered: int
    """The events offered at least once, as bits."""
    read: tuple[int | None, ...]
    """() when no read is under way, (after,), (after, head known), (after, head known, page read up to)."""
    taken: int
    """The peer has taken up to here …"""
    given: int
    """… and this was given out: what is between waits in the outbox."""


SLOTS: Final = Catchup.__slots__
BUFFERED_EVENTS: Final = 2
"""A buffer so small that small worlds overflow it."""
Kind = type[Catchup[Commit]]


def frozen(of: Catchup[Commit]) -> tuple[Any, ...]:
    """A catchup as a value."""
    values = (getattr(of, name) for name in SLOTS)
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def thawed(kind: Kind, values: tuple[Any, ...]) -> Catchup[Commit]:
    """A catchup as it was."""
    made = kind.__new__(kind)
    for name, value in zip(SLOTS, values, strict=True):
        setattr(made, name, list(value) if isinstance(value, tuple) else value)
    return made


class Explorer:
    """Visits every world that can be reached, and looks at each.

    With `lossy` the hub may never offer an event; then the regular re-read of watched tasks, which is the hub's, brings
    the newest one. Without it every event is offered at least once, and nothing else must be needed.
    """

    def __init__(self, kind: Kind, *, commits: int, after: int | None, lossy: bool) -> None:
        self.kind = kind
        self.commits = commits
        self.start = after or 0
        self.snapshot_first = after is None
        self.lossy = lossy
        self.seen: set[World] = set()
        self.did: Counter[str] = Counter()

    def explore(self) -> None:
        """Depth first, each world once."""
        first = World(
            frozen(self.kind(self.start, buffered_events=BUFFERED_EVENTS)), self.start, 0, (), self.start, self.start
        )
        to_visit = [first]
        self.seen.add(first)
        while to_visit:
            world = to_visit.pop()
            self.look_at(world)
            for then in self.steps(world):
                if then not in self.seen:
                    self.seen.add(then)
                    to_visit.append(then)

    def steps(self, world: World) -> Iterator[World]:
        """All that can happen next."""
        if world.head < self.commits:
            yield world._replace(head=world.head + 1)
        for seq in range(1, world.head + 1):
            yield self.offer(world, seq)
        if world.taken < world.given:
            yield world._replace(taken=world.taken + 1)
            for seq in range(world.taken + 1, world.given + 1):
                yield self.drop(world, seq)
        if world.read:
            yield self.fail(world)
            if len(world.read) == 3:
                yield self.finish(world)
            else:
                yield from self.read_on(world)
        elif self.now(world).due:
            yield self.begin(world)

    def now(self, world: World) -> Catchup[Commit]:
        """The catchup of this world, to work with."""
        return thawed(self.kind, world.catchup)

    def then(self, world: World, of: Catchup[Commit], out: Sequence[Commit], **changed: Any) -> World:
        """The world after a catchup gave something out."""
        given = world.given
        for event in out:
            if event.seq != given + 1:
                raise Violation(f"after {given} came {event.seq} in {world}")
            given += 1
        if given > world.head:
            raise Violation(f"{given} was given out before it was committed in {world}")
        return world._replace(catchup=frozen(of), given=given, **changed)

    def offer(self, world: World, seq: int) -> World:
        """The hub brings an event."""
        self.did["offer"] += 1
        of = self.now(world)
        return self.then(world, of, of.offer(Commit(seq)), offered=world.offered | 1 << seq)

    def begin(self, world: World) -> World:
        """A read is asked for."""
        of = self.now(world)
        of.begin_read()
        wants_snapshot = self.snapshot_first and world.given == 0
        return world._replace(catchup=frozen(of), read=(None if wants_snapshot else of.delivered,))

    def read_on(self, world: World) -> Iterator[World]:
        """A statement of the read is answered, seeing the ledger of this moment."""
        after = world.read[0]
        if after is None:  # a snapshot is one statement
            yield world._replace(read=(None, world.head, world.head))
        elif len(world.read) == 1:
            yield world._replace(read=(after, world.head))
        else:
            for upto in range(min(after + 1, world.head), max(after, world.head) + 1):
                yield world._replace(read=(*world.read, max(upto, after)))

    def finish(self, world: World) -> World:
        """The read has come back; it counts only if nobody has given it up."""
        self.did["finish"] += 1
        after, known, upto = world.read
        assert known is not None
        assert upto is not None
        of = self.now(world)
        if not of.reading:
            self.did["given up"] += 1
            return world._replace(read=())
        if after is None:
            if known == 0:
                return self.then(world, of, of.join((), 0), read=())
            of.restart(known)
            world = world._replace(taken=known, given=known)
            return self.then(world, of, of.join((), known), read=())
        out = of.join([Commit(seq) for seq in range(after + 1, upto + 1)], known)
        if not out and of.delivered < known:
            raise Violation(f"the ledger is said not to have what it has in {world}")
        return self.then(world, of, out, read=())

    def fail(self, world: World) -> World:
        """The ledger could not be read."""
        self.did["fail"] += 1
        of = self.now(world)
        if of.reading:
            of.fail_read()
        return world._replace(catchup=frozen(of), read=())

    def drop(self, world: World, seq: int) -> World:
        """The outbox had no room: what waits in it from here on is gone."""
        self.did["drop"] += 1
        of = self.now(world)
        of.rewind(seq)
        return world._replace(catchup=frozen(of), given=seq - 1)

    def look_at(self, world: World) -> None:
        """When nothing is under way, the head has been reached, or the next hint will lead there."""
        if world.read:
            return
        of = self.now(world)
        all_offered = world.offered >> 1 == (1 << world.head) - 1
        if of.due:
            self.did["due"] += 1
            if all_offered:
                self.serve(world)
            return
        self.did["quiet"] += 1
        if self.lossy and world.head > 0:
            hinted = self.offer(world, world.head)
            if hinted.given != world.head and not self.now(hinted).due:
                raise Violation(f"a hint does not lead to the head in {world}")
        elif not self.lossy and all_offered and world.given != world.head:
            raise Violation(f"nothing is under way and the head is not reached in {world}")

    def serve(self, world: World) -> None:
        """Serve reads, a row a page, and nothing else: it ends, at the head."""
        self.did["served"] += 1
        for _ in range(self.commits + 3):
            if not self.now(world).due:
                break
            world = self.begin(world)
            while len(world.read) < 3:
                world = next(self.read_on(world))
            world = self.finish(world)
        if self.now(world).due or world.given != world.head:
            raise Violation(f"served reads do not lead to the head: {world}")


SCOPES: Final = [
    pytest.param(0, 5, False, id="from the beginning, every event offered"),
    pytest.param(0, 4, True, id="from the beginning, events lost"),
    pytest.param(1, 4, True, id="from a cursor, events lost"),
    pytest.param(None, 4, False, id="from a snapshot, every event offered"),
    pytest.param(None, 4, True, id="from a snapshot, events lost"),
]


@pytest.mark.parametrize(("after", "commits", "lossy"), SCOPES)
def test_every_interleaving_gives_each_event_once_in_order(after: int | None, commits: int, lossy: bool) -> None:
    """All worlds that can be reached: what is given out is after+1 … head, once each, and the head is reached."""
    explorer = Explorer(Catchup, commits=commits, after=after, lossy=lossy)
    explorer.explore()
    print(f"{len(explorer.seen)} worlds, {dict(explorer.did)}")  # noqa: T201 - what was done, shown with a failure
    assert len(explorer.seen) > 1_000


class DuplicatesForwarded(Catchup[Commit]):
    """Fault: what comes twice is not dropped by its sequence."""

    def offer(self, event: Commit) -> Sequence[Commit]:
        """A live event."""
        if not self.due and not self.reading and event.seq <= self.delivered:
            return (event,)
        return super().offer(event)


class GapForwarded(Catchup[Commit]):
    """Fault: what lies behind a gap is given out."""

    def offer(self, event: Commit) -> Sequence[Commit]:
        """A live event."""
        if not self.due and not self.reading and event.seq > self.delivered:
            self.delivered = event.seq
            return (event,)
        return super().offer(event)


class ReadBeforeWatching(Catchup[Commit]):
    """Fault: live events are not kept while the ledger is read."""

    def offer(self, event: Commit) -> Sequence[Commit]:
        """A live event."""
        return () if self.reading else super().offer(event)


class KeptWithoutFilter(Catchup[Commit]):
    """Fault: what was kept is given out behind what was read, whether it was read or not."""

    def join(self, replayed: Sequence[Commit], head: int) -> Sequence[Commit]:
        """The read has come back."""
        out = [*replayed, *self._buffer]
        self.delivered = max([self.delivered, *out])
        self._end_read(head)
        return out


class ReplayOneTooLate(Catchup[Commit]):
    """Fault: the read begins behind the next event."""

    def begin_read(self) -> None:
        """A read begins."""
        super().begin_read()
        self.delivered += 1


class ReplayOneTooEarly(Catchup[Commit]):
    """Fault: the read begins with the last event that was given out."""

    def begin_read(self) -> None:
        """A read begins."""
        super().begin_read()
        self.delivered = max(self.delivered - 1, 0)


class OverflowNotNoticed(Catchup[Commit]):
    """Fault: what does not fit into the buffer is let go."""

    def offer(self, event: Commit) -> Sequence[Commit]:
        """A live event."""
        if self.reading and len(self._buffer) >= self._buffered_events:
            return ()
        return super().offer(event)


class OverflowNeverForgotten(Catchup[Commit]):
    """Fault: once it was too much, it is read again for ever."""

    def begin_read(self) -> None:
        """A read begins."""
        overflowed = self._overflowed
        super().begin_read()
        self._overflowed = overflowed


class PageTakenForAll(Catchup[Commit]):
    """Fault: a page that was cut is taken for everything."""

    def join(self, replayed: Sequence[Commit], head: int) -> Sequence[Commit]:
        """The read has come back."""
        return super().join(replayed, 0)


class KeptGapForgotten(Catchup[Commit]):
    """Fault: a gap in what was kept is not read."""

    def join(self, replayed: Sequence[Commit], head: int) -> Sequence[Commit]:
        """The read has come back."""
        out = super().join(replayed, head)
        self.due = self.delivered < head
        return out


class FailureForgotten(Catchup[Commit]):
    """Fault: a read that failed is not done again."""

    def fail_read(self) -> None:
        """The read did not succeed."""
        super().fail_read()
        self.due = False


class DropForgotten(Catchup[Commit]):
    """Fault: what the outbox dropped is taken for sent."""

    def rewind(self, seq: int) -> None:
        """Frames were dropped."""


class RewindOneTooShort(Catchup[Commit]):
    """Fault: the first frame that was dropped is taken for sent."""

    def rewind(self, seq: int) -> None:
        """Frames were dropped."""
        super().rewind(seq + 1)
        self.due = True


class RewindBeforeTheBeginning(Catchup[Commit]):
    """Fault: a rewind goes back to before where the subscription began."""

    def rewind(self, seq: int) -> None:
        """Frames were dropped."""
        super().rewind(seq)
        self.delivered = 0


FAULTS: Final[list[Kind]] = [
    DuplicatesForwarded,
    GapForwarded,
    ReadBeforeWatching,
    KeptWithoutFilter,
    ReplayOneTooLate,
    ReplayOneTooEarly,
    OverflowNotNoticed,
    OverflowNeverForgotten,
    PageTakenForAll,
    KeptGapForgotten,
    FailureForgotten,
    DropForgotten,
    RewindOneTooShort,
    RewindBeforeTheBeginning,
]


@pytest.mark.parametrize("faulty", FAULTS)
def test_a_planted_fault_is_found(faulty: Kind) -> None:
    """The check above is not empty: each fault that a catchup could have breaks it, in a world of four commits."""
    with pytest.raises(Violation):
        Explorer(faulty, commits=4, after=1, lossy=False).explore()


class Storm:
    """One long life of a subscription at full size: hundreds of commits, a hub with moods, a slow ledger."""

    def __init__(self, random: Random, kind: Kind = Catchup, *, after: int = 0, lossy: bool = True) -> None:
        self.random = random
        self.lossy = lossy
        self.of = kind(after)
        self.after = after
        self.head = after
        self.outbox: list[int] = []
        self.taken: list[int] = []
        self.read: list[int] = []
        self.did: Counter[str] = Counter()

    def blow(self, moods: int) -> None:
        """Moods one after the other, then calm; the peer must have taken everything, once, in order."""
        for _ in range(moods):
            lossy = self.random.choice((0, 0, 0.1)) if self.lossy else 0
            speed = self.random.choice((0.0, 0.0, 0.02, 0.2, 1.0))
            for _ in range(self.random.randint(1, 600)):
                self.commit(lossy)
                if self.random.random() < speed:
                    self.work()
        for _ in range(10 * (self.head + 10)):
            if not self.read and not self.of.due and len(self.taken) + self.after == self.head:
                break
            if not self.read and not self.of.due and self.lossy:
                self.give(self.of.offer(Commit(self.head)))  # the regular re-read
            self.work()
        if self.taken != [*range(self.after + 1, self.head + 1)]:
            raise Violation(f"of {self.after + 1}..{self.head} the peer has {self.taken[:10]}…{self.taken[-10:]}")

    def commit(self, lossy: float) -> None:
        """One more; the hub offers it, or not, or with an older one after it."""
        self.head += 1
        if self.random.random() >= lossy:
            self.give(self.of.offer(Commit(self.head)))
        if self.random.random() < lossy:
            self.give(self.of.offer(Commit(self.random.randint(1, self.head))))

    def work(self) -> None:
        """Something of what can happen beside the commits."""
        self.did["overflows"] += self.of._overflowed
        match self.random.choice(("read", "read", "take", "drop")):
            case "take":
                sent = self.random.randint(0, len(self.outbox))
                self.taken += self.outbox[:sent]
                del self.outbox[:sent]
            case "drop" if len(self.outbox) > 20:
                cut = self.random.randrange(len(self.outbox))
                self.of.rewind(self.outbox[cut])
                del self.outbox[cut:]
                self.did["drops"] += 1
            case "read" if self.read:
                self.answer()
            case "read" if self.of.due:
                self.of.begin_read()
                self.read = [self.of.delivered]

    def answer(self) -> None:
        """The read goes on: first the head, then a page, then both come back."""
        if len(self.read) == 1:
            self.read.append(self.head)
            return
        if len(self.read) == 2:
            self.read.append(min(self.head, self.read[0] + self.random.randint(1, 128)))
            return
        (after, known, upto), self.read = self.read, []
        if not self.of.reading:
            return
        if self.random.random() < 0.05:
            self.of.fail_read()
            return
        self.did["reads"] += 1
        self.give(self.of.join([Commit(seq) for seq in range(after + 1, upto + 1)], known))

    def give(self, events: Sequence[Commit]) -> None:
        """Into the outbox."""
        self.outbox += [event.seq for event in events]


def test_long_lives_at_full_size_lose_and_repeat_nothing() -> None:
    """A hub that may lose events, buffers that overflow, outboxes that drop: after+1 … head, once each, in order."""
    did: Counter[str] = Counter()

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 3), st.booleans())
    def lives(number: int, moods: int, after: int, lossy: bool) -> None:
        storm = Storm(Random(number), after=after, lossy=lossy)
        storm.blow(moods)
        did.update(storm.did)

    lives()
    print(dict(did))  # noqa: T201 - what was done, shown with a failure
    assert min(did[kind] for kind in ("reads", "drops", "overflows")) >= 10


@pytest.mark.parametrize(
    ("faulty", "lossy"),
    [(ReadBeforeWatching, False), (GapForwarded, True), (DropForgotten, False), (RewindOneTooShort, False)],
)
def test_long_lives_find_faults_too(faulty: Kind, lossy: bool, seed: int) -> None:
    """The same at full size: a fault shows within some lives, the rarest in one of fifty."""
    with pytest.raises(Violation):
        for number in range(1_500):
            Storm(Random(seed + number), faulty, lossy=lossy).blow(6)
