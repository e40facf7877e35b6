"""What the hub makes of a hint, which it never trusts: the next event is forwarded, for anything else it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from gateway.bus.local import LocalBus
from gateway.bus.port import Hint
from gateway.hub import Hub
from gateway.protocol.burst import Burst
from gateway.protocol.codec import transition_frame
from gateway.protocol.effects import Event
from ledger.epoch import History
from ledger.model import Head, Key, Report, Transition, task_key
from ledger.pool import Lane, Pools
from ledger.reader import Reader
from ledger.settings import LedgerSettings
from tests.support.node import Node, node
from tests.support.waiting import eventually

KEY = task_key("t", "a")
NEVER_SECONDS = 3_600.0


class Watcher:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.notices: list[str] = []

    def deliver(self, burst: Burst) -> None:
        self.events += burst.events

    def see(self, key: Key, head: Head) -> None:
        pass

    def notice(self, kind: str) -> None:
        self.notices.append(kind)

    def give_up(self) -> None:
        raise AssertionError("it did not fail")

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.events]


class Faulty(Watcher):
    """Fails at whatever it is told."""

    gave_up = 0

    def deliver(self, burst: Burst) -> None:
        raise RuntimeError("a watcher is at fault")

    def give_up(self) -> None:
        self.gave_up += 1


class Scene:
    """A hub that reads a real ledger, and a watcher of one task at sequence 2; the task has come to 4."""

    def __init__(
        self, hub: Hub, lane: Lane, watcher: Watcher, committed: list[Transition], epoch: str, writer: Node
    ) -> None:
        self.hub = hub
        self.lane = lane
        self.watcher = watcher
        self.committed = committed
        self.epoch = epoch
        self.writer = writer

    def hint(self, seq: int, *frames: bytes, epoch: str | None = None) -> None:
        self.hub.hinted(Hint(KEY, seq, self.epoch if epoch is None else epoch, frames))

    def frame(self, seq: int, **changed: object) -> bytes:
        return transition_frame(replace(self.committed[min(seq, 4) - 1], seq=seq, **changed))


@asynccontextmanager
async def _scene(database: str) -> AsyncIterator[Scene]:
    async with node(database) as writer:
        for number in range(1, 5):
            await writer.receipt(Report(tenant="t", task_id="a", progress=float(number)))
        pools = await Pools.open(LedgerSettings(), database)
        reader = Reader(pools.control, lease_ms=60_000)
        epoch = await reader.epoch()
        hub, watcher = Hub(reader, LocalBus(), reread_seconds=NEVER_SECONDS), Watcher()
        hub.watch(KEY, watcher)
        running = asyncio.create_task(hub.run())
        scene = Scene(hub, pools.control, watcher, writer.heard.of("a"), epoch, writer)
        task = await writer.task()
        hub.seen(KEY, replace(task.head, seq=2))
        await eventually(lambda: watcher.seqs == [3, 4] or not watcher.seqs)
        try:
            yield scene
        finally:
            running.cancel()
            await asyncio.wait([running])
            await pools.close()


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    async with _scene(database) as made:
        yield made


async def test_the_next_events_are_forwarded_without_a_read(scene: Scene) -> None:
    """The frames of 3 and 4 go out as they are, also when the hint reaches further back; a repeat does nothing."""
    frames = [scene.frame(seq) for seq in (2, 3, 4)]
    scene.hint(4, *frames)
    assert [event.frame for event in scene.watcher.events] == frames[1:]
    assert [event.transition for event in scene.watcher.events] == scene.committed[2:]
    scene.hint(4, *frames)
    assert scene.watcher.seqs == [3, 4]


async def test_a_watcher_that_fails_keeps_nothing_from_the_others(scene: Scene) -> None:
    """Whoever stands behind it in the round gets the events as well, which would not come a second time."""
    faulty, others = [Faulty() for _ in range(8)], [Watcher() for _ in range(8)]
    for one, other in zip(faulty, others, strict=True):
        scene.hub.watch(KEY, one)
        scene.hub.watch(KEY, other)
    scene.hint(4, scene.frame(3), scene.frame(4))
    assert [other.seqs for other in (scene.watcher, *others)] == [[3, 4]] * 9
    assert [one.gave_up for one in faulty] == [1] * 8


async def test_over_a_gap_the_ledger_is_read(scene: Scene) -> None:
    """The frame of 4 is not forwarded after 2: both come from the ledger."""
    scene.hint(4, scene.frame(4, message="not what was committed"))
    assert scene.watcher.seqs == []
    await eventually(lambda: scene.watcher.seqs == [3, 4])
    assert scene.watcher.events[1].transition == scene.committed[3]


async def test_of_another_epoch_nothing_is_believed(scene: Scene) -> None:
    """A hint of another history, or of another ledger on the same bus, is none."""
    scene.hint(3, scene.frame(3), epoch="another")
    scene.hint(9, epoch="")
    assert scene.watcher.seqs == []
    scene.hint(3)
    await eventually(lambda: scene.watcher.seqs == [3, 4], what="the true hint is followed")
    assert scene.watcher.events[0].transition == scene.committed[2]


@pytest.mark.parametrize("frames", [[b"{}"], [b""], [b"\xff"], [b'{"type":"snapshot"}'], [b"[" * 50_000]])
async def test_a_frame_that_is_none_leads_to_a_read(scene: Scene, frames: list[bytes]) -> None:
    """What cannot be read is no event; the sequence is still a reason to look."""
    scene.hint(3, *frames)
    assert scene.watcher.seqs == []
    await eventually(lambda: scene.watcher.seqs == [3, 4])


async def test_frames_of_other_sequences_than_they_say_are_not_forwarded(scene: Scene) -> None:
    """Whoever says 3 and brings 7 or 2 is not believed."""
    scene.hint(3, scene.frame(7))
    scene.hint(3, scene.frame(2))
    assert scene.watcher.seqs == []
    await eventually(lambda: scene.watcher.seqs == [3, 4])


async def test_a_hint_beyond_the_end_is_forgotten(scene: Scene) -> None:
    """A sequence that the ledger does not have leads to one read; afterwards true hints are followed as before."""
    scene.hint(1_000_000)
    await eventually(lambda: scene.watcher.seqs == [3, 4])
    receipt = await scene.writer.receipt(Report(tenant="t", task_id="a", progress=5.0))
    scene.hint(receipt.seq)
    await eventually(lambda: scene.watcher.seqs == [3, 4, 5])


async def test_a_hint_that_comes_while_a_client_reads_is_kept(scene: Scene) -> None:
    """It says 4 while somebody reads, and reads 2: the rest is brought to him."""
    late = Watcher()
    scene.hub.unwatch(KEY, scene.watcher)
    scene.hub.watch(KEY, late)
    scene.hint(4, scene.frame(4))
    head = (await scene.writer.task()).head
    scene.hub.seen(KEY, replace(head, seq=4))
    scene.hub.unwatch(KEY, late)
    scene.hub.watch(KEY, late)
    scene.hint(4)
    scene.hub.seen(KEY, None)
    await eventually(lambda: late.seqs == [1, 2, 3, 4])


class Loudspeaker(LocalBus):
    """Keeps what is announced."""

    remote = True

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[Key, int], dict[Key, list[bytes]]]] = []

    def announce(self, epoch: str, heads: Sequence[tuple[Key, int]], frames: Mapping[Key, Sequence[bytes]]) -> None:
        self.said.append((epoch, dict(heads), {key: list(some) for key, some in frames.items()}))


async def test_a_commit_of_the_history_before_is_not_announced_in_the_new_one(scene: Scene) -> None:
    """What was committed just before the epoch changed, and is told just after, is no event of the new history."""
    bus, history = Loudspeaker(), History()
    history.note("before", "")
    hub = Hub(Reader(scene.lane, lease_ms=60_000, history=history), bus)
    third = scene.committed[2:3]
    hub.committed(third, [(KEY, 3)])
    loop = asyncio.get_running_loop()
    loop.call_soon(hub.committed, third, [(KEY, 3)])
    history.note("after", "before")
    await asyncio.sleep(0)
    hub.committed(third, [(KEY, 3)])
    frames = {KEY: [scene.frame(3)]}
    assert bus.said == [("before", {KEY: 3}, frames), ("after", {KEY: 3}, frames)]


async def test_after_a_gap_of_the_bus_the_ledger_is_compared_at_once(scene: Scene) -> None:
    """Whatever was lost is read now, of all tasks or of those that are named; also of one that is being read."""
    scene.hub.missed([task_key("t", "nobody watches")])
    scene.hub.missed(None)
    await eventually(lambda: scene.watcher.seqs == [3, 4])
    await scene.writer.receipt(Report(tenant="t", task_id="a", progress=5.0))
    scene.hub.missed([KEY])
    await eventually(lambda: scene.watcher.seqs == [3, 4, 5])
    late = Watcher()
    scene.hub.unwatch(KEY, scene.watcher)
    scene.hub.watch(KEY, late)
    scene.hub.missed(None)
    scene.hub.seen(KEY, None)
    await eventually(lambda: late.seqs == [1, 2, 3, 4, 5])
