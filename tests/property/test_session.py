"""One session in every kind of weather, against a client that checks each frame.

A hypothesis state machine plays the client, the ledger, the hub, the clock and the network around a real `Session` and
a real `Outbox`. Nothing waits: time is a number that the machine moves.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar, Final, Literal

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from gateway.outbox import Outbox
from gateway.protocol.burst import Piece
from gateway.protocol.effects import Effect, Event, Read, Slot, Want
from gateway.protocol.errors import SHUTTING_DOWN, ProtocolError
from gateway.protocol.messages import WAIT_MS
from gateway.protocol.session import Session
from gateway.protocol.subscriptions import Subscriptions
from ledger.machine import Status
from ledger.model import CancelRequest, Head, Key, Report, task_key
from tests.property.paper_gateway import EPOCH, PING_SECONDS, TENANT, PaperConnection, PaperTasks
from tests.property.paper_peer import Json, PaperPeer
from tests.support.principals import somebody

TASKS: Final = tuple("abcdefgh")
HELLO_SECONDS: Final = 5.0
DEAD_SECONDS: Final = 1.5 * PING_SECONDS

task_ids = st.sampled_from(TASKS)
some_tasks = st.lists(task_ids, min_size=1, max_size=3, unique=True)
BEGINNINGS: Final = ("nowhere", "cursor", "cursor", "beyond", "other epoch", "own wait")
wishes = st.lists(
    st.tuples(task_ids, st.sampled_from(BEGINNINGS), st.integers(0, 9)),
    min_size=1, max_size=3, unique_by=lambda wish: wish[0],
)  # fmt: skip
MODES: Final = ("all", "all", "latest")
WAITS: Final = (0, 0, 3_000, WAIT_MS)
FATES: Final = ("all", "all", "first", "lost", "newest first", "doubled")
MISTAKES: Final[tuple[Json, ...]] = (
    {"type": "subscribe", "tasks": []},
    {"type": "subscribe", "tasks": [{"task_id": "no spaces"}]},
    {"type": "attend", "task_ids": ["a", "*"]},
    {"type": "report", "task_id": "a", "n": 1},
    {"type": "cancel", "task_id": "/"},
    {"type": "dance"},
)
GARBAGE: Final = ("", "{", "nonsense", '{"type":"dance"}', "[1", "\ud800", "[" * 400, "\0")
STATUSES: Final = (None,) * 20 + ("running", "completed")


Fault = Callable[[PaperConnection], None]


class Totals:
    """What happened in all runs together: a machine that does nothing proves nothing."""

    saw: ClassVar[Counter[str]] = Counter()
    did: ClassVar[Counter[str]] = Counter()


class SessionMachine(RuleBasedStateMachine):
    """One connection from its opening to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.tasks = PaperTasks()
        self.ids = 0
        self.tell: Callable[[str], object] = note

    @initialize(phase=st.floats(0, 1), greeted=st.sampled_from([True] * 9 + [False]))
    def open(self, phase: float, greeted: bool) -> None:
        """A connection begins; most of them say hello properly."""
        self.phase = phase
        self.connection = PaperConnection(self.tasks, ping_phase=phase, now=self.now)
        self.peer = PaperPeer(self.tasks)
        self.heard_at = self.now
        self.ping_at = self.now + PING_SECONDS * (1 + phase) / 2
        self.hello_until: float | None = self.now + HELLO_SECONDS
        if greeted:
            self.send([{"type": "hello", "v": 1}])
            self.identify("same")

    # The client

    def send(self, sent: list[Json], *, array: bool = False) -> None:
        """One frame."""
        for message in sent:
            self.peer.says(message | {"said_at": self.now})
        text = json.dumps(sent if array or len(sent) > 1 else sent[0])
        self.tell(f"> {text}")
        self.heard_at = self.now
        self.connection.perform(self.connection.session.receive(text, self.now))

    def with_id(self, **members: Any) -> Json:
        """A message with a fresh id, of either kind."""
        self.ids += 1
        return {**members, "id": self.ids if self.ids % 2 else f"id-{self.ids}"}

    @property
    def may_send(self) -> bool:
        """Frames are not read while a token is looked up."""
        return self.connection.asking is None

    @precondition(lambda self: self.may_send and (self.hello_until is not None or self.ids % 5 == 4))
    @rule(version=st.sampled_from([1, 1, 1, 1, 7]), twice=st.booleans())
    def hello(self, version: int, twice: bool) -> None:
        """Perhaps twice in one frame, perhaps too often."""
        self.send([{"type": "hello", "v": version}] + [{"type": "hello", "v": 1, "token": "other"}] * twice)

    @precondition(lambda self: self.may_send)
    @rule(wished=wishes, mode=st.sampled_from(MODES), wait_ms=st.sampled_from(WAITS))
    def subscribe(self, wished: list[tuple[str, str, int]], mode: str, wait_ms: int) -> None:
        """From nowhere, from a cursor that is good, from one beyond the head or of another history."""
        wanted: list[Json] = []
        for task_id, beginning, number in wished:
            one: Json = {"task_id": task_id}
            head = self.tasks.head(task_key(TENANT, task_id))
            match beginning:
                case "cursor":
                    one["after"] = {"epoch": EPOCH, "seq": min(number, head)}
                case "beyond":
                    one["after"] = {"epoch": EPOCH, "seq": head + 1 + number}
                case "other epoch":
                    one["after"] = {"epoch": "e-0", "seq": number}
                case "own wait":
                    one["wait_ms"] = 1_000 * (number % 3)
            wanted.append(one)
        self.send([self.with_id(type="subscribe", tasks=wanted, mode=mode, wait_ms=wait_ms)])

    @precondition(lambda self: self.may_send)
    @rule(some=some_tasks)
    def unsubscribe(self, some: list[str]) -> None:
        """From what is watched, or from what is not."""
        self.send([self.with_id(type="unsubscribe", task_ids=some)])

    @precondition(lambda self: self.may_send)
    @rule(some=some_tasks)
    def attend(self, some: list[str]) -> None:
        """A worker wants to hear of cancels."""
        self.send([self.with_id(type="attend", task_ids=some)])

    @precondition(lambda self: self.may_send)
    @rule(
        task_id=task_ids, named=st.booleans(), status=st.sampled_from(STATUSES),
        answer=st.sampled_from([None, None, "delivered", "refused"]), text=st.integers(0, 900),
    )  # fmt: skip
    def report(self, task_id: str, named: bool, status: str | None, answer: str | None, text: int) -> None:
        """A worker's report, also one that is refused."""
        message = {"type": "report", "task_id": task_id, "message": "x" * text}
        message |= {"status": status} if status else {"cancel": answer} if answer else {}
        self.send([self.with_id(**message) if named else message])

    @precondition(lambda self: self.may_send)
    @rule(task_id=task_ids, kind=st.sampled_from(["create", "cancel", "beat", "refresh", "ping", "pong"]))
    def say(self, task_id: str, kind: str) -> None:
        """The other messages."""
        match kind:
            case "create" | "cancel":
                self.send([self.with_id(type=kind, task_id=task_id)])
            case "beat":
                self.send([{"type": "beat", "task_ids": [task_id]}])
            case "refresh":
                self.send([self.with_id(type="refresh", token="another")])
            case _:
                self.send([{"type": kind}], array=True)

    @precondition(lambda self: self.may_send)
    @rule(text=st.sampled_from(GARBAGE))
    def garbage(self, text: str) -> None:
        """What is no message."""
        self.peer.nameless += 1
        self.heard_at = self.now
        self.connection.perform(self.connection.session.receive(text, self.now))

    @rule()
    def no_frame(self) -> None:
        """What is not even a frame of text."""
        self.peer.nameless += 1
        error = ProtocolError("bad_json", "Frames are JSON in text, not binary.")
        self.connection.perform(self.connection.session.unreadable(error))

    @precondition(lambda self: self.may_send)
    @rule(bad=st.sampled_from(MISTAKES))
    def mistake(self, bad: Json) -> None:
        """A message with a mistake, and a good one behind it."""
        self.send([self.with_id(**bad), {"type": "ping"}])

    # What comes back

    @precondition(lambda self: self.connection.asking is not None)
    @rule(who=st.sampled_from(["same", "same", "same", "same", "other", "nobody"]))
    def identify(self, who: Literal["same", "other", "nobody"]) -> None:
        """The token has been looked up."""
        asking = self.connection.asking
        assert asking is not None
        session = self.connection.session
        if who == "nobody":
            effects = session.refused(ProtocolError("unauthenticated", "No."), refresh=asking.refresh)
        else:
            subject = "somebody" if who == "same" or asking.refresh is None else "else"
            effects = session.authenticated(somebody(TENANT, subject), now=0.0, refresh=asking.refresh)
            if asking.refresh is None and not session.closed:
                self.hello_until = None
        self.connection.identified(effects)

    @precondition(lambda self: self.connection.submits)
    @rule(lost=st.sampled_from([None, None, None, "unavailable", "unknown_retry"]), late=st.booleans())
    def settle(self, lost: str | None, late: bool) -> None:
        """The ledger answers, or cannot."""
        submit = self.connection.submits.pop(-1 if late else 0)
        answer = self.connection.commit(submit.request)
        told = answer if lost is None else ProtocolError(lost, "Again, please.", retry_after_ms=5)
        self.connection.perform(self.connection.session.settled(submit.id, told))

    @rule(task_id=task_ids, times=st.integers(1, 7), text=st.integers(0, 400), status=st.sampled_from(STATUSES))
    def somebody_reports(self, task_id: str, times: int, text: int, status: str | None) -> None:
        """Another connection's worker goes on, several steps at once, perhaps to the end."""
        for n in range(times):
            end = Status(status) if status and n == times - 1 else None
            self.connection.commit(
                Report(tenant=TENANT, task_id=task_id, message="x" * text, progress=float(n), status=end)
            )

    @rule(task_id=task_ids)
    def somebody_cancels(self, task_id: str) -> None:
        """Another client asks for the end."""
        self.connection.commit(CancelRequest(tenant=TENANT, task_id=task_id, reason="why"))

    @rule(task_id=task_ids)
    def worker_falls_silent(self, task_id: str) -> None:
        """For longer than its lease."""
        self.tasks.fall_silent(task_key(TENANT, task_id))

    @rule(task_id=task_ids)
    def worker_beats(self, task_id: str) -> None:
        """It is there after all; nothing is written to its task."""
        self.tasks.late.discard(task_key(TENANT, task_id))

    @rule(some=some_tasks)
    def hub_looks(self, some: list[str]) -> None:
        """How workers are; it speaks of it later."""
        for task_id in some:
            self.connection.hub_looks(task_key(TENANT, task_id))

    @precondition(lambda self: self.connection.looks)
    @rule()
    def hub_tells(self) -> None:
        """How workers were."""
        self.connection.hub_tells()

    @precondition(lambda self: any(self.connection.live.values()))
    @rule(fate=st.sampled_from(FATES), pick=st.integers(0, 4))
    def hub_brings(self, fate: str, pick: int) -> None:
        """Live events come: together, one by one, not at all, out of order, twice."""
        keys = sorted(key for key, some in self.connection.live.items() if some)
        key = keys[pick % len(keys)]
        events = self.connection.live[key]
        take = 1 if fate == "first" else len(events)
        some, self.connection.live[key] = events[:take], events[take:]
        if fate == "lost" or self.connection.closed:
            return
        if fate == "newest first":
            some = some[::-1]
        self.connection.deliver(some)
        if fate == "doubled" and key in self.connection.watched:
            self.connection.deliver(some)

    @precondition(lambda self: self.connection.may_read)
    @rule()
    def begin_read(self) -> None:
        """The outbox is empty and something is to be read."""
        self.connection.begin_read()

    @precondition(lambda self: self.connection.wants and not self.connection.heads)
    @rule()
    def read_heads(self) -> None:
        """The heads are known before the page is."""
        self.connection.read_heads()

    @precondition(lambda self: self.connection.wants)
    @rule(rows=st.sampled_from([1, 3, 50]), fails=st.sampled_from([False, False, False, True]))
    def end_read(self, rows: int, fails: bool) -> None:
        """The read comes back, with pages of any size, or fails."""
        if fails:
            self.connection.fail_read()
        else:
            self.connection.answer_read(rows)

    @rule(max_bytes=st.sampled_from([1, 300, 100_000]))
    def take(self, max_bytes: int) -> None:
        """The client takes something."""
        self.peer.now = self.now
        for frame in self.connection.take(max_bytes):
            self.tell(f"< {frame[:200].decode()}")
            self.peer.sees(frame)

    @rule(kind=st.sampled_from(["degraded", "restored"]))
    def notice(self, kind: str) -> None:
        """The state of the ledger changes."""
        self.connection.perform(self.connection.session.notice(kind))

    # Time

    @rule(share=st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.999]))
    def tick(self, share: float) -> None:
        """To the moment that the session has named, or not quite."""
        session = self.connection.session
        waits = [interest.waits_until for interest in self.peer.interests.values() if interest.waits_until]
        dead_at = self.heard_at + DEAD_SECONDS
        named = [at for at in (self.ping_at, dead_at, self.hello_until) if at is not None]
        at = session.next_tick()
        assert at <= min(named)
        assert at in named or session.subscriptions.next_wait() == at or waits
        self.now = max(self.now, at if share == 1.0 else self.now + (at - self.now) * share)
        closed = session.closed
        effects = session.tick(self.now)
        kinds = [json.loads(effect.frame)["type"] for effect in effects if hasattr(effect, "frame")]
        if closed:
            assert effects == []
        elif self.hello_until is not None and self.now >= self.hello_until:
            assert b'"code":4003' in effects[0].frame  # type: ignore[union-attr] # the first one is a Send
        elif self.now >= dead_at:
            assert b'"code":4001' in effects[0].frame  # type: ignore[union-attr] # the first one is a Send
        else:
            assert kinds.count("ping") == (self.now >= self.ping_at)
            assert set(kinds) <= {"ping", "subscribed"}
            if self.now >= self.ping_at:
                self.ping_at = self.now + PING_SECONDS
        self.connection.perform(effects)

    @rule()
    def sign_of_life(self) -> None:
        """The transport knows that the peer is there."""
        self.heard_at = self.now
        self.connection.session.heard(self.now)

    @precondition(lambda self: self.now > 1_060)
    @rule()
    def shut_down(self) -> None:
        """The server goes."""
        effects = self.connection.session.end(SHUTTING_DOWN)
        assert bool(effects) is not self.connection.closed
        self.connection.perform(effects)
        assert self.connection.session.end(SHUTTING_DOWN) == []

    # What holds at all times

    @invariant()
    def watched_is_what_is_subscribed(self) -> None:
        """Watch and Unwatch are balanced."""
        if hasattr(self, "connection"):
            assert self.connection.watched == self.connection.session.subscriptions.task_keys()
            assert self.connection.session.closed is self.connection.closed

    def teardown(self) -> None:
        """Everything that is under way comes to its end: nobody is owed anything."""
        if not hasattr(self, "connection"):
            return
        connection = self.connection
        for _ in range(60):
            if self._calm():
                break
        else:
            raise AssertionError("it does not come to rest")
        Totals.saw.update(self.peer.saw)
        Totals.did.update(connection.did)
        if connection.closed:
            assert self.peer.goodbye is not None
            return
        assert self.peer.asked == {}
        if not self.peer.welcomed:
            return
        alive = {
            task for task in (*self.peer.interests, *self.peer.attends) if not self.tasks.ended(task_key(TENANT, task))
        }
        assert connection.watched == {task_key(TENANT, task_id) for task_id in alive}
        for task_id, interest in self.peer.interests.items():
            assert interest.position == self.tasks.head(task_key(TENANT, task_id))
            assert interest.phase == ("live" if interest.position else "waiting")
            assert interest.position or (interest.waits_until or 0) > self.now - 3
            assert interest.late is (task_key(TENANT, task_id) in self.tasks.late)
        for task_id, told in self.peer.attends.items():
            snapshots = self.tasks.snapshots.get(task_key(TENANT, task_id))
            if snapshots and snapshots[-1].status is Status.CANCELLING:
                cancel = snapshots[-1].cancel
                assert cancel is not None
                assert told == cancel.seq

    def _calm(self) -> bool:
        """One round in which nothing is lost and the client takes everything; whether there was nothing to do."""
        connection = self.connection
        before = (self.peer.saw.copy(), len(connection.outbox))
        self.sign_of_life()
        if connection.asking is not None:
            self.identify("same")
        while connection.submits:
            self.settle(None, late=False)
        self.take(100_000)
        if not connection.closed:
            connection.live.clear()
            for task_id in TASKS:
                connection.hint(task_key(TENANT, task_id))
                connection.hub_looks(task_key(TENANT, task_id))
            connection.hub_tells()
        while connection.may_read or connection.wants:
            if not connection.wants:
                connection.begin_read()
            connection.answer_read(2)
            self.take(100_000)
        self.now += 1.5
        connection.perform(connection.session.tick(self.now))
        self.take(100_000)
        return (self.peer.saw, len(connection.outbox)) == before


class Walk:
    """The same machine, driven by chance with weights: further into a long life than hypothesis goes."""

    def __init__(self, random: Random, fault: Fault | None = None) -> None:
        self.random = random
        self.told: deque[str] = deque(maxlen=40)
        self.machine = SessionMachine()
        self.machine.tell = self.told.append
        self.machine.open(phase=random.random(), greeted=True)
        self.connection = self.machine.connection
        if fault is not None:
            fault(self.connection)

    def go(self, steps: int) -> None:
        """So many steps, or until the end."""
        weighted: list[tuple[int, Callable[[], None]]] = [
            (6, self.subscribe), (4, self.speak), (8, self.tick), (16, self.somebody_works), (20, self.hub),
            (12, self.settle), (12, self.read), (22, self.take), (8, self.worker),
        ]  # fmt: skip
        weights = [weight for weight, _ in weighted]
        for step in range(steps):
            if self.connection.asking is not None:
                self.machine.identify("same")
            self.random.choices(weighted, weights)[0][1]()
            if step > steps / 2 and self.random.random() < 0.002:
                self.machine.shut_down()
            self.machine.watched_is_what_is_subscribed()
            if self.connection.closed and not len(self.connection.outbox):
                break
        if self.connection.asking is not None:
            self.machine.identify("same")
        self.machine.teardown()

    @property
    def task(self) -> str:
        """Any but the last one, which never appears."""
        return self.random.choice(TASKS[:-1])

    @property
    def several(self) -> list[str]:
        """Any tasks."""
        return self.random.sample(TASKS, self.random.randint(1, 3))

    def subscribe(self) -> None:
        """To several tasks."""
        random = self.random
        wished = [(task, random.choice(BEGINNINGS), random.randint(0, 9)) for task in self.several]
        self.machine.subscribe(wished, random.choice(MODES), random.choice(WAITS))

    def speak(self) -> None:
        """One of the other messages."""
        random, machine = self.random, self.machine
        match random.randint(1, 9):
            case 1 | 2:
                machine.unsubscribe(self.several)
            case 3 | 4:
                machine.attend(self.several)
            case 5 | 6:
                answer = random.choice((None, "delivered", "refused"))
                machine.report(
                    self.task, random.random() < 0.8, random.choice(STATUSES), answer, random.randint(0, 900)
                )
            case 7 | 8:
                machine.say(self.task, random.choice(("create", "cancel", "beat", "refresh", "ping", "pong")))
            case _:
                machine.mistake(random.choice(MISTAKES))

    def tick(self) -> None:
        """Time goes on; a silent peer is rare."""
        if self.random.random() < 0.95:
            self.machine.sign_of_life()
        self.machine.tick(self.random.choice((1.0, 0.5)))

    def somebody_works(self) -> None:
        """On any task."""
        random = self.random
        if random.random() < 0.1:
            self.machine.somebody_cancels(self.task)
        else:
            self.machine.somebody_reports(
                self.task, random.randint(1, 7), random.randint(0, 400), random.choice(STATUSES)
            )

    def worker(self) -> None:
        """Of some task falls silent, or all are back; the hub looks at all and says so at once or later."""
        machine, random = self.machine, self.random
        if random.random() < 0.6:
            machine.worker_falls_silent(self.task)
        else:
            for task_id in TASKS:
                machine.worker_beats(task_id)
        if random.random() < 0.5:
            machine.hub_looks(list(TASKS))
        if self.connection.looks and random.random() < 0.7:
            machine.hub_tells()

    def hub(self) -> None:
        """Brings what it has, if it has something."""
        if any(self.connection.live.values()):
            self.machine.hub_brings(self.random.choice(FATES), self.random.randint(0, 4))

    def settle(self) -> None:
        """The ledger answers, if it was asked."""
        if self.connection.submits:
            self.machine.settle(self.random.choice((None, None, "unavailable")), self.random.random() < 0.3)

    def read(self) -> None:
        """The next step of a read, if one is wanted."""
        if not self.connection.wants:
            if self.connection.may_read:
                self.machine.begin_read()
        elif not self.connection.heads:
            self.machine.read_heads()
        else:
            self.machine.end_read(self.random.choice((1, 3, 50)), self.random.random() < 0.1)

    def take(self) -> None:
        """The client takes something."""
        self.machine.take(self.random.choice((1, 300, 100_000)))


def enough(kinds: str) -> None:
    """All of this has happened often enough."""
    print(dict(Totals.saw), dict(Totals.did))  # noqa: T201 - what was done, shown with a failure
    assert min(Totals.saw[kind] for kind in kinds.split()) >= 5


def test_a_session_keeps_its_promises_in_any_weather() -> None:
    """Every frame in its order, every question answered once, every stream whole, and rest in the end."""
    Totals.saw.clear()
    Totals.did.clear()
    run_state_machine_as_test(
        SessionMachine,
        settings=settings(
            max_examples=200,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
    enough("welcome subscribed snapshot notice reply ping pong bye")


def test_long_lives_keep_the_promises_too(seed: int) -> None:
    """Hundreds of steps: ended tasks, full outboxes, waits that end, reads that are cut and dropped."""
    Totals.saw.clear()
    Totals.did.clear()
    for number in range(60):
        walk = Walk(Random(seed + number))
        try:
            walk.go(400)
        except Exception as error:
            error.add_note("\n".join([*walk.told, f"walk {seed + number}"]))
            raise
    enough("welcome subscribed transition snapshot cancel notice reply ping pong bye")
    assert Totals.saw["gave up waiting"] >= 10
    assert min(Totals.saw[kind] for kind in ("late told", "live told", "late snapshot")) >= 5
    assert min(Totals.did[kind] for kind in ("dropped", "left out")) >= 10


class DropsAll(Outbox):
    """Fault: what waits is dropped with what does not fit, and what comes behind it is taken."""

    def offer(self, slot: Slot, seq: int, piece: Piece, *, replaces: bool = False) -> dict[Slot, int]:
        """A frame of a subscription."""
        lost = super().offer(slot, seq, piece, replaces=replaces)
        if lost:
            self.__init__(max_frames=4, max_bytes=1_500)  # type: ignore[misc] # begins anew
        return lost


class LetsOvertake(Outbox):
    """Fault: what is small enough goes in behind what did not fit."""

    def offer(self, slot: Slot, seq: int, piece: Piece, *, replaces: bool = False) -> dict[Slot, int]:
        """A frame of a subscription."""
        self._full = False
        return super().offer(slot, seq, piece, replaces=replaces)


class NeverUnwatches(Subscriptions):
    """Fault: the hub is not told of a subscription's end."""

    def _drop(self, slot: Slot) -> list[Effect]:
        super()._drop(slot)
        return []


class ForgetsRewinds(Subscriptions):
    """Fault: what was dropped is not read again."""

    def rewind(self, slot: Slot, seq: int) -> None:
        """Frames were dropped."""


class ForgetsFailedReads(Subscriptions):
    """Fault: what a page did not reach is not read again."""

    def read_failed(self, wants: Sequence[Want]) -> None:
        """The ledger could not be read."""


class WaitsForEver(Subscriptions):
    """Fault: nobody is told that a task has not appeared."""

    def give_up_waiting(self, now: float) -> list[Effect]:
        """The time is over."""
        return []


class EndsTooEarly(Subscriptions):
    """Fault: a subscription ends with its task although its frames may still be dropped."""

    def deliver(self, key_events: Sequence[Event]) -> list[Effect]:
        """Live events."""
        return [*super().deliver(key_events), *self.sweep()]

    def read(self, found: Read) -> list[Effect]:
        """A read has come back."""
        return [*super().read(found), *self.sweep()]


class TakesAnyRead(Subscriptions):
    """Fault: a read that was meant for the subscription before is taken."""

    def read(self, found: Read) -> list[Effect]:
        """A read has come back."""
        subscription = self._by_slot.get(found.want.slot)
        if subscription is not None:
            subscription.catchup.reading = True
        return super().read(found)


class KeepsSilence(Subscriptions):
    """Fault: nobody is told of a worker that is late."""

    def tell(self) -> list[Effect]:
        """All frames have left."""
        self._untold.clear()
        return []


class TellsAtOnce(Subscriptions):
    """Fault: how a worker is comes before the task is announced, or between what was missed."""

    def tell(self) -> list[Effect]:
        """All frames have left."""
        untold, self._untold = self._untold, {}
        return [self._by_slot[slot].tell() for slot in untold]


class BelievesOldNews(Subscriptions):
    """Fault: what was seen of a worker before its last transition is told after it."""

    def see(self, key: Key, head: Head) -> None:
        """How a worker is."""
        super().see(key, replace(head, seq=2**62))


class CannotEnd(Session):
    """Fault: after goodbye it goes on."""

    __slots__ = ()

    closed = False
    _closed = property(lambda self: False, lambda self, value: None)


def _with_outbox(kind: type[Outbox]) -> Fault:
    def plant(connection: PaperConnection) -> None:
        connection.outbox = kind(max_frames=4, max_bytes=1_500)

    return plant


def _with_subscriptions(kind: type[Subscriptions]) -> Fault:
    def plant(connection: PaperConnection) -> None:
        connection.session.subscriptions = kind(EPOCH)

    return plant


def _without_end(connection: PaperConnection) -> None:
    connection.session.__class__ = CannotEnd


FAULTS: Final = {
    "an outbox that drops all": _with_outbox(DropsAll),
    "an outbox that lets small frames overtake": _with_outbox(LetsOvertake),
    "a hub that is never told": _with_subscriptions(NeverUnwatches),
    "forgotten rewinds": _with_subscriptions(ForgetsRewinds),
    "forgotten failed reads": _with_subscriptions(ForgetsFailedReads),
    "waiting for ever": _with_subscriptions(WaitsForEver),
    "ending too early": _with_subscriptions(EndsTooEarly),
    "another's read": _with_subscriptions(TakesAnyRead),
    "silence about silence": _with_subscriptions(KeepsSilence),
    "words too early": _with_subscriptions(TellsAtOnce),
    "old news": _with_subscriptions(BelievesOldNews),
    "no end": _without_end,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_is_found(fault: Fault, seed: int) -> None:
    """The checks above are not empty: with each of these faults a life goes wrong, the rarest in one of twenty."""
    with pytest.raises((AssertionError, KeyError)):
        for number in range(500):
            Walk(Random(seed + number), fault).go(400)
