"""Blocking work beside the event loop, in a thread that holds up nobody's end.

`asyncio.to_thread` is no help here: `asyncio.run` would wait at its end for a token function, or for a server, that
does not answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises. It is left to itself when the caller gives up."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(cast("T", result))

    def run() -> None:
        result, raised = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            raised = error
        try:
            loop.call_soon_threadsafe(tell, result, raised)
        except RuntimeError:
            pass  # the loop has ended meanwhile, and nobody waits

    threading.Thread(target=run, name="ledgerwire request", daemon=True).start()
    return await outcome
