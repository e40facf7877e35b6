"""A worker against a real gateway: what it reports is in the ledger, what it is asked reaches the job."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

import ledgerwire
from ledgerwire import CancelRequest, Status, Timing
from tests.support.gateway import Gateway
from tests.support.waiting import eventually

from .conftest import History


async def test_a_task_goes_from_create_to_its_result(gateway: Gateway, history: History) -> None:
    """Every call returns the receipt of a committed transition."""
    async with ledgerwire.Worker(gateway.ws, client="test/1") as worker:
        created = await worker.create("t", kind="import", owner="alice", data={"file": "a.csv"})
        assert (created.seq, created.status, created.attempt, created.repeat) == (1, Status.PENDING, 0, False)
        assert (await worker.create("t", kind="import", owner="alice", data={"file": "a.csv"})).repeat
        async with worker.task("t") as task:
            assert task.attempt == 1
            receipt = await task.progress(40, stage="parsing", message="…", data={"rows": [1, 2]})
            assert (receipt.task_id, receipt.seq, receipt.status) == ("t", 3, Status.RUNNING)
            await task.progress(stage=None)
            assert (await task.complete({"rows": 3})).status is Status.COMPLETED
    transitions = await history(gateway, "t")
    assert [each["status"] for each in transitions] == ["pending", "running", "running", "running", "completed"]
    assert [each["stage"] for each in transitions] == [None, None, "parsing", None, None]
    assert transitions[-1]["progress"] == 40, "what is left out keeps its value"
    assert transitions[-1]["result"] == {"rows": 3}


async def test_posted_reports_are_committed_each_once_in_their_order(gateway: Gateway, history: History) -> None:
    """Also many tasks at a time, and before the block is left."""
    async with ledgerwire.Worker(gateway.ws) as worker:

        async def work(name: str) -> None:
            async with worker.task(name) as task:
                for n in range(100):
                    task.post(n, message=f"{name} {n}")

        await asyncio.gather(*(work(f"t{number}") for number in range(8)))
        assert worker.queued == 0
    for number in range(8):
        transitions = await history(gateway, f"t{number}")
        assert [each["message"] for each in transitions[1:-1]] == [f"t{number} {n}" for n in range(100)]
        assert transitions[-1]["status"] == "completed"


async def test_a_job_that_fails_says_so_without_its_secrets(gateway: Gateway, history: History) -> None:
    """Type and message reach every watcher; the exception goes on."""
    async with ledgerwire.Worker(gateway.ws) as worker:
        with pytest.raises(OSError, match="hunter2"):
            async with worker.task("t"):
                raise OSError("cannot open postgresql://app:hunter2@db/app")
    (_, failed) = await history(gateway, "t")
    assert failed["status"] == "failed"
    assert failed["error"] == {"type": "OSError", "message": "cannot open postgresql://***@db/app"}


async def test_a_cancelled_coroutine_leaves_the_task_to_another_attempt(gateway: Gateway, history: History) -> None:
    """Nothing terminal is reported when the worker itself is stopped."""
    entered = asyncio.Event()
    async with ledgerwire.Worker(gateway.ws) as worker:

        async def work() -> None:
            async with worker.task("t") as task:
                task.post(10)
                entered.set()
                await asyncio.Event().wait()

        job = asyncio.create_task(work())
        await entered.wait()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        async with worker.task("t") as task:
            assert task.attempt == 2
    statuses = [each["status"] for each in await history(gateway, "t")]
    assert statuses in (["running", "running", "running", "completed"], ["running", "running", "completed"])


async def test_a_cancel_is_heard_delivered_and_honoured(gateway: Gateway, history: History) -> None:
    """The request comes without the job reporting anything; leaving with it ends the task as cancelled."""
    async with ledgerwire.Worker(gateway.ws) as worker, worker.task("t") as task:
        task.raise_if_cancelled()
        receipt = await ledgerwire.cancel("t", url=gateway.ws, reason="changed my mind")
        assert receipt.cancel is not None
        assert (receipt.cancel.stage, receipt.status) == ("recorded", Status.CANCELLING)
        assert await task.wait_for_cancel(5.0)
        assert task.cancel_requested == CancelRequest(2, "changed my mind")
        task.raise_if_cancelled()
        pytest.fail("a cancel was requested")
    cancels = [(each["seq"], each["cancel"]["stage"]) for each in (await history(gateway, "t"))[1:]]
    assert cancels == [(2, "recorded"), (3, "delivered"), (4, "honoured")]


async def test_a_refused_cancel_lets_the_work_go_on_and_the_next_is_heard(gateway: Gateway) -> None:
    """`cancel_requested` is about the open request only."""
    async with ledgerwire.Worker(gateway.ws) as worker, worker.task("t") as task:
        await worker.cancel("t")
        assert await task.wait_for_cancel(5.0)
        assert (await task.refuse_cancel()).status is Status.RUNNING
        assert task.cancel_requested is None
        assert not task.cancel_event.is_set()
        again = await worker.cancel("t", reason="really")
        assert await task.wait_for_cancel(5.0)
        with pytest.raises(ledgerwire.CancelRequested) as requested:
            task.raise_if_cancelled()
        assert (requested.value.seq, requested.value.reason) == (again.seq, "really")
        assert (await task.complete()).status is Status.COMPLETED
    late = await ledgerwire.cancel("t", url=gateway.ws)
    assert late.cancel is not None
    assert late.cancel.stage == "too_late"


async def test_a_cancel_from_before_the_beginning_is_told_at_the_beginning(gateway: Gateway, history: History) -> None:
    """And answered as delivered by itself."""
    await ledgerwire.cancel("t", url=gateway.ws)
    async with ledgerwire.Worker(gateway.ws) as worker, worker.task("t") as task:
        assert task.cancel_requested == CancelRequest(1)
        task.raise_if_cancelled()
    stages = [each.get("cancel", {}).get("stage") for each in await history(gateway, "t")]
    assert stages == ["recorded", None, "delivered", "honoured"]


async def test_the_newer_attempt_fences_the_older(gateway: Gateway) -> None:
    """Whoever reports for the older one is told, and its work is asked to stop."""
    async with ledgerwire.Worker(gateway.ws) as worker:
        older = await worker.task("t").__aenter__()
        async with worker.task("t") as newer:
            older.post(1)
            assert await older.wait_for_cancel(5.0)
            with pytest.raises(ledgerwire.Fenced):
                older.post(2)
            with pytest.raises(ledgerwire.Fenced):
                await older.progress(2)
            with pytest.raises(ledgerwire.Fenced):
                older.raise_if_cancelled()
            assert (await newer.progress(5)).attempt == 2
        with pytest.raises(ledgerwire.Fenced, match="replaced by attempt 2"):
            await older.__aexit__(None, None, None)  # there is nothing left that it could end
        with pytest.raises(ledgerwire.TaskEnded):
            await worker.task("t").__aenter__()


async def test_a_rejected_post_is_raised_by_the_next_await_or_when_the_block_is_left(gateway: Gateway) -> None:
    """Never silently dropped; the end of the task is reported all the same."""
    async with ledgerwire.Worker(gateway.ws) as worker:
        async with worker.task("a") as task:
            task.post(101)
            with pytest.raises(ledgerwire.Rejected, match="bad_request"):
                await task.progress(50)
            await task.progress(60)
        with pytest.raises(ledgerwire.Rejected, match="bad_request"):
            async with worker.task("b") as task:
                task.post(101)
        with pytest.raises(ledgerwire.TaskEnded, match="completed"):
            await worker.task("b").__aenter__()


async def test_a_result_that_is_too_large_fails_the_job(gateway: Gateway, history: History) -> None:
    """The end is not lost with the result."""
    async with ledgerwire.Worker(gateway.ws) as worker:

        @worker.job()
        async def large(_: ledgerwire.Task) -> str:
            return "x" * 40_000

        with pytest.raises(ledgerwire.Rejected, match="bad_request"):
            await large("t")
    assert (await history(gateway, "t"))[-1]["status"] == "failed"


async def test_a_job_returns_its_result_and_reports_it(gateway: Gateway, history: History) -> None:
    """Arguments pass through; None when it was cancelled."""
    async with ledgerwire.Worker(gateway.ws) as worker:

        @worker.job(kind="sum", owner="alice")
        async def add(task: ledgerwire.Task, *values: int, cancel: bool = False) -> int:
            """Adds."""
            if cancel:
                await worker.cancel(task.task_id)
                await task.cancel_event.wait()
                task.raise_if_cancelled()
            return sum(values)

        assert add.__doc__ == "Adds."
        assert await add("a", 1, 2) == 3
        assert await add("b", 1, cancel=True) is None
    assert (await history(gateway, "a"))[-1]["result"] == 3
    assert (await history(gateway, "b"))[-1]["status"] == "cancelled"


async def snapshot(gateway: Gateway, task_id: str) -> dict[str, Any]:
    """The task as it stands, read by raw frames."""
    async with gateway.client() as peer:
        await peer.ask(type="subscribe", tasks=[{"task_id": task_id}])
        await peer.expect("subscribed")
        task: dict[str, Any] = (await peer.expect("snapshot"))["task"]
        return task


async def test_a_quiet_task_is_kept_alive_by_beats(gateway: Gateway, history: History) -> None:
    """They are seen, and make no transition."""

    async def has_beaten() -> bool:
        task = await snapshot(gateway, "t")
        return bool(task["beat_at"] > task["updated_at"])

    async with ledgerwire.Worker(gateway.ws, timing=Timing(beat_seconds=0.1)) as worker, worker.task("t"):
        await eventually(has_beaten)
    assert len(await history(gateway, "t")) == 2


async def test_the_beats_of_a_replaced_attempt_keep_nothing_alive(gateway: Gateway) -> None:
    """They name the attempt; those of another task in the same frames show that they were sent."""

    async def other_has_beaten() -> bool:
        other = await snapshot(gateway, "other")
        return bool(other["beat_at"] > replaced_at)

    async with ledgerwire.Worker(gateway.ws, timing=Timing(beat_seconds=0.1)) as worker:
        with pytest.raises(ledgerwire.Fenced):
            async with worker.task("t"), worker.task("other"):
                async with gateway.client() as peer:
                    await peer.ask(type="report", task_id="t", attempt=2, n=1)
                replaced_at = (await snapshot(gateway, "t"))["beat_at"]
                await eventually(other_has_beaten)
                assert (await snapshot(gateway, "t"))["beat_at"] == replaced_at


@pytest.mark.parametrize(
    ("beat_seconds", "asked_seconds", "lease_seconds"), [(0.01, None, 1.0), (30.0, None, 120.0), (0.01, 300.0, 300.0)]
)
async def test_a_worker_asks_for_a_lease_that_fits_its_beats(
    gateway: Gateway, database: str, beat_seconds: float, asked_seconds: float | None, lease_seconds: float
) -> None:
    """Four of them but a second at least, or what the job asks for; a deadline where one is given."""
    timing = Timing(beat_seconds=beat_seconds)
    async with ledgerwire.Worker(gateway.ws, timing=timing) as worker:
        await worker.create("t", deadline_seconds=3_600)
        assert (await snapshot(gateway, "t"))["deadline_at"] is not None
        async with worker.task("t", lease_seconds=asked_seconds, deadline_seconds=7_200):
            connection = await asyncpg.connect(database)
            try:
                row = await connection.fetchrow(
                    "select lease_ms, extract(epoch from deadline_at - updated_at)::int as deadline from ledger.task"
                )
            finally:
                await connection.close()
    assert row is not None
    assert (row["lease_ms"], row["deadline"]) == (lease_seconds * 1_000, 7_200)


async def test_payloads_that_json_cannot_say_are_refused_at_once(gateway: Gateway, history: History) -> None:
    """Nothing of them is queued, and the task goes on."""
    async with ledgerwire.Worker(gateway.ws) as worker, worker.task("t") as task:
        with pytest.raises(TypeError):
            task.post(data=object())
        with pytest.raises(ValueError, match="0 to 100"):
            task.post(float("nan"))
        with pytest.raises(ledgerwire.Rejected, match="frame_too_large"):
            task.post(data="x" * 100_000)
    assert [each["status"] for each in await history(gateway, "t")] == ["running", "completed"]
