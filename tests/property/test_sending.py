"""The fast path beside the slow one: a connection that is given bursts, in any weather, ends with the ledger's streams.

Commits of several transitions, answers in between, a peer that takes nothing for a while, reads of the ledger that end
in the middle of a commit: whichever way a burst takes, whole or event by event, at once or through the outbox.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import pytest

from gateway.protocol.burst import Piece, bursts, frames_of
from gateway.protocol.effects import Event, Slot
from gateway.protocol.errors import Bye
from gateway.protocol.subscriptions import Subscriptions
from gateway.sending import Sending
from ledger.model import CancelRequest, Report, task_key
from tests.property.paper_gateway import EPOCH, PaperConnection, PaperTasks
from tests.support.principals import somebody

TASKS: Final = ("a", "b", "c")


class PaperTransport:
    """A peer that takes what it likes: all at once, or nothing until it is told to."""

    one_way = False

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.writes = 0
        self.takes = True
        self.waiting = 0

    def write(self, pieces: Sequence[Piece]) -> bool:
        assert self.waiting == 0, "written before it was drained"
        self.writes += 1
        frames = list(frames_of(pieces))
        self.got += frames
        if not self.takes:
            self.waiting = sum(len(frame) for frame in frames)
        return not self.waiting

    async def drained(self) -> None:
        raise AssertionError("the test says when it is drained")

    def unsent(self) -> int:
        return self.waiting

    async def close(self, bye: Bye) -> None:
        await asyncio.sleep(0)

    def abort(self) -> None:
        raise AssertionError("nobody is cut here")


class Box(Sending):
    """The sending of a connection in the place of the outbox that `PaperConnection` has; notes what it takes in."""

    def __init__(self, transport: PaperTransport) -> None:
        super().__init__(transport)
        self.fast = self.slow = 0
        self.taken_in: list[bytes] = []

    def put(self, frame: bytes) -> None:
        """An answer."""
        super().put(frame)
        self.taken_in.append(frame)

    def offer(self, slot: Slot, seq: int, piece: Piece, *, replaces: bool = False) -> dict[Slot, int]:
        """A frame of a subscription, or a burst."""
        lost = self.take_in(slot, seq, piece, replaces=replaces)
        if not lost:
            self.taken_in += frames_of([piece])
        return lost

    def take_in(self, slot: Slot, seq: int, piece: Piece, *, replaces: bool) -> dict[Slot, int]:
        """Without a note."""
        return super().offer(slot, seq, piece, replaces=replaces)


class FastConnection(PaperConnection):
    """Bursts are given to `Sending` whole where the session lets them pass, as `gateway.connection` does it."""

    def __init__(self, tasks: PaperTasks, box: type[Box], subscriptions: type[Subscriptions]) -> None:
        super().__init__(tasks)
        self.session.subscriptions = subscriptions(EPOCH)
        self.transport = PaperTransport()
        self.box = box(self.transport)
        self.outbox = self.box  # type: ignore[assignment] # the same methods, as far as they are called

    def deliver(self, events: Sequence[Event]) -> None:
        for burst in bursts(events):
            if burst.plain and self.session.subscriptions.passes(burst):
                self.box.fast += 1
                for slot, seq in self.box.offer(burst.slot, burst.first, burst).items():
                    self.did["dropped"] += 1
                    self.session.rewind(slot, seq)
            else:
                self.box.slow += 1
                self.perform(self.session.deliver(burst.events))

    def turn_ends(self) -> None:
        """Written as one, and on with what waits for that."""
        if self.box.flush():
            self._drain()

    def drained(self) -> None:
        """The peer has taken what it had not."""
        self.transport.waiting = 0
        if self.box.go_on():
            self._drain()


class Weather:
    """One life of a fast connection, checked against the ledger at its end."""

    def __init__(self, random: Random, box: type[Box], subscriptions: type[Subscriptions]) -> None:
        self.random = random
        self.tasks = PaperTasks()
        self.connection = FastConnection(self.tasks, box, subscriptions)
        self.connection.perform(self.connection.session.receive('{"type":"hello","v":1}', 1_000.0))
        self.connection.identified(self.connection.session.authenticated(somebody("tenant", "subject"), now=0.0))
        self.asked = 0

    def say(self, **message: Any) -> None:
        self.asked += 1
        text = json.dumps({"id": self.asked, **message})
        self.connection.perform(self.connection.session.receive(text, 1_000.0))

    def commit(self) -> None:
        """Several transitions of several tasks, told in the order of the writer: bursts first, then answers."""
        random = self.random
        for task_id in random.sample(TASKS, random.randint(1, 3)):
            key = task_key("tenant", task_id)
            before = self.tasks.head(key)
            for _ in range(random.randint(1, 5)):
                pad = b'"' + b"x" * random.choice((0, 100, 30_000)) + b'"'
                self.tasks.commit(Report(tenant="tenant", task_id=task_id, progress=1.0, data=pad))
            if random.random() < 0.1:
                self.tasks.commit(CancelRequest(tenant="tenant", task_id=task_id, reason=None))
                self.tasks.commit(Report(tenant="tenant", task_id=task_id, cancel="refused"))
            if key in self.connection.watched and self.tasks.head(key) > before and random.random() > 0.03:
                self.connection.deliver(self.tasks.events[key][before:])
        if random.random() < 0.3:
            self.say(type="ping")

    def step(self) -> None:
        """Something happens."""
        random, connection = self.random, self.connection
        match random.choice(("commit", "commit", "commit", "turn", "turn", "read", "read", "peer", "say")):
            case "commit":
                self.commit()
            case "turn":
                connection.turn_ends()
            case "read":
                self.read()
            case "peer":
                connection.transport.takes = random.random() < 0.6
                if connection.box.blocked and connection.transport.takes:
                    connection.drained()
            case _:
                self.subscribe(random.choice(TASKS), "latest" if random.random() < 0.1 else "all")

    def subscribe(self, task_id: str, mode: str) -> None:
        """From where this connection is told to be: the beginning."""
        if task_key("tenant", task_id) not in self.connection.watched:
            after = {"epoch": "e-1", "seq": 0}
            wanted = {"task_id": task_id, "after": after} if mode == "all" else {"task_id": task_id}
            self.say(type="subscribe", tasks=[wanted], mode=mode, wait_ms=600_000)

    def read(self) -> None:
        """A whole read of the ledger, with a commit in the middle of some."""
        if not self.connection.may_read or self.connection.box.blocked:
            return
        self.connection.begin_read()
        self.connection.read_heads()
        if self.random.random() < 0.5:
            self.commit()
        self.connection.answer_read(self.random.choice((1, 3, 50)))

    def come_to_rest(self) -> None:
        """The peer takes all, everything is read that has to be, and the regular re-read finds what was lost."""
        self.connection.transport.takes = True
        for _ in range(2):
            for task_id in TASKS:
                self.connection.hint(task_key("tenant", task_id))
            connection = self.connection
            while len(connection.box) or connection.box.blocked or connection.session.has_due_reads:
                if connection.box.blocked:
                    connection.drained()
                connection.turn_ends()
                self.read_quietly()

    def read_quietly(self) -> None:
        """Without more commits."""
        if self.connection.may_read:
            self.connection.begin_read()
            self.connection.answer_read(50)

    def streams(self) -> dict[str, list[bytes]]:
        """What the peer got of each task that it watches in mode `all`, by task."""
        out: dict[str, list[bytes]] = {}
        for frame in self.connection.transport.got:
            if frame.startswith(b'{"type":"transition"'):
                out.setdefault(json.loads(frame)["task_id"], []).append(frame)
        return out

    def check(self) -> None:
        """Every stream is the ledger's, each question has one answer, and nothing has overtaken anything."""
        box, got = self.connection.box, self.connection.transport.got
        assert [one for one in got if b"snapshot" not in one] == [one for one in box.taken_in if b"snapshot" not in one]
        for task_id, stream in self.streams().items():
            assert stream == [event.frame for event in self.tasks.events[task_key("tenant", task_id)]]
        frames = [json.loads(frame) for frame in self.connection.transport.got]
        replies = [frame["id"] for frame in frames if frame["type"] == "reply"]
        assert replies == sorted(set(replies))
        for task_id in TASKS:
            key = task_key("tenant", task_id)
            last = [frame for frame in frames if frame.get("task_id", frame.get("task", {}).get("task_id")) == task_id]
            if key in self.connection.watched and self.tasks.head(key):
                newest = next(one for one in reversed(last) if one["type"] in {"transition", "snapshot"})
                assert (newest["task"] if newest["type"] == "snapshot" else newest)["seq"] == self.tasks.head(key)


def live(
    random: Random, steps: int, box: type[Box] = Box, subscriptions: type[Subscriptions] = Subscriptions
) -> Weather:
    """A life, with its end checked; of parts that may be faulty."""
    weather = Weather(random, box, subscriptions)
    for _ in range(steps):
        weather.step()
    weather.come_to_rest()
    weather.check()
    return weather


def test_the_fast_path_gives_the_stream_of_the_slow_one(seed: int) -> None:
    """Under any weather what comes is the ledger, whole and in order, whichever way it took."""
    lives = [live(Random(seed + number), 80) for number in range(100)]
    assert sum(life.connection.box.fast for life in lives) >= 300
    assert sum(life.connection.box.slow for life in lives) >= 100
    assert sum(life.connection.did["dropped"] for life in lives) >= 20
    assert sum(life.connection.transport.writes for life in lives) < sum(
        len(life.connection.transport.got) for life in lives
    )


class PassesAll(Subscriptions):
    """Fault: a burst passes although something before it is still to be read."""

    __slots__ = ()

    def passes(self, burst: Any) -> bool:
        """Whether a plain burst goes to the client as it is."""
        subscription = self._by_slot.get(burst.slot)
        return subscription is not None and subscription.mode == "all"


class NeverAdvances(Subscriptions):
    """Fault: what passed is not remembered."""

    __slots__ = ()

    def passes(self, burst: Any) -> bool:
        """Whether a plain burst goes to the client as it is."""
        subscription = self._by_slot.get(burst.slot)
        catchup = None if subscription is None else subscription.catchup
        return catchup is not None and catchup.delivered + 1 == burst.first and not (catchup.due or catchup.reading)


class Overtakes(Box):
    """Fault: what comes now is written before what waits."""

    def take_in(self, slot: Slot, seq: int, piece: Piece, *, replaces: bool) -> dict[Slot, int]:
        """A frame of a subscription."""
        self._ready.append(piece)
        return {}


@pytest.mark.parametrize(
    "faulty",
    [{"subscriptions": PassesAll}, {"subscriptions": NeverAdvances}, {"box": Overtakes}],
    ids=["PassesAll", "NeverAdvances", "Overtakes"],
)
def test_a_planted_fault_of_the_fast_path_is_found(faulty: dict[str, Any], seed: int) -> None:
    """The check above is not empty."""
    with pytest.raises((AssertionError, StopIteration, KeyError)):
        for number in range(200):
            live(Random(seed + number), 80, **faulty)
