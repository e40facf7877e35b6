"""A watcher against a real gateway: everything once, in order, or told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator

import pytest

import ledgerwire
from ledger import epoch
from ledgerwire import Change, Cursor, Jumped, Liveness, Snapshot, Status, Timing, Transition, WorkerLiveness
from tests.support.gateway import Gateway, in_process
from tests.support.limits import generous
from tests.support.proxy import Link, Proxy
from tests.support.waiting import WAIT_SECONDS, eventually

QUICK = Timing(reconnect_ceiling_seconds=0.5, open_seconds=1.0)


def through(proxy: Proxy) -> str:
    return f"ws://127.0.0.1:{proxy.port}/v1/ws"


@contextlib.asynccontextmanager
async def through_proxy(gateway: Gateway, timing: Timing) -> AsyncIterator[tuple[ledgerwire.Watcher, Proxy]]:
    """A watcher whose link can be made to fail."""
    async with (
        Proxy(("127.0.0.1", gateway.port)) as proxy,
        ledgerwire.Watcher(through(proxy), timing=timing) as watcher,
    ):
        yield watcher, proxy


async def report(gateway: Gateway, task_id: str, count: int, *, end: bool = True) -> None:
    """`count` transitions of a task, the last of them terminal, written by raw frames."""
    async with gateway.client() as peer:
        for seq in range(1, count + 1):
            last = {"status": "completed", "result": {"rows": count}} if end and seq == count else {}
            await peer.send(type="report", id=seq, task_id=task_id, progress=seq % 100, **last)
            if seq % 100 == 0 or seq == count:
                for answered in range(seq - (seq - 1) % 100, seq + 1):
                    await peer.expect("reply", id=answered, ok=True)


def assert_each_once(changes: list[Change], first: int, last: int) -> None:
    assert [change.seq for change in changes] == list(range(first, last + 1))
    assert all(isinstance(change, Transition) for change in changes)


async def test_a_task_is_seen_from_its_first_transition_to_its_last(gateway: Gateway) -> None:
    """Also by a watcher that was there before the task; the iteration then ends by itself."""

    async def watch() -> list[Change]:
        return [change async for change in ledgerwire.watch("t", url=gateway.ws, wait_seconds=30)]

    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        watching = [group.create_task(watch()) for _ in range(3)]
        group.create_task(report(gateway, "t", 50))
    for watched in watching:
        changes = watched.result()
        assert changes[-1].status is Status.COMPLETED
        transitions = changes if isinstance(changes[0], Transition) else changes[1:]
        assert_each_once(transitions, changes[-1].seq - len(transitions) + 1, 50)
        end = changes[-1]
        assert isinstance(end, Transition | Snapshot)
        assert end.result == {"rows": 50}


async def test_a_kept_cursor_resumes_exactly_there(gateway: Gateway) -> None:
    """Also when it was written down as text in between; a task seen to its end has nothing more to show."""
    await report(gateway, "t", 10)
    (snapshot,) = [change async for change in ledgerwire.watch("t", url=gateway.ws)]
    assert isinstance(snapshot, Snapshot)
    assert (snapshot.seq, snapshot.status, snapshot.result) == (10, Status.COMPLETED, {"rows": 10})
    after = Cursor.parse(f"{snapshot.cursor.epoch}:6")
    assert_each_once([change async for change in ledgerwire.watch("t", url=gateway.ws, after=after)], 7, 10)
    assert [change async for change in ledgerwire.watch("t", url=gateway.ws, after=snapshot.cursor)] == []


async def test_a_cursor_that_cannot_be_continued_is_a_jump(gateway: Gateway) -> None:
    """Another epoch, or a sequence that the ledger does not have."""
    await report(gateway, "t", 3, end=False)
    async with ledgerwire.Watcher(gateway.ws) as watcher:
        origin = Cursor("older", 40)
        for reason in ("other_epoch", "beyond_head"):
            changes = watcher.subscribe("t", after=origin)
            async with contextlib.aclosing(changes):
                jumped = await anext(changes)
            assert isinstance(jumped, Jumped)
            assert (jumped.reason, jumped.seq, jumped.status, jumped.progress) == (reason, 3, "running", 3)
            assert jumped.origin == origin
            origin = Cursor(jumped.cursor.epoch, 99)


async def test_a_new_epoch_is_a_jump_in_the_middle_of_a_stream(gateway: Gateway, database: str) -> None:
    """The gateway says bye, the watcher comes back by itself and shows where it has jumped to; a worker works on."""
    async with (
        asyncio.timeout(WAIT_SECONDS),
        ledgerwire.Worker(gateway.ws) as worker,
        ledgerwire.Watcher(gateway.ws) as watcher,
    ):
        async with worker.task("t") as task:
            await task.progress(1)
            changes = watcher.subscribe("t")
            async with contextlib.aclosing(changes):
                before = await anext(changes)
                begun = await epoch.begin(generous(), database)
                assert before.cursor.epoch == begun.before
                jumped = await anext(changes)
                assert isinstance(jumped, Jumped)
                assert (jumped.reason, jumped.origin) == ("other_epoch", before.cursor)
                assert jumped.cursor == Cursor(begun.name, before.seq)
                await task.progress(2)
                following = await anext(changes)
                assert isinstance(following, Transition)
                assert (following.cursor, following.progress) == (Cursor(begun.name, before.seq + 1), 2)


async def test_an_unknown_task_is_told_soon_or_after_the_wait(gateway: Gateway) -> None:
    """Never an endless silence."""
    async with ledgerwire.Watcher(gateway.ws) as watcher:
        for wait_seconds in (None, 0.2):
            with pytest.raises(ledgerwire.UnknownTask):
                async with asyncio.timeout(WAIT_SECONDS):
                    await anext(watcher.subscribe("nobody", wait_seconds=wait_seconds))
        with pytest.raises(ledgerwire.Rejected, match="bad_task_id"):
            await anext(watcher.subscribe("no spaces please"))


async def test_many_tasks_share_one_connection(gateway: Gateway, proxy: Proxy) -> None:
    """Each is an iterator of its own, one at a time; closing it makes room for another."""
    async with ledgerwire.Watcher(through(proxy)) as watcher:

        async def watch(name: str) -> list[Change]:
            return [change async for change in watcher.subscribe(name, wait_seconds=30)]

        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
            watching = [group.create_task(watch(f"t{number}")) for number in range(20)]
            for number in range(20):
                group.create_task(report(gateway, f"t{number}", 30))
        assert all(watched.result()[-1].seq == 30 for watched in watching)

        await report(gateway, "live", 1, end=False)
        first = watcher.subscribe("live")
        assert (await anext(first)).seq == 1
        with pytest.raises(ValueError, match="already"):
            await anext(watcher.subscribe("live"))
        await first.aclose()
        second = watcher.subscribe("live")
        assert (await anext(second)).seq == 1
        await second.aclose()
    assert proxy.accepted == 1


async def test_a_slow_consumer_gets_everything_and_holds_up_nobody(gateway: Gateway) -> None:
    """Its buffer is bounded; the rest comes from the ledger when it is ready."""
    count = 1_500
    async with ledgerwire.Watcher(gateway.ws, buffer_changes=16, timing=Timing(slow_seconds=0.05)) as watcher:
        slow = watcher.subscribe("slow", wait_seconds=30)
        seen: list[Change] = []
        begun = asyncio.create_task(report(gateway, "slow", count))
        seen.append(await anext(slow))
        await begun
        async with asyncio.timeout(WAIT_SECONDS):
            await report(gateway, "fast", 200)
            fast = [change async for change in watcher.subscribe("fast", after=Cursor(seen[0].cursor.epoch, 0))]
            assert_each_once(fast, 1, 200)
            seen += [change async for change in slow]
    assert [change.seq for change in seen] == list(range(seen[0].seq, count + 1))


async def test_a_link_that_breaks_again_and_again_hides_and_doubles_nothing(
    gateway: Gateway, proxy: Proxy, dice: random.Random
) -> None:
    """The stream goes on from the cursor over the next connection."""
    count, broken = 600, 0
    await report(gateway, "t", 1, end=False)
    seen: list[Change] = []
    async with asyncio.timeout(WAIT_SECONDS):
        async with ledgerwire.Watcher(through(proxy), timing=QUICK, dice=dice) as watcher:
            changes = watcher.subscribe("t")
            seen.append(await anext(changes))
            assert seen[0].seq == 1
            async with gateway.client() as peer:
                for seq in range(2, count + 1):
                    status = {"status": "failed"} if seq == count else {}
                    await peer.ask(type="report", task_id="t", progress=seq % 100, **status)
                    if dice.random() < 0.02:
                        broken += 1
                        proxy.set(Link.RESET)
                        proxy.set(Link.PASS)
                    if dice.random() < 0.3:
                        seen.append(await anext(changes))
            seen += [change async for change in changes]
    assert broken >= 2
    assert_each_once(seen[1:], 2, count)
    assert seen[-1].status is Status.FAILED


async def test_a_silent_connection_is_abandoned(database: str) -> None:
    """A half-open socket looks alive; only the missing pings tell."""
    timing = Timing(silence_margin_seconds=0.2, reconnect_ceiling_seconds=0.2, open_seconds=1.0)
    async with in_process(database, ping_interval_seconds=1.0) as gateway:
        await report(gateway, "t", 1, end=False)
        async with through_proxy(gateway, timing) as (watcher, proxy):
            changes = watcher.subscribe("t")
            assert (await anext(changes)).seq == 1
            proxy.set(Link.STALL)
            await eventually(lambda: proxy.accepted >= 2)
            assert not watcher.connected
            await report(gateway, "t", 2)
            proxy.set(Link.PASS)
            async with asyncio.timeout(WAIT_SECONDS):
                assert_each_once([change async for change in changes], 2, 3)


async def test_pings_are_answered_so_that_an_idle_watcher_stays(database: str) -> None:
    """A peer of the same age that does not answer is sent away meanwhile."""
    async with in_process(database, ping_interval_seconds=1.0) as gateway:
        await report(gateway, "t", 1, end=False)
        async with through_proxy(gateway, Timing()) as (watcher, proxy):
            changes = watcher.subscribe("t")
            assert (await anext(changes)).seq == 1
            async with gateway.client() as mute, asyncio.timeout(WAIT_SECONDS):
                while '"bye"' not in str(await mute.socket.recv()):
                    pass
            assert watcher.connected
            assert proxy.accepted == 1
            await changes.aclose()


async def test_mode_latest_shows_only_snapshots_and_ends_with_the_last(gateway: Gateway) -> None:
    """What is skipped on the way is skipped by intent."""
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(report(gateway, "t", 300))
        changes = [change async for change in ledgerwire.watch("t", url=gateway.ws, wait_seconds=30, mode="latest")]
    assert all(isinstance(change, Snapshot) for change in changes)
    seqs = [change.seq for change in changes]
    assert seqs == sorted(set(seqs))
    assert (seqs[-1], changes[-1].status) == (300, Status.COMPLETED)


async def test_a_cancel_through_a_watcher_is_seen_by_it(gateway: Gateway) -> None:
    """The receipt and the transition name the same sequence."""
    await report(gateway, "t", 1, end=False)
    async with ledgerwire.Watcher(gateway.ws) as watcher:
        changes = watcher.subscribe("t")
        await anext(changes)
        receipt = await watcher.cancel("t", reason="enough")
        change = await anext(changes)
        await changes.aclose()
    assert isinstance(change, Transition)
    assert (change.seq, change.status) == (receipt.seq, Status.CANCELLING)
    assert change.cancel is not None
    assert (change.cancel.stage, change.cancel.reason) == ("recorded", "enough")


async def test_a_worker_that_falls_silent_is_told_and_its_task_ends_as_lost(database: str) -> None:
    """Late first, beside the changes; lost is the last change, with its reason. A callback that fails harms nobody."""
    settings = generous(database_url=database, lease_seconds=0.5, lease_grace_seconds=3)
    told: list[WorkerLiveness] = []

    def on_liveness(worker: WorkerLiveness) -> None:
        told.append(worker)
        raise ValueError("a mistake of the consumer")

    async with in_process(database, ledger=settings) as gateway:
        await report(gateway, "t", 1, end=False)
        async with asyncio.timeout(WAIT_SECONDS):
            watching = ledgerwire.watch("t", url=gateway.ws, on_liveness=on_liveness)
            changes = [change async for change in watching]
    assert [(type(change), change.status) for change in changes] == [(Snapshot, "running"), (Transition, "lost")]
    assert changes[-1].error["code"] == "lost"
    assert [(worker.task_id, worker.liveness) for worker in told] == [("t", Liveness.LATE), ("t", Liveness.LOST)]
    assert (told[0].beat_age_ms or 0) >= 500


async def test_a_late_worker_is_not_called_live_because_the_link_broke(database: str) -> None:
    """A new connection is no sign of life; the worker's next report is."""
    settings = generous(database_url=database, lease_seconds=0.5, lease_grace_seconds=60)
    timing = Timing(reconnect_ceiling_seconds=0.2)
    told: list[WorkerLiveness] = []
    async with in_process(database, ledger=settings) as gateway:
        await report(gateway, "t", 1, end=False)
        await report(gateway, "other", 1, end=False)
        async with through_proxy(gateway, timing) as (watcher, proxy), asyncio.timeout(WAIT_SECONDS):
            changes = watcher.subscribe("t", on_liveness=told.append)
            assert (await anext(changes)).seq == 1
            await eventually(lambda: bool(told))
            proxy.set(Link.RESET)
            proxy.set(Link.PASS)
            await eventually(lambda: proxy.accepted >= 2 and watcher.connected)
            other = watcher.subscribe("other")  # answered behind what the new connection says of "t"
            assert (await anext(other)).seq == 1
            await other.aclose()
            assert [worker.liveness for worker in told] == [Liveness.LATE]
            await report(gateway, "t", 1, end=False)
            assert (await anext(changes)).seq == 2
            await eventually(lambda: len(told) >= 2)
            await changes.aclose()
    assert [worker.liveness for worker in told[:2]] == [Liveness.LATE, Liveness.LIVE]


async def test_a_cancel_that_nobody_answers_is_shown_as_forced(database: str) -> None:
    """In the transition, and to whoever comes later."""
    settings = generous(database_url=database, cancel_grace_seconds=0.1)
    async with in_process(database, ledger=settings) as gateway, ledgerwire.Watcher(gateway.ws) as watcher:
        await report(gateway, "t", 1, end=False)
        await watcher.cancel("t")
        async with asyncio.timeout(WAIT_SECONDS):
            changes = [change async for change in watcher.subscribe("t")]
            (ended,) = [change async for change in watcher.subscribe("t")]
    assert (changes[-1].status, changes[-1].forced) == (Status.CANCELLED, True)
    assert not any(change.forced for change in changes[:-1])
    assert (ended.forced, ended.cancel and ended.cancel.stage) == (True, "forced")


async def test_a_gateway_that_never_answers_is_told_as_unreachable() -> None:
    """After `unreachable_seconds`, with the reason of the last try."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    timing = Timing(unreachable_seconds=0.3, reconnect_ceiling_seconds=0.1)
    with pytest.raises(ledgerwire.Unreachable, match="no connection"):
        async with asyncio.timeout(WAIT_SECONDS):
            await anext(ledgerwire.watch("t", url=f"ws://127.0.0.1:{port}/v1/ws", timing=timing))


async def test_a_closed_watcher_ends_its_iterations(gateway: Gateway) -> None:
    """Nobody is left waiting."""
    await report(gateway, "t", 1, end=False)
    async with ledgerwire.Watcher(gateway.ws) as watcher:
        changes = watcher.subscribe("t")
        await anext(changes)
        waiting = asyncio.create_task(anext(changes))
    with pytest.raises(ledgerwire.Closed):
        await waiting
    with pytest.raises(ledgerwire.Closed):
        await watcher.cancel("t")
