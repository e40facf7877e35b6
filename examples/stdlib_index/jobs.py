"""The worker: takes jobs up, a few at once, and reports each of them to the gateway as it goes on.

The CPU work is done by a process of its own, so this event loop stays free for beats and cancels. Nothing
about a job is kept here beyond its run: what became of it is in the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import ledgerwire
from examples.stdlib_index.process import Crashed, indexing

KIND = "stdlib-index"
OWNER = "demo"

CONFIRM_SECONDS = 5.0
"""A page waits so long for the ledger's word that the task exists; after that it watches for it to appear."""
PATIENCE_SECONDS = 600.0
"""A job that cannot be written down waits so long for the gateway; the work itself needs none of it."""
STOP_SECONDS = 2.0
"""When this process is stopped, its jobs have so long to say so to the gateway."""

_log = logging.getLogger("stdlib_index")


class Stopped(Exception):
    """This process is being stopped; the job is given up and ends as failed."""

    def __init__(self) -> None:
        super().__init__("The demo was stopped before the job ended.")


class Full(Exception):
    """As many jobs wait as may wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every job of this process does, and how many there may be."""

    packages: tuple[str, ...]
    pace: str
    at_once: int
    waiting: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A job that was taken. `confirmed` is false while the ledger has not said yet that it has the task."""

    task_id: str
    confirmed: bool


class Jobs:
    """All jobs of this process: `plan.at_once` may run, `plan.waiting` may wait, the next one is refused."""

    def __init__(self, worker: ledgerwire.Worker, *, gateway: str, plan: Plan) -> None:
        self._worker = worker
        self._gateway = gateway
        self._plan = plan
        self._places = asyncio.Semaphore(plan.at_once)
        self._runs: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def start(self, folder: Path) -> Started:
        """Make a task and begin it. Raises Full; LedgerwireError when the gateway refuses the task."""
        if len(self._runs) >= self._plan.at_once + self._plan.waiting:
            raise Full
        task_id = f"index-{secrets.token_hex(6)}"
        data = {"folder": str(folder), "ahead": max(0, len(self._runs) - self._plan.at_once + 1)}
        creation = asyncio.create_task(
            self._worker.create(task_id, kind=KIND, owner=OWNER, data=data, timeout_seconds=PATIENCE_SECONDS)
        )
        run = asyncio.create_task(self._run(task_id, folder, creation), name=task_id)
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        confirmed, _ = await asyncio.wait({creation}, timeout=CONFIRM_SECONDS)
        if confirmed:
            creation.result()
        return Started(task_id=task_id, confirmed=bool(confirmed))

    async def close(self) -> None:
        """Stop everything: unfinished jobs end as failed, those that wait too. What cannot be reported in
        time stays in the ledger as it is."""
        self._stopping.set()
        runs = list(self._runs)
        if runs:
            await asyncio.wait(runs, timeout=STOP_SECONDS)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)

    async def _run(self, task_id: str, folder: Path, creation: asyncio.Task[ledgerwire.Receipt]) -> None:
        try:
            await creation
            hold = self._worker.task(task_id, kind=KIND, owner=OWNER, timeout_seconds=PATIENCE_SECONDS)
            async with self._place(task_id), hold as task:
                self._raise_if_over(task)
                await self._index(task, folder)
        except (ledgerwire.LedgerwireError, Crashed, Stopped) as error:
            _log.warning("job %s: %s", task_id, error)

    async def _index(self, task: ledgerwire.Task, folder: Path) -> None:
        """Run the indexer and report what it says. Raises CancelRequested, Stopped, Crashed, what reporting
        raises."""
        async with indexing(folder, packages=self._plan.packages, pace=self._plan.pace) as indexer:
            stoppers = [asyncio.create_task(indexer.kill_when(it)) for it in (task.cancel_event, self._stopping)]
            try:
                async for line in indexer.lines():
                    match line:
                        case {
                            "kind": "step",
                            "progress": progress,
                            "stage": stage,
                            "message": message,
                            "data": data,
                        }:
                            task.post(progress, stage=stage, message=message, data=data)
                        case {"kind": "result", "result": result}:
                            await task.complete(result)
                            return
                        case {"kind": "failure", "error": error}:
                            await task.fail(error)
                            return
            finally:
                for stopper in stoppers:
                    stopper.cancel()
            self._raise_if_over(task)
            raise Crashed(await indexer.last_words())

    def _raise_if_over(self, task: ledgerwire.Task) -> None:
        task.raise_if_cancelled()
        if self._stopping.is_set():
            raise Stopped

    @contextlib.asynccontextmanager
    async def _place(self, task_id: str) -> AsyncIterator[None]:
        """Hold one of the places; or none when the job is cancelled or stopped while it waits: then it does no
        work."""
        if not self._places.locked():
            async with self._places:
                yield
            return
        turn = asyncio.create_task(self._places.acquire())
        begun = asyncio.create_task(self._until_not_pending(task_id))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({turn, begun, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if begun.done() and begun.exception() is not None:
                # Nobody can be asked whether it is cancelled: wait for the place.
                await asyncio.wait({turn, stopping}, return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            begun.cancel()
            stopping.cancel()
            if not turn.cancel():
                self._places.release()

    async def _until_not_pending(self, task_id: str) -> None:
        watching = ledgerwire.watch(task_id, url=self._gateway, wait_seconds=PATIENCE_SECONDS)
        async with contextlib.aclosing(watching) as changes:
            async for change in changes:
                if change.status is not ledgerwire.Status.PENDING:
                    return
