"""The tasks of an owner page by page, and the stages of a cancel, against a real gateway."""

from __future__ import annotations

import asyncio
import socket

import pytest

import ledgerwire
from ledgerwire import Cursor, Status
from tests.support.gateway import Gateway
from tests.support.waiting import WAIT_SECONDS


async def test_the_tasks_of_an_owner_come_newest_first_in_pages(gateway: Gateway) -> None:
    """Each once, by owner, kind and status; and each snapshot is where a watcher can go on."""
    async with ledgerwire.Worker(gateway.ws) as worker:
        for number in range(25):
            await worker.create(f"t{number}", owner="alice", kind="odd" if number % 2 else "even")
        await worker.create("other", owner="bob")
        async with worker.task("t3"):
            pass

        async def names(kind: str | None = None) -> list[str]:
            listed = ledgerwire.history(url=gateway.ws, owner="alice", kind=kind, page_tasks=10)
            return [task.task_id async for task in listed]

        newest_first = [f"t{number}" for number in reversed(range(25))]
        assert await names() == newest_first
        assert await names(kind="even") == newest_first[::2]
        done = [task async for task in ledgerwire.history(url=gateway.ws, statuses=[Status.COMPLETED, Status.FAILED])]
        assert [(task.task_id, task.status, task.seq) for task in done] == [("t3", Status.COMPLETED, 3)]
        after = Cursor(done[0].cursor.epoch, 1)
        assert [change.seq async for change in ledgerwire.watch("t3", url=gateway.ws, after=after)] == [2, 3]
        with pytest.raises(ledgerwire.Rejected, match="bad_request"):
            await anext(ledgerwire.history(url=gateway.ws, statuses=["asleep"]))
        with pytest.raises(ledgerwire.Refused, match="not as a gateway"):
            await anext(ledgerwire.history(url=gateway.ws.replace("/v1/ws", "/v2/v1/ws")))


async def test_a_gateway_that_is_away_is_told_as_unreachable() -> None:
    """Within the time given, with the reason of the last try."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ledgerwire.Unreachable, match="Connection refused"):
        await anext(ledgerwire.history(url=f"ws://127.0.0.1:{port}/v1/ws", timeout_seconds=0.3))


@pytest.mark.parametrize("answer", ["honoured", "refused", "too_late"])
async def test_the_stages_of_a_cancel_come_in_order_to_the_last(gateway: Gateway, answer: str) -> None:
    """Each once; asking again afterwards gives the last at once, unless the work went on."""
    async with ledgerwire.Worker(gateway.ws) as worker, asyncio.timeout(WAIT_SECONDS):
        entered = asyncio.Event()

        async def work() -> None:
            async with worker.task("t") as task:
                entered.set()
                await task.cancel_event.wait()
                if answer == "honoured":
                    task.raise_if_cancelled()
                elif answer == "refused":
                    await task.refuse_cancel()
                    await task.cancel_event.wait()

        working = asyncio.create_task(work())
        await entered.wait()
        stages = [state async for state in ledgerwire.cancel_stages("t", url=gateway.ws, reason="enough")]
        assert [state.stage for state in stages] == ["recorded", "delivered", answer]
        assert stages[0].reason == "enough"
        again = [state.stage async for state in ledgerwire.cancel_stages("t", url=gateway.ws)]
        assert again == (["recorded", "delivered", "too_late"] if answer == "refused" else [answer])
        await working
