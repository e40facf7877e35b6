"""The store that takes the place of a service's dict, against a real gateway in a process of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ledgerwire
from ledgerwire import TaskStore
from tests.support.gateway import GatewayProcess, in_process
from tests.support.waiting import WAIT_SECONDS

from .conftest import History

TOKEN = "0123456789abcdef0123456789abcdef"
WORDS = {"queued": "pending", "waiting": "pending", "processing": "running", "done": "completed", "error": "failed"}


async def in_thread(work: object) -> None:
    """Blocking code beside this test's loop, bounded."""
    assert callable(work)
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.to_thread(work)


async def test_the_life_of_tasks_in_the_services_own_words(process: GatewayProcess, history: History) -> None:
    """Created, worked on, ended, read and listed as the service calls it."""

    def work() -> None:
        with TaskStore(process.ws, words=WORDS, kind="diagnosis") as store:
            assert store.get("a") is None
            assert store.create("a", owner="zoe", data={"brand": "x"}) == "a"
            made = store.create(owner="zoe")
            store.update("a", status="queued")
            task = store.get("a")
            assert task is not None
            assert (task["status"], task["kind"], task["owner"], task["data"]) == (
                "queued",
                "diagnosis",
                "zoe",
                {"brand": "x"},
            )
            store.update("a", status="processing", progress=20, stage="reading")
            store.update("a", progress=60, message="half")
            assert [each["task_id"] for each in store.list(owner="zoe", status="processing")] == ["a"]
            store.complete("a", {"score": 3})
            store.fail(made, {"message": "no"})
            assert [(each["task_id"], each["status"]) for each in store.list(owner="zoe")] == [
                (made, "error"),
                ("a", "done"),
            ]
            done = store.get("a")
            assert done is not None
            assert (done["status"], done["result"], done["progress"], done["stage"]) == (
                "done",
                {"score": 3},
                60,
                "reading",
            )
            with pytest.raises(ledgerwire.TaskEnded):
                store.update("a", progress=70)
            with pytest.raises(ValueError, match="paused"):
                store.update("a", status="paused")
            for word in ("done", "error", "cancelled"):
                store.update(f"by-{word}", status=word)
                assert (store.get(f"by-{word}") or {})["status"] == word

    await in_thread(work)
    statuses = [each["status"] for each in await history(process, "a")]
    assert statuses == ["pending", "running", "running", "running", "completed"]


async def test_threads_share_one_attempt(process: GatewayProcess, history: History) -> None:
    """Whoever comes first opens it; each report is there once."""

    def work() -> None:
        with TaskStore(process.ws) as store, ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda place: store.update("a", progress=place), range(60)))
            store.complete("a")

    await in_thread(work)
    transitions = await history(process, "a")
    assert sorted(each["progress"] for each in transitions[1:-1]) == list(range(60))
    assert {each["attempt"] for each in transitions} == {1}


async def test_another_store_takes_a_task_over(process: GatewayProcess) -> None:
    """As after a restart of the service: the old one is fenced, and lets go of it."""

    def work() -> None:
        with TaskStore(process.ws) as old, TaskStore(process.ws) as new:
            old.update("a", progress=10)
            new.update("a", progress=20)
            with pytest.raises(ledgerwire.Fenced):
                old.update("a", progress=30)
            new.complete("a")
            assert (old.get("a") or {})["status"] == "completed"

    await in_thread(work)


async def test_a_gateway_that_is_away(process: GatewayProcess) -> None:
    """What cannot be read or acknowledged in time says so."""
    await process.stop()

    def work() -> None:
        store = TaskStore(process.ws, timeout_seconds=0.3)
        with pytest.raises(ledgerwire.Unreachable):
            store.get("a")
        with pytest.raises(ledgerwire.DeliveryTimeout):
            store.create("a")

    await in_thread(work)


async def test_a_token_from_an_async_function(database: str, tmp_path: Path) -> None:
    """It is asked for what is read as well as for what is reported; one that gives none in time says so."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"app alice {TOKEN}\n")
    tokens.chmod(0o600)

    async def token() -> str:
        return TOKEN

    async def none_ever() -> str:
        await asyncio.Event().wait()
        return TOKEN

    async with in_process(database, token_file=tokens) as gateway:

        def work() -> None:
            with TaskStore(gateway.ws, token=token) as store:
                assert store.get("a") is None
                store.create("a")
                assert [each["task_id"] for each in store.list()] == ["a"]
            slow = TaskStore(gateway.ws, token=none_ever, timeout_seconds=0.3)
            with pytest.raises(ledgerwire.Unreachable, match="no token in"):
                slow.get("a")

        await in_thread(work)
