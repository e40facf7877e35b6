"""The worker for code without an event loop: Celery, Flask, threads. Thread-safe and fork-safe."""

from __future__ import annotations

import functools
import os
import ssl
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ledgerwire.engine import Engine
from ledgerwire.errors import Closed
from ledgerwire.journal import MAX_BYTES as JOURNAL_BYTES
from ledgerwire.link import check_url
from ledgerwire.model import KEEP, CancelRequest, Json, Keep, Receipt
from ledgerwire.settings import Timing
from ledgerwire.task import PROGRESS_SECONDS, Task
from ledgerwire.token import Token
from ledgerwire.worker import CLIENT, QUEUE_REPORTS, REQUEST_SECONDS, Worker

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class SyncWorker:
    """`Worker` for threads. Arguments and errors are the same.

    It connects at its first use, in a background thread, and once for each process: after a fork (Celery's
    prefork pool, gunicorn) the child opens a connection of its own, so one object in a module serves all.
    `with` is only needed to close it. One object may be used from any number of threads.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        client: str = CLIENT,
        queue_reports: int = QUEUE_REPORTS,
        journal: str | Path | None = None,
        journal_bytes: int = JOURNAL_BYTES,
        timing: Timing | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        check_url(url)
        self._timing = timing or Timing()
        self._make_worker = functools.partial(
            Worker,
            url,
            token=token,
            client=client,
            queue_reports=queue_reports,
            journal=journal,
            journal_bytes=journal_bytes,
            timing=self._timing,
            tls=tls,
        )
        self._lock = threading.Lock()
        self._engine: Engine[Worker] | None = None
        self._closed = False
        _workers.add(self)

    def __enter__(self) -> Self:
        """Begin to connect, in the background."""
        self.engine()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; with an exception under way, what could not be flushed is not raised."""
        try:
            self.close()
        except Exception:
            if error is None:
                raise

    def close(self) -> None:
        """Flush and close, in at most twice `timing.close_seconds`. Raises DeliveryTimeout, Refused."""
        with self._lock:
            engine, self._engine, self._closed = self._engine, None, True
        if engine is not None:
            engine.close(2 * self._timing.close_seconds)

    def create(
        self,
        task_id: str,
        *,
        kind: str | None = None,
        owner: str | None = None,
        data: Json | Keep = KEEP,
        deadline_seconds: float | None = None,
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> Receipt:
        """As `Worker.create`."""
        engine = self.engine()
        work = engine.peer.create(
            task_id,
            kind=kind,
            owner=owner,
            data=data,
            deadline_seconds=deadline_seconds,
            timeout_seconds=timeout_seconds,
        )
        return engine.call(work, timeout_seconds)

    def report(self, task_id: str, *, timeout_seconds: float = REQUEST_SECONDS, **members: Any) -> Receipt:
        """As `Worker.report`, with the same members."""
        engine = self.engine()
        return engine.call(engine.peer.report(task_id, timeout_seconds=timeout_seconds, **members), timeout_seconds)

    def cancel(self, task_id: str, *, reason: str | None = None, timeout_seconds: float = REQUEST_SECONDS) -> Receipt:
        """As `Worker.cancel`."""
        engine = self.engine()
        work = engine.peer.cancel(task_id, reason=reason, timeout_seconds=timeout_seconds)
        return engine.call(work, timeout_seconds)

    def refresh(self, token: str, *, timeout_seconds: float = REQUEST_SECONDS) -> None:
        """As `Worker.refresh`."""
        engine = self.engine()
        engine.call(engine.peer.refresh(token, timeout_seconds=timeout_seconds), timeout_seconds)

    def task(
        self,
        task_id: str,
        *,
        kind: str | None = None,
        owner: str | None = None,
        lease_seconds: float | None = None,
        deadline_seconds: float | None = None,
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> SyncTask:
        """A new attempt at a task, to be entered with `with`. Arguments are those of `Worker.task`."""
        make = functools.partial(
            Worker.task,
            task_id=task_id,
            kind=kind,
            owner=owner,
            lease_seconds=lease_seconds,
            deadline_seconds=deadline_seconds,
            timeout_seconds=timeout_seconds,
        )
        return SyncTask(self, task_id, make, open_seconds=timeout_seconds, timing=self._timing)

    def job(
        self,
        *,
        kind: str | None = None,
        owner: str | None = None,
        lease_seconds: float | None = None,
        deadline_seconds: float | None = None,
    ) -> Callable[[Callable[Concatenate[SyncTask, P], R]], Callable[Concatenate[str, P], R | None]]:
        """As `Worker.job`, for `def run(task, …)`."""

        def decorate(work: Callable[Concatenate[SyncTask, P], R]) -> Callable[Concatenate[str, P], R | None]:
            @functools.wraps(work)
            def run(task_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
                hold = self.task(
                    task_id, kind=kind, owner=owner, lease_seconds=lease_seconds, deadline_seconds=deadline_seconds
                )
                with hold as task:
                    result = work(task, *args, **kwargs)
                    task.complete_unless_ended(result)
                    return result
                return None

            return run

        return decorate

    def engine(self) -> Engine[Worker]:
        """The background thread of this process, started when there is none. Raises Closed."""
        with self._lock:
            if self._closed:
                raise Closed("the worker is closed")
            if self._engine is None:
                self._engine = Engine(self._make_worker)
            return self._engine

    def after_fork_in_child(self) -> None:
        """Forget the parent's thread and connection; the next use opens others."""
        self._lock = threading.Lock()  # another thread of the parent may have held it
        if self._engine is not None:
            self._engine.peer.let_go()
            _inherited.append(self._engine)
            self._engine = None


class SyncTask:
    """`Task` for threads; made by `SyncWorker.task`, used as a context manager with the same endings."""

    def __init__(
        self,
        worker: SyncWorker,
        task_id: str,
        make: Callable[[Worker], Task],
        *,
        open_seconds: float,
        timing: Timing,
    ) -> None:
        self.task_id = task_id
        self._worker = worker
        self._make = make
        self._open_seconds = open_seconds
        self._finish_seconds = timing.finish_seconds
        self._engine: Engine[Worker] | None = None
        self._task: Task | None = None

    def __enter__(self) -> Self:
        """Open the attempt. Raises as entering a `Task`."""
        self._engine = self._worker.engine()
        self._task = self._make(self._engine.peer)
        self._call(self._task.__aenter__(), self._open_seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Report the end, as leaving a `Task` does."""
        return self._call(self._entered().__aexit__(kind, error, traceback), self._finish_seconds)

    @property
    def attempt(self) -> int | None:
        """The number of this attempt."""
        return self._entered().attempt

    @property
    def cancel_requested(self) -> CancelRequest | None:
        """The open cancel request, or None."""
        return self._entered().cancel_requested

    def raise_if_cancelled(self) -> None:
        """Raises CancelRequested when a cancel is open; Fenced, TaskEnded, Refused when the hold was lost."""
        self._entered().raise_if_cancelled()

    def wait_for_cancel(self, timeout_seconds: float) -> bool:
        """Wait until the work should stop, see `raise_if_cancelled`; False when the time is over first."""
        return self._call(self._entered().wait_for_cancel(timeout_seconds), timeout_seconds)

    def progress(
        self,
        progress: float | Keep | None = KEEP,
        *,
        stage: str | Keep | None = KEEP,
        message: str | Keep | None = KEEP,
        data: Json | Keep = KEEP,
        timeout_seconds: float = PROGRESS_SECONDS,
    ) -> Receipt:
        """As `Task.progress`."""
        work = self._entered().progress(
            progress, stage=stage, message=message, data=data, timeout_seconds=timeout_seconds
        )
        return self._call(work, timeout_seconds)

    def post(
        self,
        progress: float | Keep | None = KEEP,
        *,
        stage: str | Keep | None = KEEP,
        message: str | Keep | None = KEEP,
        data: Json | Keep = KEEP,
    ) -> None:
        """As `Task.post`."""
        task = self._entered()

        async def post() -> None:
            task.post(progress, stage=stage, message=message, data=data)

        self._call(post(), 0.0)

    def complete(self, result: Json | Keep = KEEP, *, timeout_seconds: float = PROGRESS_SECONDS) -> Receipt:
        """As `Task.complete`."""
        return self._call(self._entered().complete(result, timeout_seconds=timeout_seconds), timeout_seconds)

    def complete_unless_ended(self, result: Json) -> None:
        """As `Task.complete_unless_ended`."""
        self._call(self._entered().complete_unless_ended(result), self._finish_seconds)

    def fail(self, error: Json | Keep = KEEP, *, timeout_seconds: float = PROGRESS_SECONDS) -> Receipt:
        """As `Task.fail`."""
        return self._call(self._entered().fail(error, timeout_seconds=timeout_seconds), timeout_seconds)

    def cancelled(self, *, timeout_seconds: float = PROGRESS_SECONDS) -> Receipt:
        """As `Task.cancelled`."""
        return self._call(self._entered().cancelled(timeout_seconds=timeout_seconds), timeout_seconds)

    def refuse_cancel(self, *, timeout_seconds: float = PROGRESS_SECONDS) -> Receipt:
        """As `Task.refuse_cancel`."""
        return self._call(self._entered().refuse_cancel(timeout_seconds=timeout_seconds), timeout_seconds)

    def _call(self, work: Coroutine[Any, Any, T], timeout_seconds: float) -> T:
        engine = self._engine
        if engine is None or engine.pid != os.getpid():
            work.close()
            sentence = f"task {self.task_id} was entered in another process; enter it where it is worked on"
            raise RuntimeError(sentence)
        return engine.call(work, timeout_seconds)

    def _entered(self) -> Task:
        if self._task is None:
            raise RuntimeError("enter the task block first: with worker.task(...) as task")
        return self._task


_workers: weakref.WeakSet[SyncWorker] = weakref.WeakSet()
# Collecting a parent's loop in a child would close descriptors that are shared with the parent.
_inherited: list[Engine[Worker]] = []


def _after_fork_in_child() -> None:
    for worker in list(_workers):
        worker.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
