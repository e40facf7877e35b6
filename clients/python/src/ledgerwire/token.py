"""The token of a client: as it is, or asked of a function, by one caller at a time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ledgerwire.thread import in_thread

Token: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]] | None
"""A token, or a function that gives a current one. A plain function is called in a thread: it may block."""


class NoToken(Exception):
    """The token function failed, or gave none in time."""


class Tokens:
    """Gives the token of each connection. Whoever asks while the function is at work gets the same answer."""

    def __init__(self, source: Token, timeout_seconds: float) -> None:
        self._source = source
        self._timeout_seconds = timeout_seconds
        self._last: str | None = None
        self._asking: asyncio.Task[str] | None = None

    @property
    def renewable(self) -> bool:
        """Whether another token may be had."""
        return callable(self._source)

    def replace(self, token: str) -> None:
        """From now on the token is this one."""
        self._source = token

    async def last(self) -> str | None:
        """The token that was given last; the first time a fresh one. Raises NoToken."""
        return self._last if self.renewable and self._last is not None else await self.fresh()

    async def fresh(self) -> str | None:
        """A token as it is now. Raises NoToken, which names the function's error by its type alone."""
        if not callable(self._source):
            return self._source
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(self._source), name="ledgerwire token")
        try:
            # Shielded: one caller who gives up takes the answer from nobody else.
            self._last = await asyncio.shield(self._asking)
        except asyncio.CancelledError:
            raise
        except TimeoutError as error:
            sentence = f"the token function gave no token in {self._timeout_seconds:g} s"
            raise NoToken(sentence) from error
        except Exception as error:
            sentence = f"the token function failed: {type(error).__name__}"
            raise NoToken(sentence) from error
        return self._last

    async def _ask(self, source: Callable[[], str] | Callable[[], Awaitable[str]]) -> str:
        async with asyncio.timeout(self._timeout_seconds):
            given: str | Awaitable[str]
            given = source() if inspect.iscoroutinefunction(source) else await in_thread(source)
            return given if isinstance(given, str) else await given
