"""That a worker's numbered reports are accepted in their order, also when one of them could not be.

A worker may send n = 2, 3, 4 before the answer to 2. If 2 is then answered "try again" while 3 is accepted, 2 comes
too late for ever. So for a while after a number was missed, those behind it are answered "try again" as well: for what
was sent before the answer could be heard. A worker that gives the missed one up goes on after that while. Pure; it
remembers a bounded number of tasks, and forgets one when the missed number, or another attempt, arrives.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ledger.errors import Unavailable
from ledger.model import Key, Report, Request

REMEMBERED_TASKS: Final = 10_000
RETRY_AFTER_MS: Final = 500
HOLD_SECONDS: Final = 5.0
"""Longer than a worker that obeys `retry_after_ms` needs to send the missed report again."""


class Turns:
    """The numbers that are missed, by task."""

    def __init__(self, remembered_tasks: int = REMEMBERED_TASKS) -> None:
        self._remembered_tasks = remembered_tasks
        self.missed: OrderedDict[Key, tuple[tuple[int, int], float]] = OrderedDict()
        """By task: attempt and number, and until when. While it is empty, anything may come."""

    def miss(self, key: Key, request: Request, now: float) -> None:
        """This request was answered "try again", at `now` (monotonic seconds)."""
        number = _number_of(request)
        if number is None:
            return
        missed = self.missed.get(key)
        if missed is not None and missed[0][0] == number[0]:
            number = min(number, missed[0])
        self.missed[key] = number, now + HOLD_SECONDS
        self.missed.move_to_end(key)
        if len(self.missed) > self._remembered_tasks:
            self.missed.popitem(last=False)

    def may_come(self, key: Key, request: Request, now: float) -> bool:
        """Whether nothing is missed before this request. The missed one itself ends the wait for it."""
        missed = self.missed.get(key)
        number = None if missed is None else _number_of(request)
        if missed is None or number is None:
            return True
        (attempt, n), until = missed
        if now < until and number[0] == attempt and number[1] > n:
            return False
        if now >= until or number >= missed[0]:
            del self.missed[key]
        return True


def out_of_turn() -> Unavailable:
    """The answer to a report that came before one that is missed."""
    return Unavailable(
        "A report of this task with a lower n was not accepted; send that one again first, then this one.",
        reason="out_of_turn",
        retry_after_ms=RETRY_AFTER_MS,
    )


def _number_of(request: Request) -> tuple[int, int] | None:
    if isinstance(request, Report) and request.n is not None and isinstance(request.attempt, int):
        return request.attempt, request.n
    return None
