"""A store of tasks for services that kept theirs in a dict or a task manager: six calls, in the service's own words.

It reports through a `SyncWorker` and reads over HTTP from the same gateway. Nothing is kept here but the attempts that
this process has open.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import ssl
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode, urlsplit

from ledgerwire.errors import DeliveryTimeout, Fenced, LedgerwireError, TaskEnded, Unreachable, rejected
from ledgerwire.model import KEEP, Json, Keep, Status
from ledgerwire.settings import Timing
from ledgerwire.sync import SyncTask, SyncWorker
from ledgerwire.token import Token

CALL_SECONDS: Final = 30.0
ATTEMPTS_MAX: Final = 10_000
"""Tasks at work in one process; each beats, and costs about a kilobyte."""
_PATH: Final = "/v1/ws"


class TaskStore:
    """Thread-safe and fork-safe; made once, in a module. `with` is only needed to close it.

    `url` and `token` are as for `SyncWorker`. `words` are the service's own for the statuses, such as
    `{"queued": "pending", "processing": "running", "done": "completed", "error": "failed"}`; several may mean one
    status, and the first of them is shown. A status without a word is shown by its own name, and may be said by it.

    A task is at work from its first `update` on until its end: this process beats for it, so that it is told as late,
    and then lost, when the process dies. Another process that goes on with it takes it over.

    Every call waits for its durable acknowledgement, `timeout_seconds` at most. Raises what `SyncWorker` raises:
    `TaskEnded` for a task that has ended, `Fenced` for one that was taken over, `DeliveryTimeout`, `Rejected`; and
    `Unreachable` where nothing could be read.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        words: Mapping[str, str] | None = None,
        kind: str | None = None,
        timeout_seconds: float = CALL_SECONDS,
        timing: Timing | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._meanings = {word: Status(status) for word, status in (words or {}).items()}
        self._names: dict[Status, str] = {}
        for word, status in self._meanings.items():
            self._names.setdefault(status, word)
        self._kind = kind
        self._timeout_seconds = timeout_seconds
        self._token = token
        self._tls = tls
        self._parts = urlsplit(url)
        self._worker = SyncWorker(url, token=token, timing=timing, tls=tls)
        self._begin_anew()

    def __enter__(self) -> Self:
        """As it is."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the connection. Tasks at work stay so, for whoever goes on with them."""
        self._worker.close()

    def create(self, task_id: str | None = None, *, owner: str | None = None, data: Json | Keep = KEEP) -> str:
        """Make a task, pending, and return its id; without one it is given one. The same again is a repeat."""
        task_id = task_id or secrets.token_hex(16)
        self._worker.create(task_id, kind=self._kind, owner=owner, data=data, timeout_seconds=self._timeout_seconds)
        return task_id

    def get(self, task_id: str) -> dict[str, Any] | None:
        """The task as it is, None for one that nobody knows.

        Its members are those of a snapshot in docs/protocol.md, with the status in the service's word.
        """
        found = self._read(f"/v1/tasks/{quote(task_id, safe='')}")
        return None if found is None else self._shown(found)

    def update(
        self,
        task_id: str,
        *,
        status: str | None = None,
        progress: float | Keep | None = KEEP,
        stage: str | Keep | None = KEEP,
        message: str | Keep | None = KEEP,
        data: Json | Keep = KEEP,
    ) -> None:
        """Say what has changed; what is not named stays, None clears. A `status` that ends the task ends it.

        `pending` says nothing: a task is so until somebody works on it. ValueError for a word without a meaning.
        """
        meant = None if status is None else self._meant(status)
        if meant is Status.PENDING:
            return
        said = any(value is not KEEP for value in (progress, stage, message, data))
        with self._at_work(task_id) as work:
            if said:
                work.task.progress(
                    progress, stage=stage, message=message, data=data, timeout_seconds=self._timeout_seconds
                )
            if meant is Status.COMPLETED:
                work.task.complete(timeout_seconds=self._timeout_seconds)
            elif meant is Status.FAILED:
                work.task.fail(timeout_seconds=self._timeout_seconds)
            elif meant is Status.CANCELLED:
                work.task.cancelled(timeout_seconds=self._timeout_seconds)
            work.ended = meant in {Status.COMPLETED, Status.FAILED, Status.CANCELLED}

    def complete(self, task_id: str, result: Json | Keep = KEEP) -> None:
        """It is done."""
        with self._at_work(task_id) as work:
            work.task.complete(result, timeout_seconds=self._timeout_seconds)
            work.ended = True

    def fail(self, task_id: str, error: Json | Keep = KEEP) -> None:
        """It has failed; `error` says why, as JSON."""
        with self._at_work(task_id) as work:
            work.task.fail(error, timeout_seconds=self._timeout_seconds)
            work.ended = True

    def list(self, *, owner: str | None = None, status: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The newest tasks first, 200 at most, each as `get` shows it."""
        wanted = {"limit": str(limit), "owner": owner, "status": None if status is None else str(self._meant(status))}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        page = self._read(f"/v1/tasks?{query}") or {"tasks": []}
        return [self._shown(task) for task in page["tasks"]]

    def _meant(self, word: str) -> Status:
        try:
            return self._meanings[word] if word in self._meanings else Status(word)
        except ValueError:
            raise ValueError(f"{word!r} is not among the store's words for a status") from None

    def _shown(self, task: dict[str, Any]) -> dict[str, Any]:
        status = Status(task["status"])
        return {**task, "status": self._names.get(status, str(status))}

    def _at_work(self, task_id: str) -> _Work:
        with self._lock:
            if self._pid != os.getpid():
                self._begin_anew()
            work = self._works.get(task_id)
            if work is None or work.ended:
                if len(self._works) >= ATTEMPTS_MAX:
                    raise DeliveryTimeout(f"{ATTEMPTS_MAX} tasks are at work in this process", queued=False)
                hold = self._worker.task(task_id, kind=self._kind, timeout_seconds=self._timeout_seconds)
                work = self._works[task_id] = _Work(self, task_id, hold)
            return work

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._works: dict[str, _Work] = {}

    def forget(self, work: _Work) -> None:
        """It is no longer at work here."""
        with self._lock:
            if self._works.get(work.task_id) is work:
                del self._works[work.task_id]

    def _read(self, path: str) -> Any:
        """The JSON at a path of the gateway; None for 404."""
        parts = self._parts
        seconds = self._timeout_seconds
        address = parts.hostname or ""
        connection: http.client.HTTPConnection
        if parts.scheme == "wss":
            connection = http.client.HTTPSConnection(address, parts.port, timeout=seconds, context=self._tls)
        else:
            connection = http.client.HTTPConnection(address, parts.port, timeout=seconds)
        token = self._token_now()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            connection.request("GET", parts.path.removesuffix(_PATH) + path, headers=headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"the gateway could not be asked: {error}") from error
        finally:
            connection.close()
        if answer.status == http.client.NOT_FOUND:
            return None
        if answer.status != http.client.OK:
            raise rejected(str(body.get("code", answer.status)), str(body.get("detail", "")), answer.status >= 500)
        return body

    def _token_now(self) -> str | None:
        """Asked for each read; an async function in the worker's loop, where it is asked for its connections too."""
        given = self._token() if callable(self._token) else self._token
        if given is None or isinstance(given, str):
            return given
        seconds = self._timeout_seconds

        async def ask() -> str:
            async with asyncio.timeout(seconds):
                return await given

        try:
            return self._worker.engine().call(ask(), seconds)
        except TimeoutError as error:
            raise Unreachable(f"the token function gave no token in {seconds:g} s") from error


class _Work:
    """An attempt that is open in this process; one thread at a time."""

    def __init__(self, store: TaskStore, task_id: str, task: SyncTask) -> None:
        self.task_id = task_id
        self.task = task
        self.ended = False
        self._store = store
        self._lock = threading.Lock()
        self._entered = False

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            if not self._entered:
                self.task.__enter__()
                self._entered = True
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lost = isinstance(error, LedgerwireError) and isinstance(error, TaskEnded | Fenced)
        if not (self.ended or lost):
            self._lock.release()
            return
        try:
            self.task.__exit__(None, None, None)
        except LedgerwireError:
            if error is None:
                raise
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self.ended = True
        self._store.forget(self)
        self._lock.release()
