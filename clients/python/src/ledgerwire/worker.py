"""The asyncio worker: one connection, any number of tasks."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import secrets
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from ledgerwire import journal as journal_
from ledgerwire.errors import Closed, DeliveryTimeout, fresh
from ledgerwire.link import Link
from ledgerwire.model import KEEP, Json, Keep, Receipt, Status
from ledgerwire.reporter import Reporter
from ledgerwire.settings import Timing
from ledgerwire.task import Task, changes, terms
from ledgerwire.token import Token

_log = logging.getLogger("ledgerwire")

P = ParamSpec("P")
R = TypeVar("R")

REQUEST_SECONDS = 30.0
CLIENT = "ledgerwire-python/0.1.0"
QUEUE_REPORTS = 1_000
LEASE_BEATS = 4
"""Two beats may be lost on the way, or a connection be made anew, before anybody is told that the worker is late."""
LEASE_SECONDS_MIN = 1.0
LEASE_SECONDS_MAX = 86_400.0


class Worker:
    """Reports tasks to a gateway; an async context manager, used from one event loop.

    Entering does not wait for the gateway: a worker may start while the gateway restarts, and every awaited
    call has its own timeout. Leaving without an exception waits up to `timing.close_seconds` for what is
    still queued.

    `url` is `ws://host:port/v1/ws` or `wss://…`. `token` is a string, or a function, plain or async, called
    before each connection and when the gateway says that the token expires. `client` is a free name and
    version for the gateway's log. `queue_reports` bounds the unacknowledged messages of all tasks together.
    `dice` decides the reconnect delays (for reproducible tests).

    `journal` is a folder on a local disk, of this process alone. Then each report of a task block is on disk when
    `post` returns, or `progress` begins to wait, and what is not acknowledged when the process ends is sent by
    the next worker with that folder, under its old number. `journal_bytes` bounds it; beyond, as with `queue_reports`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        client: str = CLIENT,
        queue_reports: int = QUEUE_REPORTS,
        journal: str | Path | None = None,
        journal_bytes: int = journal_.MAX_BYTES,
        timing: Timing | None = None,
        tls: ssl.SSLContext | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._timing = timing or Timing()
        dice = dice or random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._journal = None if journal is None else journal_.Journal(Path(journal), journal_bytes)
        self._reporter = Reporter(queue_reports, self._timing, dice, _now, self._wake, self._journal)
        self._opened = False
        self._link = Link(
            url,
            self._reporter,
            token=token,
            client=client,
            timing=self._timing,
            dice=dice,
            tls=tls,
            give_up_seconds=None,
        )

    async def __aenter__(self) -> Self:
        """Begin to connect, in the background. Raises JournalError."""
        if self._opened:
            raise RuntimeError("a worker is entered once; make another")
        if left := self._reporter.delivery.open_journal():
            _log.info("%d reports of an earlier process go out first", left)
        self._opened = True
        self._link.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flush and close. Raises Refused, DeliveryTimeout for what is left, unless another error goes on.

        What is left in a journal is no error: the next worker with that folder sends it.
        """
        stopping = error is not None and not isinstance(error, Exception)
        flushed = False
        try:
            flushed = not stopping and await self.flush(self._timing.close_seconds)
        finally:
            refused, kept = self._reporter.ended_by, self._reporter.delivery.journalled
            left = self.queued - kept
            await self._link.stop()
            if refused is None:
                self._reporter.ended(Closed("the worker is closed"))
            self._reporter.delivery.close_journal()
        if kept:
            _log.warning("%d reports are kept in the journal for the next worker", kept)
        if error is None and refused is not None:
            raise fresh(refused)
        if not flushed and left > 0:
            if error is None:
                sentence = f"{left} reports were not acknowledged before the worker was closed"
                raise DeliveryTimeout(sentence, queued=False)
            _log.warning("%d reports were not acknowledged before the worker was closed", left)

    @property
    def connected(self) -> bool:
        """Whether there is a connection just now, as far as is known."""
        return self._link.connected

    @property
    def queued(self) -> int:
        """How many messages are not acknowledged yet."""
        return len(self._reporter.delivery.queue)

    @property
    def degraded(self) -> bool:
        """Whether the gateway has said that it cannot reach its ledger just now."""
        return self._reporter.degraded

    async def create(
        self,
        task_id: str,
        *,
        kind: str | None = None,
        owner: str | None = None,
        data: Json | Keep = KEEP,
        deadline_seconds: float | None = None,
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> Receipt:
        """Make a task. The same again is a harmless repeat.

        `deadline_seconds` from now on the gateway ends it as failed, up to 30 days; None: it has no deadline.
        Raises Rejected (`task_exists` when it was created with other content, `bad_task_id`, …),
        DeliveryTimeout, Refused.
        """
        body: dict[str, Json] = {"task_id": task_id}
        body |= terms(kind=kind, owner=owner, lease_seconds=None, deadline_seconds=deadline_seconds)
        if data is not KEEP:
            body["data"] = data
        return await self._ask("create", task_id, body, timeout_seconds)

    async def report(
        self,
        task_id: str,
        *,
        key: str | None = None,
        status: Status | str | None = None,
        progress: float | Keep | None = KEEP,
        stage: str | Keep | None = KEEP,
        message: str | Keep | None = KEEP,
        data: Json | Keep = KEEP,
        result: Json | Keep = KEEP,
        error: Json | Keep = KEEP,
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> Receipt:
        """One report without holding the task: no attempt, no beats, no fence. For scripts and for single events.

        The same `key` again is a harmless repeat; None: a key of its own. Other members as in `Task.progress`; `status`
        `completed`, `failed` or `cancelled` ends the task. Raises as `create`.
        """
        body: dict[str, Json] = {"task_id": task_id, "key": key or secrets.token_hex(16)}
        if status is not None:
            body["status"] = str(status)
        body |= changes(progress=progress, stage=stage, message=message, data=data, result=result, error=error)
        self._check_open()
        delivery = self._reporter.delivery
        series = delivery.queue.series(task_id)
        receipt = await delivery.deliver(series, "report", body, timeout_seconds, opening=True)
        if receipt is None:
            raise AssertionError("the gateway acknowledged a report without a receipt")
        return receipt

    async def cancel(
        self, task_id: str, *, reason: str | None = None, timeout_seconds: float = REQUEST_SECONDS
    ) -> Receipt:
        """Ask that a task be cancelled; `receipt.cancel.stage` is recorded or too_late. As `create`."""
        body: dict[str, Json] = {"task_id": task_id}
        if reason is not None:
            body["reason"] = reason
        return await self._ask("cancel", task_id, body, timeout_seconds)

    async def refresh(self, token: str, *, timeout_seconds: float = REQUEST_SECONDS) -> None:
        """Replace the token of this and of later connections. Raises Rejected, DeliveryTimeout, Refused."""
        self._check_open()
        self._link.replace_token(token)
        await self._reporter.delivery.refresh(token, timeout_seconds)

    def task(
        self,
        task_id: str,
        *,
        kind: str | None = None,
        owner: str | None = None,
        lease_seconds: float | None = None,
        deadline_seconds: float | None = None,
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> Task:
        """A new attempt at a task, to be entered with `async with`; that waits up to `timeout_seconds`.

        `lease_seconds` is how long nothing may be heard of it (it beats by itself) before watchers are told that it
        is late, up to a day; None: four times `timing.beat_seconds`. `deadline_seconds` is as in `create`, from the
        beginning of the attempt on; None: as before.
        """
        self._check_open()
        if lease_seconds is None:
            lease_seconds = min(LEASE_SECONDS_MAX, max(LEASE_SECONDS_MIN, LEASE_BEATS * self._timing.beat_seconds))
        return Task(
            self._reporter,
            task_id,
            kind=kind,
            owner=owner,
            lease_seconds=lease_seconds,
            deadline_seconds=deadline_seconds,
            open_seconds=timeout_seconds,
            finish_seconds=self._timing.finish_seconds,
        )

    def job(
        self,
        *,
        kind: str | None = None,
        owner: str | None = None,
        lease_seconds: float | None = None,
        deadline_seconds: float | None = None,
    ) -> Callable[[Callable[Concatenate[Task, P], Awaitable[R]]], Callable[Concatenate[str, P], Awaitable[R | None]]]:
        """Decorate `async def run(task, …)`: then `await run("task-1", …)` does it as that task.

        The return value becomes the result of the task (unless the job ended the task itself) and is
        returned; None when the job was cancelled on request.
        """

        def decorate(
            work: Callable[Concatenate[Task, P], Awaitable[R]],
        ) -> Callable[Concatenate[str, P], Awaitable[R | None]]:
            @functools.wraps(work)
            async def run(task_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
                hold = self.task(
                    task_id, kind=kind, owner=owner, lease_seconds=lease_seconds, deadline_seconds=deadline_seconds
                )
                async with hold as task:
                    result = await work(task, *args, **kwargs)
                    await task.complete_unless_ended(result)
                    return result
                return None

            return run

        return decorate

    async def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything queued is acknowledged or rejected. False when the time is over first."""
        return await self._reporter.delivery.emptied(timeout_seconds)

    def file_descriptor(self) -> int | None:
        """The number of the open socket, or None."""
        return self._link.file_descriptor()

    def let_go(self) -> None:
        """In a child process: drop the inherited socket and journal, so that both end when the parent ends.

        Nothing of the loop is touched: its epoll registrations are shared with the parent.
        """
        if self._journal is not None:
            self._journal.let_go()
        descriptor = self.file_descriptor()
        if descriptor is not None and descriptor >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, descriptor)
            os.close(nothing)

    async def _ask(self, kind: str, task_id: str, body: dict[str, Json], timeout_seconds: float) -> Receipt:
        self._check_open()
        delivery = self._reporter.delivery
        receipt = await delivery.deliver(delivery.queue.series(task_id), kind, body, timeout_seconds)
        if receipt is None:
            raise AssertionError("the gateway acknowledged a request without a receipt")
        return receipt

    def _check_open(self) -> None:
        if not self._opened:
            raise Closed("enter the worker first: async with ledgerwire.Worker(...) as worker")

    def _wake(self) -> None:
        self._link.wake()


def _now() -> float:
    return asyncio.get_running_loop().time()
