"""What every bus keeps, whatever carries it: one suite for all, against real servers that are killed and frozen."""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import asyncpg
import pytest
from nats.aio.client import Client

from gateway.bus import hints
from gateway.bus.local import LocalBus
from gateway.bus.nats import NatsBus
from gateway.bus.port import Bus, Hint
from gateway.bus.postgres import CHANNEL, PostgresBus
from gateway.bus.unsent import MAX_TASKS
from gateway.protocol.codec import transition_frame
from ledger.machine import Status
from ledger.model import Key, Transition
from ledger.settings import LedgerSettings
from tests.support.nats import NatsServer, nats_server
from tests.support.postgres import OwnServer, own_server
from tests.support.waiting import eventually

EPOCH = "0123456789ab"
PROBE_SECONDS = 1.0
STALL_SECONDS = 0.5  # of the event loop; on a machine that other things run on
AGAIN_SECONDS = 15.0


class Ground(Protocol):
    """What carries a bus, and what can be done to it."""

    def bus(self, **settings: Any) -> Bus:
        """One more node's."""

    async def publish(self, key: Key, raw: bytes) -> None:
        """What a stranger might say."""

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def frozen(self) -> AbstractContextManager[None]: ...


class OnPostgres:
    def __init__(self, server: OwnServer) -> None:
        self._server = server

    def bus(self, **settings: Any) -> Bus:
        return PostgresBus(LedgerSettings(), self._server.dsn, probe_seconds=PROBE_SECONDS)

    async def publish(self, key: Key, raw: bytes) -> None:
        connection = await asyncpg.connect(self._server.dsn)
        try:
            await connection.execute(
                "select pg_notify($1, $2)", CHANNEL, raw.replace(b"\0", b"").decode("utf-8", "replace")
            )
        finally:
            await connection.close()

    def kill(self) -> None:
        self._server.kill()

    def start(self) -> None:
        self._server.start()

    def frozen(self) -> AbstractContextManager[None]:
        return self._server.frozen()


class OnNats:
    def __init__(self, server: NatsServer) -> None:
        self._server = server

    def bus(self, **settings: Any) -> Bus:
        return NatsBus([self._server.url], probe_seconds=PROBE_SECONDS, **settings)

    async def publish(self, key: Key, raw: bytes) -> None:
        client = Client()
        await client.connect(self._server.url)
        await client.publish(f"ledgerwire.hint.{key}", raw)
        await client.close()

    def kill(self) -> None:
        self._server.kill()

    def start(self) -> None:
        self._server.start()

    def frozen(self) -> AbstractContextManager[None]:
        return self._server.frozen()


@contextmanager
def _on_postgres() -> Iterator[Ground]:
    with own_server() as server:
        yield OnPostgres(server)


@contextmanager
def _on_nats() -> Iterator[Ground]:
    with nats_server() as server:
        yield OnNats(server)


GROUNDS: dict[str, Callable[[], AbstractContextManager[Ground]]] = {"postgres": _on_postgres, "nats": _on_nats}


@pytest.fixture(scope="module", params=GROUNDS)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A server of the suite's own; every test leaves it running."""
    with GROUNDS[request.param]() as made:
        yield made


class Node:
    """A bus, and what it brought."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[Hint] = []
        self.gaps: list[Sequence[Key] | None] = []

    def say(self, *heads: tuple[Key, int], frames: dict[Key, list[bytes]] | None = None) -> None:
        self.bus.announce(EPOCH, heads, frames or {})

    @property
    def reached(self) -> dict[Key, int]:
        """How far each task has come, as far as was heard."""
        reached: dict[Key, int] = {}
        for hint in self.heard:
            reached[hint.key] = max(hint.seq, reached.get(hint.key, 0))
        return reached

    async def well(self) -> None:
        await eventually(lambda: self.bus.state.healthy, within_seconds=AGAIN_SECONDS, what="the bus is connected")

    async def watches(self, *keys: Key) -> None:
        """Returns when hints of these tasks come here."""
        known = {key for some in self.gaps for key in some or ()}
        for key in keys:
            self.bus.interest(key)
        if self.bus.wants_frames and not known >= set(keys):
            await eventually(lambda: {key for some in self.gaps for key in some or ()} >= set(keys), what="subscribed")


@asynccontextmanager
async def node(ground: Ground, **settings: Any) -> AsyncIterator[Node]:
    """One more node, connected."""
    made = Node(ground.bus(**settings))
    await made.bus.start(made.heard.append, made.gaps.append)
    await made.well()
    try:
        yield made
    finally:
        await made.bus.close()


@pytest.fixture
async def two(ground: Ground) -> AsyncIterator[tuple[Node, Node]]:
    async with node(ground) as one, node(ground) as other:
        yield one, other


@contextmanager
def loop_lag() -> Iterator[list[float]]:
    """The longest pause of the event loop, in seconds, once the block has ended.

    Time itself is under test: how much later than it asked for does a sleeper get its turn?
    """
    longest = [0.0]

    async def tick() -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.005)  # time itself is under test: how late is a sleeper woken?
            now = time.monotonic()
            longest[0] = max(longest[0], now - before - 0.005)
            before = now

    ticking = asyncio.create_task(tick())
    try:
        yield longest
    finally:
        ticking.cancel()


def key(number: int) -> Key:
    return f"{number:032x}"


def frame(task: Key, seq: int, message: str = "") -> bytes:
    """A transition as watchers get it."""
    return transition_frame(
        Transition(
            key=task,
            task_id="t",
            seq=seq,
            status=Status.RUNNING,
            attempt=1,
            progress=None,
            stage=None,
            message=message,
            data=None,
            result=None,
            error=None,
            cancel=None,
            reason=None,
            at=datetime(2026, 1, 1, tzinfo=UTC),
        )
    )


async def test_a_local_bus_costs_and_brings_nothing() -> None:
    """A node that is alone has nobody to tell: it is always well, and can be closed twice."""
    alone = Node(LocalBus())
    await alone.bus.start(alone.heard.append, alone.gaps.append)
    alone.bus.interest(key(1))
    alone.say((key(1), 1))
    alone.bus.no_interest(key(1))
    assert not alone.bus.remote
    assert alone.bus.state.healthy
    await alone.bus.close()
    await alone.bus.close()
    assert (alone.heard, alone.gaps) == ([], [])


async def test_a_hint_reaches_the_other_nodes_and_not_its_own(ground: Ground, two: tuple[Node, Node]) -> None:
    """What one node has committed the others hear, with its frames when they are small; it does not hear it itself."""
    one, other = two
    async with node(ground) as third:
        for each in (one, other, third):
            await each.watches(key(1))
        frames = [frame(key(1), 6), frame(key(1), 7)]
        one.say((key(1), 7), frames={key(1): frames})
        for each in (other, third):
            await eventually(lambda each=each: each.heard, what="the hint came")  # type: ignore[misc]
            assert [tuple(hint) for hint in each.heard] == [(key(1), 7, EPOCH, frames)]
        other.say((key(1), 8))
        await eventually(lambda: one.heard and len(third.heard) == 2)
        assert one.heard == [Hint(key(1), 8, EPOCH, [])]
        assert len(other.heard) == 1


async def test_a_large_event_is_left_to_the_ledger(two: tuple[Node, Node]) -> None:
    """A hint whose frame is too large for the bus comes without it."""
    one, other = two
    await other.watches(key(1))
    one.say((key(1), 1), frames={key(1): [frame(key(1), 1, "x" * 8_000)]})
    await eventually(lambda: other.heard)
    assert other.heard == [Hint(key(1), 1, EPOCH, [])]


async def test_thousands_of_hints_gather_and_block_nobody(two: tuple[Node, Node]) -> None:
    """Commits of a busy node reach the other one, each task's newest for certain, in fewer hints than commits."""
    one, other = two
    tasks, rounds = [key(number) for number in range(500)], 60
    await other.watches(*tasks)
    longest = 0.0
    with loop_lag() as lag:
        for seq in range(1, rounds + 1):
            began = time.monotonic()
            for task in tasks:
                one.say((task, seq))
            longest = max(longest, time.monotonic() - began)
            if seq % 10 == 0:
                await asyncio.sleep(0)
        await eventually(lambda: other.reached == dict.fromkeys(tasks, rounds), within_seconds=AGAIN_SECONDS)
    assert longest < STALL_SECONDS
    assert lag[0] < STALL_SECONDS
    assert 500 <= one.bus.state.sent < 500 * rounds, "hints are coalesced"
    assert one.bus.state.dropped == 0


async def test_what_waits_at_the_end_is_sent(ground: Ground, two: tuple[Node, Node]) -> None:
    """A node that is stopped tells what it has committed last, and does not wait for a server that takes nothing."""
    one, other = two
    tasks = [key(number) for number in range(3_000)]
    await other.watches(*tasks)
    one.say(*((task, 1) for task in tasks))
    await one.bus.close()
    assert one.bus.state.sent == len(tasks)
    await eventually(lambda: other.reached == dict.fromkeys(tasks, 1), what="all hints came")
    with ground.frozen():
        other.say((key(1), 2))
        await asyncio.wait_for(other.bus.close(), AGAIN_SECONDS)
    assert other.bus.state.reason == "closed"
    assert one.bus.state.dropped == other.bus.state.dropped == 0


async def test_garbage_repeats_and_reordering_harm_nobody(ground: Ground, two: tuple[Node, Node], seed: int) -> None:
    """Whatever a stranger says on the channel is ignored or taken as a hint, and hints go on coming."""
    one, other = two
    dice = random.Random(seed)
    await other.watches(key(1))
    good = hints.encode("cafe", EPOCH, [Hint(key(1), 3, EPOCH, [frame(key(1), 3)])], max_bytes=7_000)[0]
    nested = (
        b'{"v":1,"node":"cafe","epoch":"","hints":[["'
        + key(1).encode()
        + b'",1,['
        + b"[" * 3_000
        + b"]" * 3_000
        + b"]]]}"
    )
    bad = [
        b"x",
        b"{}",
        b"null",
        nested[:5_000],
        good[:-1],
        good.replace(b'"v":1', b'"v":2'),
        good.replace(b",3,[", b',"3",['),
        good.replace(b",3,[", b",-3,["),
        b'{"v":1,"node":"cafe","epoch":"","hints":7}',
        *(dice.randbytes(dice.randrange(1, 200)) for _ in range(20)),
        *(good[:cut] for cut in (dice.randrange(1, len(good)) for _ in range(10))),
    ]
    for raw in bad:
        await ground.publish(key(1), raw)
    await ground.publish(key(1), nested)
    for raw in (good, good, good.replace(b",3,[", b",2,["), good):
        await ground.publish(key(1), raw)
    await eventually(lambda: [hint.seq for hint in other.heard][-4:] == [3, 3, 2, 3], what="repeats are passed on")
    one.say((key(1), 4))
    await eventually(lambda: other.reached[key(1)] == 4, what="hints go on")
    assert other.bus.state.garbled >= len(bad) - 1
    assert other.bus.state.connects == 1


async def test_a_killed_server_is_found_again_and_the_gap_is_told(ground: Ground, two: tuple[Node, Node]) -> None:
    """Each restart of the server is one gap: the hub is told to look, and hints come again without a new interest."""
    one, other = two
    for each in two:
        await each.watches(key(1))
    for times in (1, 2):
        assert other.gaps.count(None) == times
        ground.kill()
        await eventually(lambda: not (one.bus.state.healthy or other.bus.state.healthy), what="the loss is noticed")
        assert other.bus.state.reason not in {"", "fault"}
        one.say((key(1), times))
        ground.start()
        await one.well()
        await other.well()
        await eventually(lambda times=times: other.gaps.count(None) == times + 1)  # type: ignore[misc]
        other.heard.clear()
        one.say((key(1), 100 * times))
        await eventually(lambda times=times: other.reached.get(key(1)) == 100 * times)  # type: ignore[misc]
    assert other.bus.state.connects == 3


async def test_a_frozen_server_blocks_nobody_and_costs_a_bounded_memory(ground: Ground, two: tuple[Node, Node]) -> None:
    """With a server that takes nothing, announcing stays instant, the loop free, memory bounded; then all goes on."""
    one, other = two
    await other.watches(key(1))
    large = {key(number): [frame(key(number), 1, "x" * 3_000)] for number in range(3 * MAX_TASKS)}
    gaps = other.gaps.count(None)
    tracemalloc.start()
    try:
        with ground.frozen():
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            longest = 0.0
            with loop_lag() as lag:
                for task, frames in large.items():
                    began = time.monotonic()
                    one.say((task, 1), frames={task: frames})
                    longest = max(longest, time.monotonic() - began)
                    if one.bus.state.dropped % 500 == 0:
                        await asyncio.sleep(0)

                def both_have_noticed() -> bool:
                    for number in range(1_000):
                        one.say((key(1_000 + number), time.monotonic_ns()))
                    return not (one.bus.state.healthy or other.bus.state.healthy)

                await eventually(both_have_noticed, within_seconds=AGAIN_SECONDS)
            peak = tracemalloc.get_traced_memory()[1] - before
            one.bus.interest(key(2))
            one.bus.no_interest(key(1))
    finally:
        tracemalloc.stop()
    assert longest < STALL_SECONDS
    assert lag[0] < 2 * STALL_SECONDS, "tracing makes all slower"
    assert one.bus.state.dropped >= MAX_TASKS
    assert peak < 8 * 2**20, f"{peak / 2**20:.1f} MiB"
    await one.well()
    await other.well()
    await eventually(lambda: other.gaps.count(None) > gaps, within_seconds=AGAIN_SECONDS, what="the gap is told")
    one.say((key(1), 9))
    await eventually(lambda: other.reached.get(key(1)) == 9, within_seconds=AGAIN_SECONDS, what="hints come again")


async def test_closing_is_prompt_whatever_the_server_does(ground: Ground) -> None:
    """A bus that is connected, whose server hangs, or that has never been connected ends within two seconds; twice."""
    async with node(ground) as one, node(ground) as other:
        one.say((key(1), 1))
        began = time.monotonic()
        await one.bus.close()
        await one.bus.close()
        with ground.frozen():
            for number in range(2_000):
                other.say((key(number), 1))
            await asyncio.sleep(0)
            await other.bus.close()
            never = Node(ground.bus())
            await never.bus.start(never.heard.append, never.gaps.append)
            never.say((key(1), 1))
            await never.bus.close()
        assert time.monotonic() - began < 6.0
        assert [each.bus.state.healthy for each in (one, other, never)] == [False] * 3
