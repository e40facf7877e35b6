"""A worker's hold on one task: what a job calls to report, to hear of cancels, and to end."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Awaitable, Mapping
from types import TracebackType
from typing import Any, Self

from ledgerwire import failure
from ledgerwire.errors import CancelRequested, Closed, DeliveryTimeout, LedgerwireError, TaskEnded, fresh
from ledgerwire.model import KEEP, CancelRequest, CancelState, Json, Keep, Receipt
from ledgerwire.reporter import Reporter
from ledgerwire.reporting import Pending, Series

_log = logging.getLogger("ledgerwire")

PROGRESS_SECONDS = 30.0


class Task:
    """One attempt at one task; made by `Worker.task`, used as an async context manager, from the worker's
    loop only.

    Entering opens a new attempt, which fences every earlier one, and waits for its acknowledgement. Leaving:

    * without an exception, and nothing ended the task yet: it is reported as completed;
    * with `CancelRequested` of this task: it is reported as cancelled, and the exception is swallowed;
    * with any other `Exception`: it is reported as failed with `{"type", "message"}`; the exception goes on;
    * with `asyncio.CancelledError`, `KeyboardInterrupt` and the like: nothing is reported, so that another
      attempt may take over.
    """

    def __init__(
        self,
        reporter: Reporter,
        task_id: str,
        *,
        kind: str | None,
        owner: str | None,
        lease_seconds: float,
        deadline_seconds: float | None,
        open_seconds: float,
        finish_seconds: float,
    ) -> None:
        self.task_id = task_id
        self.cancel_event = asyncio.Event()
        """Set when the work should stop: a cancel is open or the hold was lost; see `raise_if_cancelled`."""
        self._reporter = reporter
        self._terms = terms(kind=kind, owner=owner, lease_seconds=lease_seconds, deadline_seconds=deadline_seconds)
        self._open_seconds = open_seconds
        self._finish_seconds = finish_seconds
        self._series: Series | None = None
        self._cancel: CancelRequest | None = None
        self._cancel_seq_seen = 0
        self._lost: LedgerwireError | None = None
        self._deferred: LedgerwireError | None = None
        self._end_reported = False

    def __repr__(self) -> str:
        return f"<Task {self.task_id} attempt {self.attempt}>"

    # ── state ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def attempt(self) -> int | None:
        """The number of this attempt; None before the block is entered."""
        return None if self._series is None else self._series.attempt

    @property
    def cancel_requested(self) -> CancelRequest | None:
        """The open cancel request, or None."""
        return self._cancel

    def raise_if_cancelled(self) -> None:
        """Raises CancelRequested when a cancel is open; Fenced, TaskEnded, Refused when the hold was lost."""
        if self._lost is not None:
            raise fresh(self._lost)
        if self._cancel is not None:
            raise CancelRequested(self.task_id, self._cancel.seq, self._cancel.reason)

    async def wait_for_cancel(self, timeout_seconds: float) -> bool:
        """Wait until `cancel_event` is set; False when the time is over first."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self.cancel_event.wait()
        except TimeoutError:
            return False

    # ── reports ─────────────────────────────────────────────────────────────────────────────────────────────

    async def progress(
        self,
        progress: float | Keep | None = KEEP,
        *,
        stage: str | Keep | None = KEEP,
        message: str | Keep | None = KEEP,
        data: Json | Keep = KEEP,
        timeout_seconds: float = PROGRESS_SECONDS,
    ) -> Receipt:
        """Report, and wait until it is committed. `progress` is 0 to 100; what is left out keeps its value.

        Raises DeliveryTimeout, usually with the report queued all the same (`queued`); Fenced, TaskEnded,
        Rejected, also for an earlier `post`; TypeError for what JSON cannot say.
        """
        self._raise_deferred()
        receipt = await self._deliver(
            changes(progress=progress, stage=stage, message=message, data=data), timeout_seconds
        )
        self._raise_deferred()
        return receipt

    def post(
        self,
        progress: float | Keep | None = KEEP,
        *,
        stage: str | Keep | None = KEEP,
        message: str | Keep | None = KEEP,
        data: Json | Keep = KEEP,
    ) -> None:
        """Report without waiting: it is queued, and sent until it is acknowledged.

        Raises QueueFull; Fenced and the like once that is known; TypeError for what JSON cannot say. A
        rejection that comes later is raised by the next awaited call, or when the block is left.
        """
        body = changes(progress=progress, stage=stage, message=message, data=data)
        self._reporter.delivery.take(self._opened(), "report", self._named(body))

    async def complete(self, result: Json | Keep = KEEP, *, timeout_seconds: float = PROGRESS_SECONDS) -> Receipt:
        """End the task as completed, with a result of up to 32 KiB. Raises as `progress`."""
        return await self._end({"status": "completed"} | changes(result=result), timeout_seconds)

    async def fail(self, error: Json | Keep = KEEP, *, timeout_seconds: float = PROGRESS_SECONDS) -> Receipt:
        """End the task as failed; every watcher sees the error of up to 16 KiB. Raises as `progress`."""
        return await self._end({"status": "failed"} | changes(error=error), timeout_seconds)

    async def cancelled(self, *, timeout_seconds: float = PROGRESS_SECONDS) -> Receipt:
        """End the task as cancelled: the request is honoured. Raises as `progress`."""
        return await self._end({"status": "cancelled"}, timeout_seconds)

    async def complete_unless_ended(self, result: Json) -> None:
        """`complete(result)`, unless this attempt has reported an end already. Raises as `progress`."""
        if not self._end_reported:
            await self.complete(result, timeout_seconds=self._finish_seconds)

    async def refuse_cancel(self, *, timeout_seconds: float = PROGRESS_SECONDS) -> Receipt:
        """Answer a cancel request: the work goes on. A later one is heard again. Raises as `progress`."""
        refused = self._cancel
        receipt = await self._deliver({"cancel": "refused"}, timeout_seconds)
        if self._cancel is refused:
            self._cancel = None
            self.cancel_event.clear()
        return receipt

    # ── the block ───────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        """Open the attempt. Raises DeliveryTimeout (nothing is held then), TaskEnded, Rejected, Refused.

        What an earlier process has left in the journal of this task goes first: the new attempt would fence it.
        """
        if self._series is not None:
            raise RuntimeError("a task block is entered once; ask the worker for another")
        try:
            async with asyncio.timeout(self._open_seconds):
                await self._reporter.delivery.resumed(self.task_id)
        except TimeoutError as error:
            sentence = f"earlier reports of task {self.task_id} in the journal: no answer in {self._open_seconds:g} s"
            raise DeliveryTimeout(sentence, queued=False) from error
        self._series = series = self._reporter.hold(self)
        key = secrets.token_hex(16)
        body = self._named({"attempt": "new", "key": key, "status": "running"})
        deliver = self._reporter.delivery.deliver
        try:
            await deliver(series, "report", body, self._open_seconds, opening=True)
        except BaseException as error:
            self._reporter.release(series)
            self._reporter.delivery.withdraw(series, Closed("the attempt was given up before it was acknowledged"))
            if isinstance(error, DeliveryTimeout):
                raise DeliveryTimeout(error.message, queued=False) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            return await self._leave(error)
        finally:
            self._reporter.release(self._opened())

    async def _leave(self, error: BaseException | None) -> bool:
        swallow = False
        if self._end_reported:
            pass
        elif error is None:
            await self._unless_journalled(self.complete(timeout_seconds=self._finish_seconds))
        elif isinstance(error, CancelRequested) and error.task_id == self.task_id:
            await self._unless_journalled(self.cancelled(timeout_seconds=self._finish_seconds))
            swallow = True
        elif isinstance(error, Exception) and self._lost is None:
            try:
                await self.fail(failure.describe(error), timeout_seconds=self._finish_seconds)
            except LedgerwireError as unreported:
                _log.warning("the failure of task %s was not acknowledged: %s", self.task_id, unreported)
                error.add_note(f"The failure of task {self.task_id} was not acknowledged: {unreported}")
        if error is None or swallow:
            self._raise_deferred()
        return swallow

    async def _unless_journalled(self, ending: Awaitable[Receipt]) -> None:
        """An end that waits in the journal is reported, only not acknowledged yet."""
        try:
            await ending
        except DeliveryTimeout as error:
            if not (error.queued and self._reporter.delivery.journalled):
                raise
            _log.warning("the end of task %s is in the journal: %s", self.task_id, error)

    # ── for the reporter ────────────────────────────────────────────────────────────────────────────────────

    def settled(self, pending: Pending, receipt: Receipt | None, error: LedgerwireError | None) -> None:
        """One of its reports is done with."""
        if error is None:
            return
        if pending.terminal:
            self._end_reported = False
        if "cancel" in pending.body:
            _log.info("an answer to the cancel of task %s had no effect: %s", self.task_id, error)
        elif not pending.waited:
            self._deferred = self._deferred or error

    def heard(self, cancel: CancelState) -> None:
        """A cancel request is open: the first time, the gateway is told that it was delivered."""
        if cancel.stage not in {"recorded", "delivered"} or cancel.seq is None:
            return
        if cancel.seq <= self._cancel_seq_seen or self._end_reported or self._series is None:
            return
        self._cancel_seq_seen = cancel.seq
        self._cancel = CancelRequest(cancel.seq, cancel.reason)
        self.cancel_event.set()
        if cancel.stage == "recorded" and self._series.ended is None:
            self._reporter.delivery.take(self._series, "report", self._named({"cancel": "delivered"}), counted=False)

    def let_go(self, error: LedgerwireError) -> None:
        """Nothing can be reported any more; the work should stop."""
        self._lost = self._lost or error
        self.cancel_event.set()

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _opened(self) -> Series:
        if self._series is None:
            raise RuntimeError("enter the task block first: async with worker.task(...) as task")
        return self._series

    def _named(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"task_id": self.task_id, **body, **(self._terms if body.get("attempt") == "new" else {})}

    async def _end(self, body: Mapping[str, Any], timeout_seconds: float) -> Receipt:
        self._opened()
        if self._end_reported:
            raise TaskEnded("task_ended", f"This attempt has already reported the end of task {self.task_id}.")
        self._end_reported = True
        try:
            receipt = await self._deliver(body, timeout_seconds, terminal=True, counted=False)
        except BaseException as error:
            # After a timeout, or when cancelled while waiting, the report is still queued and goes out.
            if isinstance(error, Exception) and not isinstance(error, DeliveryTimeout):
                self._end_reported = False
            raise
        self._raise_deferred()
        return receipt

    async def _deliver(self, body: Mapping[str, Any], timeout_seconds: float, **marks: bool) -> Receipt:
        named = self._named(body)
        deliver = self._reporter.delivery.deliver
        receipt = await deliver(self._opened(), "report", named, timeout_seconds, **marks)
        if receipt is None:
            raise AssertionError("the gateway acknowledged a report without a receipt")
        return receipt

    def _raise_deferred(self) -> None:
        if self._deferred is not None:
            deferred, self._deferred = self._deferred, None
            raise deferred


def terms(
    *, kind: str | None, owner: str | None, lease_seconds: float | None, deadline_seconds: float | None
) -> dict[str, Json]:
    """What a task is given at its beginning, as members of a create or report; what is None is left out."""
    said = {
        "kind": kind,
        "owner": owner,
        "lease_ms": None if lease_seconds is None else round(lease_seconds * 1000),
        "deadline_ms": None if deadline_seconds is None else round(deadline_seconds * 1000),
    }
    return {name: value for name, value in said.items() if value is not None}


def changes(**given: object) -> dict[str, Json]:
    """The members of a report that are to change; what is KEEP is left out."""
    progress = given.get("progress")
    if isinstance(progress, float) and not math.isfinite(progress):
        raise ValueError("progress is a number from 0 to 100")  # JSON has no NaN: it would clear the progress
    return {name: value for name, value in given.items() if value is not KEEP}
