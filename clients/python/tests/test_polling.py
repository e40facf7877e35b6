"""A watcher where no WebSocket comes through: it polls, and returns to the socket without a hole or a repeat."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

import ledgerwire
from ledger import epoch
from ledgerwire import Change, Cursor, Jumped, Snapshot, Status, Timing, Transition
from tests.support.gateway import Gateway
from tests.support.limits import generous
from tests.support.waiting import WAIT_SECONDS, eventually

from .literal import WELCOME, Narrow, literal_gateway

QUICK = Timing(reconnect_floor_seconds=0.01, reconnect_ceiling_seconds=0.2, poll_seconds=0.05)


@pytest.fixture
async def narrow(gateway: Gateway) -> AsyncIterator[Narrow]:
    """A way to the gateway that takes no sockets until it is told to."""
    async with Narrow(gateway.port).open() as way:
        yield way


async def test_where_no_socket_comes_through_everything_comes_by_polls(gateway: Gateway, narrow: Narrow) -> None:
    """A held task, its whole stream, one that had ended before, snapshots alone, and a cancel with its receipt."""
    async with ledgerwire.Watcher(narrow.url, timing=QUICK) as watcher, asyncio.timeout(WAIT_SECONDS):

        async def all_of(task_id: str) -> list[Change]:
            return [change async for change in watcher.subscribe(task_id, wait_seconds=60)]

        held = asyncio.create_task(all_of("held"))
        await eventually(lambda: narrow.seen["/v1/poll"] >= 2)
        assert watcher.polling
        assert not watcher.connected
        async with ledgerwire.Worker(gateway.ws) as worker, worker.task("held") as task:
            for n in range(300):
                task.post(n / 3)
            await task.complete({"rows": 300})
        changes = await held
        assert [change.seq for change in changes] == list(range(1, 303))
        assert all(isinstance(change, Transition) for change in changes)
        assert changes[-1].result == {"rows": 300}
        (ended,) = await all_of("held")
        assert isinstance(ended, Snapshot)
        assert [change async for change in watcher.subscribe("held", after=ended.cursor)] == []

        async with ledgerwire.Worker(gateway.ws) as worker, worker.task("t") as task:
            latest = watcher.subscribe("t", mode="latest")
            assert (await anext(latest)).status is Status.RUNNING
            receipt = await watcher.cancel("t", reason="enough")
            assert receipt.cancel is not None
            assert (receipt.cancel.stage, receipt.status) == ("recorded", Status.CANCELLING)
            await task.cancel_event.wait()
            task.raise_if_cancelled()
        assert [change.status async for change in latest][-1] is Status.CANCELLED
        with pytest.raises(ledgerwire.Rejected, match="bad_task_id"):
            await watcher.cancel("no spaces please")
        with pytest.raises(ledgerwire.Rejected, match="bad_task_id"):
            await anext(watcher.subscribe("no spaces please"))
    assert narrow.seen["/v1/ws"] > 3


async def test_the_way_changes_again_and_again_and_nothing_is_lost_or_doubled(
    gateway: Gateway, narrow: Narrow, dice: random.Random
) -> None:
    """Sockets break off and are refused, polls take over, and a socket comes back, at moments drawn by chance."""
    count, changed = 400, 0
    ways: set[str] = set()
    seen: list[Change] = []
    async with asyncio.timeout(WAIT_SECONDS), gateway.client() as peer:
        await peer.ask(type="report", task_id="t")
        async with ledgerwire.Watcher(narrow.url, timing=QUICK, dice=dice) as watcher:

            async def watch() -> None:
                seen.extend([change async for change in watcher.subscribe("t", after=Cursor(peer.epoch, 0))])

            watching = asyncio.create_task(watch())
            for seq in range(2, count + 1):
                status = {"status": "completed"} if seq == count else {}
                await peer.ask(type="report", task_id="t", progress=seq % 100, **status)
                if dice.random() < 0.02 or seq in {100, 200}:
                    changed += 1
                    if narrow.narrow:
                        narrow.narrow = False
                        await eventually(lambda: watcher.connected)
                        assert not watcher.polling
                    else:
                        narrow.begin()
                        await eventually(lambda: watcher.polling)
                ways.add("socket" if watcher.connected else "polls" if watcher.polling else "neither")
            await watching
    assert changed >= 2
    assert {"socket", "polls"} <= ways
    assert [change.seq for change in seen] == list(range(1, count + 1))
    assert all(isinstance(change, Transition) for change in seen)


async def test_a_new_epoch_is_a_jump_in_polls_too(gateway: Gateway, narrow: Narrow, database: str) -> None:
    """And a cursor of another history, or beyond the head, is told as over a socket."""
    async with gateway.client() as peer:
        for progress in (1, 2, 3):
            await peer.ask(type="report", task_id="t", progress=progress)
    async with ledgerwire.Watcher(narrow.url, timing=QUICK) as watcher, asyncio.timeout(WAIT_SECONDS):
        for origin, reason in ((Cursor("older", 1), "other_epoch"), (Cursor(peer.epoch, 99), "beyond_head")):
            async with contextlib.aclosing(watcher.subscribe("t", after=origin)) as changes:
                jumped = await anext(changes)
            assert isinstance(jumped, Jumped)
            assert (jumped.reason, jumped.origin, jumped.seq, jumped.progress) == (reason, origin, 3, 3)
        async with contextlib.aclosing(watcher.subscribe("t")) as changes:
            before = await anext(changes)
            begun = await epoch.begin(generous(), database)
            jumped = await anext(changes)
            assert isinstance(jumped, Jumped)
            assert (jumped.reason, jumped.origin) == ("other_epoch", before.cursor)
            assert jumped.cursor == Cursor(begun.name, 3)


async def test_after_five_unknown_answers_in_a_row_a_watcher_stops(narrow: Narrow) -> None:
    """Over a socket and by polls, with an error that says which id; the number can be chosen."""
    unknown = {
        "type": "subscribed",
        "task_id": "nobody",
        "verdict": "unknown",
        "epoch": "e",
        "seq": 0,
        "recovered": False,
        "waiting": False,
    }
    async with asyncio.timeout(WAIT_SECONDS):
        async with literal_gateway({"hello": [WELCOME], "subscribe": [unknown]}) as (url, heard):
            for answers in (5, 2):
                heard.clear()
                with pytest.raises(ledgerwire.UnknownTask, match="nobody"):
                    await anext(ledgerwire.watch("nobody", url=url, timing=QUICK, unknown_answers=answers))
                assert sum(each["type"] == "subscribe" for each in heard) == answers
        with pytest.raises(ledgerwire.UnknownTask, match="nobody"):
            await anext(ledgerwire.watch("nobody", url=narrow.url, timing=QUICK))
        assert narrow.seen["/v1/poll"] == 5


async def test_an_address_without_a_gateway_is_refused_on_both_ways(narrow: Narrow) -> None:
    """What the upgrade was answered with is the reason."""
    wrong = narrow.url.replace("/v1/ws", "/elsewhere/v1/ws")
    async with asyncio.timeout(WAIT_SECONDS):
        with pytest.raises(ledgerwire.Refused, match="HTTP 400"):
            await anext(ledgerwire.watch("t", url=wrong, timing=QUICK))
    assert narrow.seen["/elsewhere/v1/poll"] >= 1


async def test_a_gateway_that_is_only_busy_is_not_polled(gateway: Gateway, narrow: Narrow) -> None:
    """It has said when to come again; polls of a whole crowd would not help it."""
    narrow.refusal = b"503 Service Unavailable\r\nRetry-After: 0"
    async with gateway.client() as peer:
        await peer.ask(type="report", task_id="t", status="completed")
    async with ledgerwire.Watcher(narrow.url, timing=QUICK) as watcher, asyncio.timeout(WAIT_SECONDS):
        first = asyncio.create_task(anext(watcher.subscribe("t")))
        await eventually(lambda: narrow.seen["/v1/ws"] > 5)
        narrow.narrow = False
        assert (await first).status is Status.COMPLETED
    assert set(narrow.seen) == {"/v1/ws"}
