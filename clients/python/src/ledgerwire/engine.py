"""A background thread with an event loop and a worker or watcher in it, for callers without a loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from ledgerwire.errors import Closed, DeliveryTimeout

T = TypeVar("T")

START_SECONDS = 10.0
_MARGIN_SECONDS = 5.0
"""How much later than the work itself the caller gives up; only a stuck loop makes a caller wait so long."""


class Peer(Protocol):
    """A worker or a watcher."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


P = TypeVar("P", bound=Peer)


class Engine(Generic[P]):
    """Starts its thread at once; `call` runs work in it and waits for the outcome."""

    def __init__(self, make_peer: Callable[[], P]) -> None:
        self.pid = os.getpid()
        self._make_peer = make_peer
        self._started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, P]] = concurrent.futures.Future()
        self._finished: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="ledgerwire", daemon=True)
        self._thread.start()
        self._loop, self.peer = self._started.result(START_SECONDS)

    def call(self, work: Coroutine[Any, Any, T], timeout_seconds: float | None) -> T:
        """Run `work`, which has a timeout of its own, and return or raise what it does. Raises Closed.

        `timeout_seconds` is that timeout; None: what bounds it is not a time, as with the next change of a task.
        """
        if threading.get_ident() == self._thread.ident:
            work.close()
            raise RuntimeError("the synchronous client was called from its own thread")
        if self._finished.done():
            work.close()
            raise Closed("it is closed")
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop was closed just now
            work.close()
            raise Closed("it is closed") from error
        try:
            return future.result(None if timeout_seconds is None else timeout_seconds + _MARGIN_SECONDS)
        except concurrent.futures.CancelledError as error:
            raise Closed("it was closed meanwhile") from error
        except TimeoutError as error:
            if future.done():  # the work's own
                raise
            future.cancel()
            sentence = f"the background thread did not answer in {_MARGIN_SECONDS:g} s more than it had"
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
        async with self._make_peer() as peer:
            self._started.set_result((asyncio.get_running_loop(), peer))
            await self._stop.wait()
