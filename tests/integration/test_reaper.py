"""The reaper's promises, on a real database: who is left alone is ended once, and nobody else ever is.

The default patience holds: a lease of 60 s, a grace of 120 s, 30 s for a cancel. Where that would be long to wait for,
time passes in the tables (`pass_time`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from ledger.machine import CancelStage, Liveness, Status
from ledger.model import CancelRequest, Create, Lapse, Receipt, Rejection, Report, fingerprint
from ledger.pool import LaneConnection
from ledger.pool.dial import Dialer
from ledger.reaper import LAPSES_AT_ONCE, TASKS_PER_LOOK
from ledger.sql import query
from tests.support.limits import generous
from tests.support.node import TENANT, Node, advisory_locks, connected, node
from tests.support.waiting import eventually

OVER = 181.0  # lease and grace


def report(task_id: str = "a", **members: Any) -> Report:
    return Report(tenant=TENANT, task_id=task_id, **members)


def cancel(task_id: str = "a") -> CancelRequest:
    return CancelRequest(tenant=TENANT, task_id=task_id, reason="enough")


def create(task_id: str = "a", **members: Any) -> Create:
    digest = fingerprint(task_id, sorted(members.items()))
    return Create(tenant=TENANT, task_id=task_id, idem=digest, digest=digest, **members)


@pytest.fixture
async def it(database: str) -> AsyncIterator[Node]:
    """A node whose reaper looks when it is told to."""
    async with node(database) as it:
        yield it


# Leases


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
        await asyncio.sleep(dice.uniform(0, 0.1))  # so that some come before the reaper, and some behind it
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


async def begin_many(connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
    """So many running tasks of which nothing was heard for years."""
    await connection.execute(
        "insert into ledger.task (key, tenant, task_id, created, status, seq, attempt, n, data_seq, result_seq,"
        " error_seq, beat_at, due_at)"
        " select left(encode(sha256(convert_to($1 || e'\\x1f' || name, 'utf8')), 'hex'), 32)::uuid, $1, name,"
        " true, 'running', 1, i % 3, 0, 0, 0, 0, '2000-01-01', '2000-01-01'"
        " from generate_series(1, $2::integer) i cross join lateral (select 'many-' || i as name) n",
        TENANT,
        count,
    )


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


# Deadlines and cancels


async def begin_pending(it: Node) -> None:
    await it.receipt(create(deadline_ms=5_000))


async def begin_running(it: Node) -> None:
    await it.receipt(report(deadline_ms=5_000))


async def begin_late_deadline(it: Node) -> None:
    await it.receipt(create())
    await it.receipt(report())
    await it.receipt(report(progress=1, deadline_ms=5_000))


async def begin_cancelling(it: Node) -> None:
    await it.receipt(report(deadline_ms=5_000))
    await it.receipt(cancel())


@pytest.mark.parametrize("begin", [begin_pending, begin_running, begin_late_deadline, begin_cancelling])
async def test_a_deadline_ends_a_task_however_it_stands(it: Node, begin: Callable[[Node], Awaitable[None]]) -> None:
    """Failed with the code `deadline`, whether the worker is alive or not; a cancel request came too late."""
    await begin(it)
    before = await it.task()
    await it.pass_time(4)
    await it.look()
    assert (await it.task()).seq == before.seq
    await it.pass_time(1.1)
    await it.look()
    failed = await it.task()
    assert (failed.status, failed.seq) == (Status.FAILED, before.seq + 1)
    assert failed.error is not None
    assert orjson.loads(failed.error)["code"] == "deadline"
    if before.cancel is not None:
        assert failed.cancel is not None
        assert failed.cancel.stage is CancelStage.TOO_LATE


async def test_a_deadline_that_was_put_off_holds(it: Node) -> None:
    """The newest deadline is the one that counts, later or earlier."""
    await it.receipt(report(deadline_ms=5_000))
    await it.receipt(report(deadline_ms=50_000))
    await it.pass_time(6)
    await it.look()
    assert (await it.task()).status is Status.RUNNING
    assert 40 < (await it.row())["due_in"] < 44.1
    await it.receipt(report(deadline_ms=1_000))
    await it.pass_time(1.1)
    await it.look()
    assert (await it.task()).status is Status.FAILED


async def test_a_cancel_without_an_end_is_forced(it: Node) -> None:
    """A worker that hears the request, and goes on, does not stop it; what it says later is refused."""
    await it.receipt(report(attempt=1))
    await it.receipt(cancel())
    await it.pass_time(20)
    await it.receipt(report(attempt=1, cancel="delivered"))
    await it.receipt(report(attempt=1, progress=60))
    await it.pass_time(9)
    await it.look()
    assert (await it.task()).status is Status.CANCELLING
    await it.pass_time(2)
    await it.look()
    task = await it.task()
    assert (task.status, task.seq, task.error) == (Status.CANCELLED, 5, None)
    assert task.cancel is not None
    assert (task.cancel.stage, task.cancel.seq, task.cancel.reason) == (CancelStage.FORCED, 2, "enough")
    assert it.heard.of("a")[-1].cancel is CancelStage.FORCED
    assert (await it.rejection(report(attempt=1, status=Status.CANCELLED))).code == "task_ended"
    again = await it.receipt(cancel())
    assert again.cancel is not None
    assert (again.repeat, again.cancel.stage) == (True, CancelStage.FORCED)


async def test_a_cancel_of_a_task_that_nobody_began_is_forced(it: Node) -> None:
    """It has no lease to lose, not even that of a worker that said once that the task waits."""
    await it.receipt(report("reported", status=Status.PENDING))
    await it.receipt(create("created"))
    await it.pass_time(10_000)
    for name in ("reported", "created"):
        await it.receipt(cancel(name))
    await it.look()
    assert [(await it.task(name)).status for name in ("reported", "created")] == [Status.CANCELLING] * 2
    await it.pass_time(31)
    await it.look()
    for name in ("reported", "created"):
        task = await it.task(name)
        assert task.status is Status.CANCELLED
        assert task.cancel is not None
        assert task.cancel.stage is CancelStage.FORCED


async def test_a_cancel_before_its_task_is_forced_and_answers_a_late_create(it: Node) -> None:
    """Whoever creates the task after that is told that it is cancelled, and nothing begins."""
    await it.receipt(cancel())
    await it.pass_time(31)
    await it.look()
    assert (await it.task()).status is Status.CANCELLED
    late = await it.receipt(create())
    assert (late.status, late.seq, late.repeat) == (Status.CANCELLED, 2, True)
    assert len(it.heard.of("a")) == 2


async def test_a_refused_cancel_is_not_forced_and_one_asked_again_counts_anew(it: Node) -> None:
    """After a refusal the task runs on; the second request has its own 30 s."""
    await it.receipt(report(attempt=1))
    await it.receipt(cancel())
    await it.pass_time(20)
    await it.receipt(report(attempt=1, cancel="refused"))
    await it.pass_time(20)
    await it.look()
    assert (await it.task()).status is Status.RUNNING
    await it.receipt(cancel())
    await it.pass_time(20)
    await it.look()
    assert (await it.task()).status is Status.CANCELLING
    await it.pass_time(11)
    await it.look()
    task = await it.task()
    assert task.status is Status.CANCELLED
    assert task.cancel is not None
    assert (task.cancel.stage, task.cancel.seq) == (CancelStage.FORCED, 4)


async def test_a_worker_that_dies_with_a_cancel_open_is_lost_when_its_lease_ends_first(database: str) -> None:
    """Whatever comes first ends the task, and says why."""
    async with node(database, cancel_grace_seconds=1_000) as it:
        await it.receipt(report())
        await it.receipt(cancel())
        await it.pass_time(OVER)
        await it.look()
        task = await it.task()
        assert task.status is Status.LOST
        assert task.cancel is not None
        assert task.cancel.stage is CancelStage.TOO_LATE


# When it looks


async def test_due_at_does_not_move_with_reports_and_beats(it: Node) -> None:
    """The indexed time is written when a task begins, and when the reaper has looked; not with what workers say."""
    await it.receipt(report("metronome"))
    await it.receipt(report(attempt=1))
    begun = await it.row()
    assert 170 < begun["due_in"] < 181
    for n in range(1, 31):
        await it.receipt(report(attempt=1, n=n, progress=n, digest=f"{n:032x}"))
    await it.receipt(report(attempt=1, message="said in another way", result=b"1"))
    await it.beat(("a", 1))
    now = await it.row()
    assert now["seq"] == 32
    assert now["beat_at"] > begun["beat_at"]
    assert now["due_at"] == begun["due_at"]
    await it.pass_time(150)
    await it.beat(("a", 1))
    await it.pass_time(31)
    await it.look()
    assert (await it.task()).status is Status.RUNNING
    assert 140 < (await it.row())["due_in"] < 150
    await it.receipt(report(attempt=1, status=Status.COMPLETED))
    assert (await it.row())["due_at"] is None


async def test_the_due_tasks_are_found_by_their_index(it: Node) -> None:
    """On the reaper's own kind of connection no statement reads a table from end to end."""
    await it.receipt(report())
    connection = await Dialer(generous(), it.dsn, "reaper")(connection_class=LaneConnection)
    try:
        arguments = {"pulse": (1, True), "due": (1, 1, 1, None, 1)}
        for name, given in arguments.items():
            rows = await connection.fetch(f"explain {query(name)}", *given)
            plan = "\n".join(row[0] for row in rows)
            assert "task_due" in plan, plan
            assert "Seq Scan" not in plan, plan
    finally:
        connection.terminate()


async def test_a_look_that_takes_too_long_is_repeated_with_fewer_tasks(database: str) -> None:
    """On a server that cannot look at 1,000 tasks within its time-out, all are looked at all the same."""
    async with node(database, statement_timeout_ms=10, lock_timeout_ms=5) as it, connected(database) as connection:
        await begin_many(connection, 1_000)
        it.reaper.start()

        async def none_due() -> bool:
            due: int = await connection.fetchval("select count(*) from ledger.task where due_at < now()")
            return due == 0

        await eventually(none_due)


async def test_thousands_at_once_are_ended_and_reports_are_not_starved(database: str) -> None:
    """10,000 tasks are lost together: each once, some at a time, while reports of others are committed beside them."""
    count = 10_000
    async with node(database, queue_limit=20_000) as it:
        await asyncio.gather(*(it.receipt(report(f"many-{number}")) for number in range(count)))
        await it.pass_time(OVER)
        looks, most, done = 0, 0, asyncio.Event()

        async def work() -> int:
            answered = 0
            while not done.is_set():
                await it.receipt(report("busy", progress=answered % 100))
                answered += 1
            return answered

        async def count_waiting() -> None:
            nonlocal most
            while not done.is_set():
                most = max(most, it.writer.waiting)
                await asyncio.sleep(0)  # at every turn of the loop: nothing can come and go unseen

        working, counting = asyncio.create_task(work()), asyncio.create_task(count_waiting())
        while await it.reaper.step() == 0:
            looks += 1
        done.set()
        answered = await working
        await counting
        async with connected(database) as connection:
            rows = await connection.fetch("select status, seq, count(*) from ledger.task group by 1, 2")
        print(f"looks={looks} answered={answered} most waiting={most}")  # noqa: T201 - shown with -s and on failure
        by_state = {(row["status"], row["seq"]): row["count"] for row in rows}
        assert by_state == {("lost", 2): count, ("running", answered): 1}
        assert looks >= count / TASKS_PER_LOOK
        assert answered >= looks
        assert most <= LAPSES_AT_ONCE + 10, "some at a time, beside the reports of one worker"
        assert max(Counter(step.task_id for step in it.heard.transitions if step.status == "lost").values()) == 1


async def test_a_full_queue_puts_the_rest_off(database: str) -> None:
    """While the writer is busy the reaper does not insist: what it cannot hand over is due again in a second."""
    async with node(database, queue_limit=20) as it:
        for number in range(50):
            await it.receipt(report(f"many-{number}"))
        await it.pass_time(OVER)
        since, looks = it.reaper.since, 0
        while len(it.heard.transitions) < 100:
            await it.reaper.step()
            looks += 1
            await it.pass_time(1)
        assert 3 <= looks <= 20
        assert since is not None
        assert it.reaper.since == since - timedelta(seconds=looks), "busy is not away"


# Two reapers, and none


async def test_only_one_reaper_holds_the_lock_and_another_takes_over(database: str) -> None:
    """The one that stops lets go at once; the other one has counted the time as well."""
    async with node(database) as one, node(database) as two:
        await one.look()
        await two.reaper.step()
        assert (one.reaper.holds, two.reaper.holds) == (True, False)
        assert two.reaper.since is not None
        await two.receipt(report())
        await two.pass_time(OVER)
        await two.reaper.step()
        assert (await two.task()).status is Status.RUNNING
        await one.reaper.close()
        assert await advisory_locks(database) == 0
        await two.look()
        assert (await two.task()).status is Status.LOST


async def test_two_that_both_believe_to_be_the_one_do_no_harm(database: str) -> None:
    """500 tasks are looked at by both at the same time: each is lost once, and a report that came stays."""
    async with node(database) as one, node(database) as two:
        await asyncio.gather(*(one.receipt(report(f"both-{number}")) for number in range(500)))
        await one.look()
        await two.reaper.step()
        await one.pass_time(OVER)
        two.reaper.since = one.reaper.since
        two.reaper.holds = True  # as after a lock that went without its session being told
        alive = [await two.receipt(report(f"both-{number}", progress=1)) for number in range(0, 500, 50)]
        await asyncio.gather(one.look(), two.look())
        told = [step.task_id for each in (one, two) for step in each.heard.transitions if step.status == "lost"]
        assert len(told) == len(set(told)) == 490
        async with connected(database) as connection:
            states = await connection.fetch("select status, seq, count(*) from ledger.task group by 1, 2")
    assert {tuple(row) for row in states} == {("lost", 2, 490), ("running", 2, len(alive))}


async def test_a_new_reaper_gives_everybody_a_whole_lease(database: str) -> None:
    """Silence from before the node could hear anybody is no silence: it counts from its first look."""
    async with node(database) as it:
        await it.receipt(report())
        await it.receipt(report("to-stop"))
        await it.receipt(cancel("to-stop"))
        await it.receipt(report("expired", deadline_ms=1_000))
        await it.pass_time(10_000)
    async with node(database) as it:
        await it.look()
        assert (await it.task()).status is Status.RUNNING
        assert (await it.task()).liveness is Liveness.LATE
        assert (await it.task("to-stop")).status is Status.CANCELLING
        assert (await it.task("expired")).status is Status.FAILED, "a deadline is absolute"
        assert 170 < (await it.row())["due_in"] < 180.1
        await it.pass_time(29)
        await it.look()
        assert (await it.task("to-stop")).status is Status.CANCELLING
        await it.pass_time(2)
        await it.look()
        assert (await it.task("to-stop")).status is Status.CANCELLED
        await it.pass_time(150)
        await it.look()
        assert (await it.task()).status is Status.LOST


async def test_what_the_database_refuses_is_left_and_the_others_are_ended(it: Node) -> None:
    """A rule of the operator's against the end of one task does not keep the reaper from the rest."""
    async with connected(it.dsn) as connection:
        await connection.execute(
            "create function forbid() returns trigger language plpgsql as"
            " $$ begin if new.status = 'lost' and new.task_id = 'a' then raise 'never'; end if; return new; end $$;"
            "create trigger forbid before update on ledger.task for each row execute function forbid()"
        )
        for name in ("a", "b"):
            await it.receipt(report(name))
        await it.pass_time(OVER)
        await it.look()
        assert [(await it.task(name)).status for name in ("a", "b")] == [Status.RUNNING, Status.LOST]
        assert 0 < (await it.row())["due_in"] <= 1
        await connection.execute("drop trigger forbid on ledger.task")
    await it.pass_time(1)
    await it.look()
    assert (await it.task()).status is Status.LOST


async def test_a_round_that_fails_does_not_end_the_loop(it: Node) -> None:
    """While its statement cannot be run the reaper keeps trying, and it goes on when that is over."""
    await it.receipt(report())
    it.reaper.start()
    await eventually(lambda: it.reaper.holds)
    async with connected(it.dsn) as connection:
        await connection.execute("alter table ledger.task rename column due_at to elsewhere")
        await eventually(lambda: not it.reaper.holds)
        await connection.execute("alter table ledger.task rename column elsewhere to due_at")
    await eventually(lambda: it.reaper.holds)
