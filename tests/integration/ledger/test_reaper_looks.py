"""When and at how much the reaper looks, and what two of them do."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

from ledger.machine import Liveness, Status
from ledger.pool import LaneConnection
from ledger.pool.dial import Dialer
from ledger.reaper import LAPSES_AT_ONCE, TASKS_PER_LOOK
from ledger.sql import query
from tests.support.limits import generous
from tests.support.node import Node, advisory_locks, connected, node
from tests.support.reaping import OVER, begin_many, cancel, report
from tests.support.waiting import eventually

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
            rows = await connection.fetch("select status, seq, count(*) from ledger.head group by 1, 2")
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
            states = await connection.fetch("select status, seq, count(*) from ledger.head group by 1, 2")
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
