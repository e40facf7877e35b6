"""A background thread with an event loop and a worker in it, one per process, for callers without a loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ledgerwire.errors import Closed, DeliveryTimeout
from ledgerwire.worker import Worker

T = TypeVar("T")

START_SECONDS = 10.0
_MARGIN_SECONDS = 5.0
"""How much later than the work itself the caller gives up; only a stuck loop makes a caller wait so long."""


class Engine:
    """Starts its thread at once; `call` runs work in it and waits for the outcome."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self.pid = os.getpid()
        self._make_worker = make_worker
        self._started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, Worker]] = concurrent.futures.Future()
        self._finished: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="ledgerwire", daemon=True)
        self._thread.start()
        self._loop, self.worker = self._started.result(START_SECONDS)

    def call(self, work: Coroutine[Any, Any, T], timeout_seconds: float) -> T:
        """Run `work`, which has a timeout of its own, and return or raise what it does. Raises Closed."""
        if threading.get_ident() == self._thread.ident:
            work.close()
            raise RuntimeError("the synchronous client was called from its own thread")
        if self._finished.done():
            work.close()
            raise Closed("the worker is closed")
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop was closed just now
            work.close()
            raise Closed("the worker is closed") from error
        try:
            return future.result(timeout_seconds + _MARGIN_SECONDS)
        except concurrent.futures.CancelledError as error:
            raise Closed("the worker was closed meanwhile") from error
        except TimeoutError as error:
            if future.done():  # the work's own
                raise
            future.cancel()
            sentence = f"the background thread did not answer in {timeout_seconds + _MARGIN_SECONDS:g} s"
            raise DeliveryTimeout(sentence, queued=False) from error
        except BaseException:
            future.cancel()  # for example a KeyboardInterrupt while waiting
            raise

    def close(self, timeout_seconds: float) -> None:
        """Flush, close the connection and end the thread. Raises what closing a `Worker` raises."""
        try:
            self._loop.call_soon_threadsafe(self._stop.set)
        except RuntimeError:
            pass  # it has ended already
        self._finished.result(timeout_seconds + _MARGIN_SECONDS)
        self._thread.join(_MARGIN_SECONDS)

    def let_go(self) -> None:
        """In a child process: drop the inherited socket, so that the connection ends when the parent ends.

        The journal's lock is dropped likewise. Nothing of the loop is touched: its epoll registrations are shared
        with the parent.
        """
        self.worker.let_go_of_journal()
        descriptor = self.worker.file_descriptor()
        if descriptor is not None and descriptor >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, descriptor)
            os.close(nothing)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits in `close` or for the start
            if not self._started.done():
                self._started.set_exception(error)
            self._finished.set_exception(error)
        else:
            self._finished.set_result(None)

    async def _serve(self) -> None:
        async with self._make_worker() as worker:
            self._started.set_result((asyncio.get_running_loop(), worker))
            await self._stop.wait()
