"""Waiting for a condition with a deadline; a test never sleeps and hopes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

T = TypeVar("T")
WAIT_SECONDS: Final = 60.0
"""For what must happen, however busy the machine is; not how soon it does."""


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]],
    *,
    within_seconds: float = WAIT_SECONDS,
    every_seconds: float = 0.01,
    what: str = "",
) -> T: ...


@overload
async def eventually(
    condition: Callable[[], T], *, within_seconds: float = WAIT_SECONDS, every_seconds: float = 0.01, what: str = ""
) -> T: ...


async def eventually(
    condition: Callable[[], Any], *, within_seconds: float = WAIT_SECONDS, every_seconds: float = 0.01, what: str = ""
) -> Any:
    """The first true value of `condition`, which may be a coroutine function.

    Fails when there is none in time, with the last error that the condition raised: an `AssertionError` or
    an `OSError` counts as "not yet", all else passes through.
    """
    deadline = time.monotonic() + within_seconds
    last: BaseException | None = None
    while True:
        try:
            value = condition()
            found = await value if inspect.isawaitable(value) else value
            if found:
                return found
        except (AssertionError, OSError) as exc:
            last = exc
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_seconds:g} s: {what or condition}") from last
        await asyncio.sleep(every_seconds)


async def pace(end: asyncio.Event, seconds: float) -> bool:
    """A peer's own rhythm or back-off: wait for the end of its work, for at most so long; whether it has come.

    What is under test must not depend on the length: it is what a client does between two attempts.
    """
    try:
        async with asyncio.timeout(seconds):
            await end.wait()
    except TimeoutError:
        return False
    return True


def eventually_blocking(condition: Callable[[], T], *, within_seconds: float = WAIT_SECONDS, what: str = "") -> T:
    """As `eventually`, for a test without an event loop."""
    return asyncio.run(eventually(condition, within_seconds=within_seconds, what=what))
