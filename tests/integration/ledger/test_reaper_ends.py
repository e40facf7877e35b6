"""What else than silence ends a task by itself: its deadline, and a cancel that nobody answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
import pytest

from ledger.machine import CancelStage, Status
from tests.support.node import Node, node
from tests.support.reaping import OVER, cancel, create, report

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
