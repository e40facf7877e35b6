"""When to poll beside the tries for a connection: from the third in a row that failed until one is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ledgerwire.errors import LedgerwireError
from ledgerwire.http import NoGateway
from ledgerwire.polling import Polling

_log = logging.getLogger("ledgerwire")

MISSED_MAX: Final = 3


class Detour:
    """Begins and ends the polls of one link. Never both: a connection counts as open when the polls have ended."""

    def __init__(self, make: Callable[[], Polling]) -> None:
        self._make = make
        self._missed = 0
        self._polling: Polling | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def polling(self) -> bool:
        """Whether polls bring what a connection would."""
        return self._polling is not None and self._polling.answered

    @property
    def heard_at(self) -> float | None:
        """When a poll was answered last, in the loop's time."""
        return None if self._polling is None else self._polling.heard_at

    def wake(self) -> None:
        """The peer has something to say."""
        if self._polling is not None:
            self._polling.wake()

    def missed(self) -> LedgerwireError | NoGateway | None:
        """Another connection could not be opened. Returns why polls are of no use, where that has turned out."""
        self._missed += 1
        if self._task is not None and self._task.done():
            error, self._task, self._polling = self._task.exception(), None, None
            if isinstance(error, LedgerwireError | NoGateway):
                self._missed = 0
                return error
            if error is not None:
                raise error
        if self._missed >= MISSED_MAX and self._task is None:
            _log.info("polling, while there is no connection")
            self._polling = self._make()
            self._task = asyncio.create_task(self._polling.run(), name="ledgerwire polling")
        return None

    async def end(self) -> None:
        """There is a connection, or nobody listens any more."""
        self._missed = 0
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = self._polling = None
