"""The watcher for code without an event loop: a plain iterator per task, over one connection in a background thread."""

from __future__ import annotations

import contextlib
import functools
import ssl
import threading
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Self

from ledgerwire.engine import Engine
from ledgerwire.errors import Closed
from ledgerwire.feed import OnLiveness
from ledgerwire.link import check_url
from ledgerwire.model import Change, Cursor, Receipt
from ledgerwire.settings import Timing
from ledgerwire.token import Token
from ledgerwire.watcher import BUFFER_CHANGES, CLIENT, REQUEST_SECONDS, UNKNOWN_ANSWERS, Watcher
from ledgerwire.watching import Mode


class SyncWatcher:
    """`Watcher` for threads, with the same arguments and errors. Used with `with`, in the process that made it."""

    def __init__(
        self,
        url: str,
        *,
        token: Token = None,
        client: str = CLIENT,
        buffer_changes: int = BUFFER_CHANGES,
        timing: Timing | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        check_url(url)
        self._timing = timing or Timing()
        self._make_watcher = functools.partial(
            Watcher,
            url,
            token=token,
            client=client,
            buffer_changes=buffer_changes,
            timing=self._timing,
            tls=tls,
        )
        self._lock = threading.Lock()
        self._engine: Engine[Watcher] | None = None

    def __enter__(self) -> Self:
        """Begin to connect, in the background."""
        with self._lock:
            if self._engine is not None:
                raise RuntimeError("a watcher is entered once; make another")
            self._engine = Engine(self._make_watcher)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection. Iterations that are still open, in other threads, raise Closed."""
        self._entered().close(2 * self._timing.close_seconds)

    def subscribe(
        self,
        task_id: str,
        *,
        after: Cursor | None = None,
        wait_seconds: float | None = None,
        unknown_answers: int = UNKNOWN_ANSWERS,
        mode: Mode = "all",
        on_liveness: OnLiveness | None = None,
    ) -> Generator[Change, None, None]:
        """As `Watcher.subscribe`, for `for`. `on_liveness` is called from the background thread."""
        engine = self._entered()
        changes = engine.peer.subscribe(
            task_id,
            after=after,
            wait_seconds=wait_seconds,
            unknown_answers=unknown_answers,
            mode=mode,
            on_liveness=on_liveness,
        )
        try:
            while (change := engine.call(_next(changes), None)) is not None:
                yield change
        finally:
            with contextlib.suppress(Closed):
                engine.call(_close(changes), REQUEST_SECONDS)

    def cancel(self, task_id: str, *, reason: str | None = None, timeout_seconds: float = REQUEST_SECONDS) -> Receipt:
        """As `Watcher.cancel`."""
        engine = self._entered()
        work = engine.peer.cancel(task_id, reason=reason, timeout_seconds=timeout_seconds)
        return engine.call(work, timeout_seconds)

    def _entered(self) -> Engine[Watcher]:
        if self._engine is None:
            raise Closed("enter the watcher first: with ledgerwire.SyncWatcher(...) as watcher")
        return self._engine


async def _next(changes: AsyncGenerator[Change, None]) -> Change | None:
    return await anext(changes, None)


async def _close(changes: AsyncGenerator[Change, None]) -> None:
    await changes.aclose()
