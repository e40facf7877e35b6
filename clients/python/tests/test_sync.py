"""The worker for threads and forks, against a real gateway in a process of its own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

import ledgerwire
from ledgerwire import Status, Timing
from tests.support.gateway import GatewayProcess
from tests.support.waiting import WAIT_SECONDS, eventually

from .conftest import History

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Blocking code beside this test's loop, bounded."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await asyncio.to_thread(work, *arguments)


async def test_a_plain_function_reports_a_task(process: GatewayProcess, history: History) -> None:
    """The same calls and receipts as the asyncio worker has."""

    def work() -> None:
        with ledgerwire.SyncWorker(process.ws) as worker:
            assert worker.create("t", kind="import", owner="alice").status is Status.PENDING
            with worker.task("t") as task:
                assert task.attempt == 1
                assert task.progress(40, stage="parsing").seq == 3
                for n in range(41, 60):
                    task.post(n)
                assert not task.wait_for_cancel(0.0)
                assert task.complete({"rows": 3}).status is Status.COMPLETED
            assert worker.report("event", key="k", progress=1).seq == worker.report("event", key="k", progress=1).seq
            late = worker.cancel("t")
            assert late.cancel is not None
            assert late.cancel.stage == "too_late"

    await in_thread(work)
    transitions = await history(process, "t")
    assert [each["progress"] for each in transitions] == [None, None, *range(40, 60), 59]


async def test_a_block_ends_as_the_asyncio_one_does(process: GatewayProcess, history: History) -> None:
    """Completed, failed, cancelled on request; and errors come as exceptions in the calling thread."""

    def work() -> None:
        with ledgerwire.SyncWorker(process.ws) as worker:
            with worker.task("a"):
                pass
            with pytest.raises(ZeroDivisionError), worker.task("b"):
                _ = 1 / 0
            with worker.task("c") as task:
                worker.cancel("c", reason="enough")
                assert task.wait_for_cancel(10.0)
                assert task.cancel_requested is not None
                task.raise_if_cancelled()
                pytest.fail("a cancel was requested")
            with pytest.raises(ledgerwire.TaskEnded), worker.task("a"):
                pytest.fail("it has ended")
            with pytest.raises(ledgerwire.Rejected, match="bad_request"), worker.task("d") as task:
                task.progress(101)

            @worker.job(kind="sum")
            def add(_: ledgerwire.SyncTask, *values: int) -> int:
                return sum(values)

            assert add("e", 1, 2) == 3
        with pytest.raises(ledgerwire.Closed):
            worker.create("f")

    await in_thread(work)
    ends = {name: (await history(process, name))[-1] for name in "abcde"}
    statuses = {name: end["status"] for name, end in ends.items()}
    assert statuses == {"a": "completed", "b": "failed", "c": "cancelled", "d": "failed", "e": "completed"}
    assert ends["b"]["error"] == {"type": "ZeroDivisionError", "message": "division by zero"}
    assert ends["e"]["result"] == 3


async def test_threads_share_one_connection(process: GatewayProcess, history: History) -> None:
    """The first use opens it, whichever thread that is."""
    threads, posts = 8, 50
    worker = ledgerwire.SyncWorker(process.ws, client="threads/1")
    together = threading.Barrier(threads)

    def work(name: str) -> None:
        together.wait(10)
        with worker.task(name) as task:
            for n in range(posts):
                task.post(n)

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [f"t{number}" for number in range(threads)]))
        worker.close()

    await in_thread(run)
    for number in range(threads):
        assert [each["progress"] for each in (await history(process, f"t{number}"))[1:-1]] == [*range(posts)]
    assert sessions_of(process, "threads/1") == 1


async def test_a_killed_gateway_is_not_seen_by_plain_code(process: GatewayProcess, history: History) -> None:
    """A call that meets the restart takes longer, and that is all."""
    worker = ledgerwire.SyncWorker(process.ws)
    entered, killed = threading.Event(), threading.Event()

    def work() -> None:
        with worker, worker.task("t") as task:
            for n in range(20):
                task.post(n)
                if n == 10:
                    entered.set()
                    assert killed.wait(60)
            assert task.progress(99, timeout_seconds=60).seq == 22

    working = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(entered.wait, 60)
    await process.stop(signal.SIGKILL)
    killed.set()
    await process.start()
    await working
    assert [each["progress"] for each in await history(process, "t")] == [None, *range(20), 99, 99]


FORKING = """
    import os, sys
    import ledgerwire

    def sockets():
        found = set()
        for number in os.listdir("/proc/self/fd"):
            try:
                found.add(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                pass
        return {name for name in found if name.startswith("socket:")}

    worker = ledgerwire.SyncWorker(sys.argv[1], client="forking/1")
    worker.create("before")
    descriptor = worker.engine().peer.file_descriptor()
    connection = os.readlink(f"/proc/self/fd/{descriptor}")
    assert connection in sockets()
    block = worker.task("parent")
    with block as task:
        task.progress(1)
        children = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                try:
                    assert connection not in sockets(), "the parent's connection would outlive the parent"
                    try:
                        task.progress(2)
                    except RuntimeError as error:
                        assert "another process" in str(error)
                    else:
                        raise AssertionError("a child reported through its parent's attempt")
                    with worker.task(f"child-{number}") as own:
                        for n in range(20):
                            own.post(n)
                    worker.close()
                    os._exit(0)
                except BaseException as error:
                    print(repr(error), file=sys.stderr, flush=True)
                    os._exit(1)
            children.append(child)
        for n in range(2, 20):
            task.post(n)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        task.progress(20)
    worker.create("after")
    worker.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks at open files in /proc")
async def test_after_a_fork_each_process_has_a_connection_of_its_own(process: GatewayProcess, history: History) -> None:
    """As in Celery's prefork pool: one worker object in a module; nobody uses or keeps another's socket."""
    done = await in_thread(run_python, FORKING, process.ws)
    assert done.returncode == 0, done.stderr
    for number in range(3):
        transitions = await history(process, f"child-{number}")
        assert [each["progress"] for each in transitions] == [None, *range(20), 19]
    assert [each["progress"] for each in await history(process, "parent")] == [None, *range(1, 21), 20]
    assert len(await history(process, "after")) == 1
    await eventually(lambda: sessions_of(process, "forking/1") == 4)


UNUSED = """
    import os, sys, threading
    import ledgerwire

    worker = ledgerwire.SyncWorker(sys.argv[1], client="unused/1")
    assert threading.active_count() == 1, "nothing is started before the first use"
"""


async def test_a_worker_that_is_never_used_connects_nowhere(process: GatewayProcess) -> None:
    """It may stand in a module that every process imports."""
    done = await in_thread(run_python, UNUSED, process.ws)
    assert done.returncode == 0, done.stderr
    assert sessions_of(process, "unused/1") == 0


async def test_closing_says_what_could_not_be_delivered(process: GatewayProcess) -> None:
    """In bounded time, also when the gateway is gone for good."""
    await process.stop(signal.SIGKILL)
    timing = Timing(close_seconds=0.2, finish_seconds=0.2)

    def work() -> None:
        worker = ledgerwire.SyncWorker(process.ws, timing=timing)
        with pytest.raises(ledgerwire.DeliveryTimeout):
            worker.create("t", timeout_seconds=0.1)
        with pytest.raises(ledgerwire.DeliveryTimeout, match="1 reports were not acknowledged"):
            worker.close()
        worker.close()

    await in_thread(work)


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: this one has threads and a loop, which a fork would inherit."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script), *arguments]
    source = str(ledgerwire.__file__).rsplit("/", 2)[0]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PYTHONPATH": source}, check=False)


def sessions_of(process: GatewayProcess, client: str) -> int:
    """How many connections the gateway has seen of a client by this name."""
    return sum(entry.get("event") == "session_opened" and entry.get("client") == client for entry in process.log)


JOURNAL_AND_FORK = """
    import os, sys
    import ledgerwire

    def try_in_child():
        try:
            worker.create("child")
        except ledgerwire.JournalError as error:
            return 0 if "another process" in str(error) else 1
        return 2

    worker = ledgerwire.SyncWorker(sys.argv[1], journal=sys.argv[2])
    worker.create("parent")
    over, parent = os.pipe()
    heard, child_has_tried = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(parent)
        tried = try_in_child()
        os.write(child_has_tried, b".")
        os.read(over, 1)
        os._exit(tried)
    os.read(heard, 1)  # else it would take what is closed here
    worker.close()
    with ledgerwire.SyncWorker(sys.argv[1], journal=sys.argv[2]) as again:  # though the child is there still
        again.create("again")
    os.close(parent)
    assert os.waitpid(child, 0)[1] == 0
"""


async def test_a_journal_stays_with_the_process_that_has_opened_it(process: GatewayProcess, tmp_path: Path) -> None:
    """A forked child is told, and holds no lock that would outlive its parent."""
    done = await in_thread(run_python, JOURNAL_AND_FORK, process.ws, str(tmp_path))
    assert done.returncode == 0, done.stderr


async def test_a_plain_loop_watches_a_task_and_cancels_another(process: GatewayProcess) -> None:
    """From its first change to its last; two threads share one connection, and leaving early unsubscribes."""

    def watch(watcher: ledgerwire.SyncWatcher, task_id: str) -> list[int]:
        return [change.seq for change in watcher.subscribe(task_id, wait_seconds=60)]

    def work() -> None:
        with ledgerwire.SyncWorker(process.ws) as worker, ledgerwire.SyncWatcher(process.ws) as watcher:
            with ThreadPoolExecutor() as threads:
                watching = [threads.submit(watch, watcher, task_id) for task_id in ("a", "b")]
                for task_id in ("a", "b"):
                    with worker.task(task_id) as task:
                        for n in range(20):
                            task.post(n)
                seen = [future.result(WAIT_SECONDS) for future in watching]
            assert all(seqs[-1] == 22 and seqs == list(range(seqs[0], 23)) for seqs in seen)
            with worker.task("c") as task:
                for change in watcher.subscribe("c"):
                    assert change.status is Status.RUNNING
                    break
                assert watcher.cancel("c").status is Status.CANCELLING
                left = watcher.subscribe("c")
                next(left)
                assert task.wait_for_cancel(WAIT_SECONDS)
                task.raise_if_cancelled()
            with pytest.raises(ledgerwire.UnknownTask):
                next(watcher.subscribe("nobody", unknown_answers=1))
        with pytest.raises(ledgerwire.Closed):
            next(left)

    await in_thread(work)
