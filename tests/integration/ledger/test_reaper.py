"""The reaper's promises, on a real database: who is left alone is ended once, and nobody else ever is.

The default patience holds: a lease of 60 s, a grace of 120 s, 30 s for a cancel. Where that would be long to wait for,
time passes in the tables (`pass_time`).
"""

from __future__ import annotations

import asyncio
import random

import orjson

from ledger.machine import Liveness, Status
from ledger.model import Lapse, Receipt, Rejection
from tests.support.ledgers import appends_waiting
from tests.support.node import TENANT, Node, connected
from tests.support.reaping import OVER, begin_many, cancel, create, report
from tests.support.waiting import eventually


async def test_a_silent_worker_is_late_and_then_its_task_is_lost_once(it: Node) -> None:
    """Late is what a reader sees; lost is a transition, which those who watch are told of; then nothing follows."""
    await it.receipt(report(progress=40))
    await it.pass_time(59)
    await it.look()
    assert (await it.task()).liveness is Liveness.LIVE
    await it.pass_time(2)
    await it.look()
    assert (await it.task()).liveness is Liveness.LATE
    await it.pass_time(118)
    await it.look()
    assert (await it.task()).status is Status.RUNNING
    await it.pass_time(2)
    for _ in range(3):
        await it.look()
    lost = await it.task()
    assert (lost.status, lost.seq, lost.liveness, lost.progress) == (Status.LOST, 2, Liveness.LOST, 40)
    assert lost.error is not None
    assert orjson.loads(lost.error)["code"] == "lost"
    assert [(step.seq, step.status) for step in it.heard.of("a")] == [(1, "running"), (2, "lost")]
    assert (await it.row())["due_at"] is None
    late = await it.rejection(report(progress=50))
    assert late.code == "task_ended"


async def test_a_report_in_the_last_moment_wins(it: Node) -> None:
    """What the reaper has seen as over is not, when a report comes before its request; the whole lease begins anew."""
    await it.receipt(report())
    await it.pass_time(OVER)
    assert (await it.receipt(report(progress=1))).seq == 2
    overtaken = await it.rejection(Lapse(tenant=TENANT, task_id="a", seq=1, why="lease"))
    assert overtaken.code == "superseded"
    await it.look()
    assert (await it.task()).status is Status.RUNNING
    assert (await it.row())["due_in"] > 170


async def test_reports_that_race_with_the_reaper_are_accepted_or_too_late(it: Node, seed: int) -> None:
    """Each of 300 tasks whose time is over is lost, or its report is in the ledger: never both, never neither."""
    dice = random.Random(seed)
    names = [f"race-{number}" for number in range(300)]
    await asyncio.gather(*(it.receipt(report(name)) for name in names))
    await it.pass_time(OVER)

    async def say(name: str) -> tuple[str, Receipt | Rejection]:
        await asyncio.sleep(dice.uniform(0, 0.1))  # most come before the reaper or beside it
        if dice.random() < 0.2:  # and some behind it, however slow it is
            await eventually(lambda: any(step.status is Status.LOST for step in it.heard.transitions))
        return name, await it.writer.submit(report(name, progress=50))

    reports = asyncio.gather(*(say(name) for name in names))
    await it.look()
    answers = dict(await reports)
    await it.look()
    won, lost = 0, 0
    for name, answer in answers.items():
        task = await it.task(name)
        if isinstance(answer, Receipt):
            assert (task.status, task.seq, task.progress) == (Status.RUNNING, 2, 50)
            won += 1
        else:
            assert answer.code == "task_ended"
            assert (task.status, task.seq, task.progress) == (Status.LOST, 2, None)
            lost += 1
    print(f"reports that won: {won}, tasks that were lost: {lost}")  # noqa: T201 - shown with -s and on failure
    assert won + lost == 300
    assert lost > 0


async def test_a_beat_keeps_the_task(it: Node) -> None:
    """Silence counts from the last beat, with or without an attempt."""
    for name in ("metronome", "a", "b"):
        await it.receipt(report(name, attempt=3))
    await it.pass_time(179)
    await it.beat(("a", 3), ("b", None))
    await it.pass_time(10)
    await it.look()
    assert [(await it.task(name)).status for name in ("a", "b")] == [Status.RUNNING] * 2
    await it.pass_time(OVER)
    await it.look()
    assert [(await it.task(name)).status for name in ("a", "b")] == [Status.LOST] * 2


async def test_a_beat_that_comes_with_a_cancel_is_not_taken_back(it: Node) -> None:
    """The cancel is no sign of the worker: it keeps the last one, also where that is written while the cancel waits."""
    await it.receipt(report(progress=1))
    async with connected(it.dsn) as beating:
        await beating.execute("begin")
        at = await beating.fetchval("update ledger.task set beat_at = clock_timestamp() returning beat_at")
        asked = it.writer.submit(cancel())
        await eventually(lambda: appends_waiting(it.dsn), what="the cancel waits for the beat")
        await beating.execute("commit")
        await asked
    row = await it.row()
    assert (row["status"], row["beat_at"]) == ("cancelling", at)


async def test_a_zombie_keeps_nothing_alive(it: Node) -> None:
    """Neither a beat nor a report of a replaced attempt is a sign of life of the one that holds the task."""
    await it.receipt(report("metronome"))
    await it.receipt(report(attempt=1))
    await it.receipt(report(attempt=2))
    await it.pass_time(100)
    before = (await it.row())["beat_at"]
    assert (await it.rejection(report(attempt=1, progress=1))).code == "fenced"
    await it.beat(("a", 1), ("a", 3))
    assert (await it.row())["beat_at"] == before
    await it.beat(("a", 1), ("a", 2))
    assert (await it.row())["beat_at"] > before
    await it.pass_time(100)
    await it.beat(("a", 1))
    await it.pass_time(81)
    await it.look()
    assert (await it.task()).status is Status.LOST


async def test_a_beat_of_a_task_that_is_locked_comes_again_and_the_others_do_not_wait(it: Node) -> None:
    """One row that somebody holds costs the other tasks nothing, and its own beat only comes later."""
    for name in ("metronome", "a"):
        await it.receipt(report(name))
    before = (await it.row())["beat_at"]
    async with connected(it.dsn) as connection, connection.transaction():
        held = await connection.fetchval("select seq from ledger.task where task_id = 'a' for update")
        assert held == 1
        await it.beat(("a", None))
        assert (await it.row())["beat_at"] == before

    async def beaten() -> bool:
        return bool((await it.row())["beat_at"] > before)

    await eventually(beaten)


async def test_thousands_beat_at_once(it: Node) -> None:
    """As many beats as go into one statement, and some more, are written within its time-out, again and again."""
    await it.receipt(report("metronome"))
    async with connected(it.dsn) as connection:
        await begin_many(connection, 6_000)
        for _ in range(3):
            before = await connection.fetchval("select now()")
            await it.beat(*((f"many-{i}", i % 3) for i in range(1, 6001)), *((f"many-{i}", 7) for i in range(1, 1001)))
            beaten = await connection.fetchval(
                "select count(*) from ledger.task where task_id like 'many-%' and beat_at > $1", before
            )
            assert beaten == 6_000


async def test_a_task_has_its_own_lease_or_the_default(it: Node) -> None:
    """A worker may name a longer or a shorter lease, in any report; the grace is the same for all."""
    await it.receipt(report("short", lease_ms=1_000))
    await it.receipt(report("long", lease_ms=600_000))
    await it.receipt(report("default"))
    await it.receipt(report("later"))
    await it.receipt(report("later", lease_ms=1_000))
    await it.receipt(create("announced", lease_ms=1_000))
    await it.receipt(report("announced"))
    await it.receipt(report("the-longest", lease_ms=2**31 - 1))

    async def lost() -> set[str]:
        await it.look()
        async with connected(it.dsn) as connection:
            rows = await connection.fetch("select task_id from ledger.task where status = 'lost'")
        return {row["task_id"] for row in rows}

    await it.pass_time(119)
    assert await lost() == set()
    await it.pass_time(3)
    assert await lost() == {"short", "later", "announced"}
    await it.pass_time(60)
    assert await lost() == {"short", "later", "announced", "default"}
    await it.pass_time(540)
    assert await lost() == {"short", "later", "announced", "default", "long"}


async def test_a_task_that_nobody_works_on_is_never_lost(it: Node) -> None:
    """Pending tasks wait for ever, whether they were created or reported."""
    await it.receipt(create("created"))
    await it.receipt(report("reported", status=Status.PENDING))
    await it.pass_time(1_000_000)
    await it.look()
    assert [(await it.task(name)).status for name in ("created", "reported")] == [Status.PENDING] * 2
    assert [(await it.row(name))["due_at"] for name in ("created", "reported")] == [None] * 2
