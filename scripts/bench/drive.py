"""Sends a supply of requests to a writer and takes the time of each answer. Knows nothing of what is in them.

Closed loop: so many are in flight at all times, which finds the most that is possible. Open loop: each request has its
time, whatever became of those before it, and its latency counts from that time: a stall is not omitted.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ledger.batch import Outcome
from ledger.errors import LedgerError
from ledger.model import Receipt, Request

Post = Callable[[Request, Callable[[Outcome], None]], None]
"""`Writer.post`, which is how the gateway's connections send."""
TICK_SECONDS: Final = 0.001
"""How often the open loop looks at its schedule, which is as fine as uvloop's timers are; what is sent later than its
time is counted as latency."""
ANSWER_SECONDS: Final = 60.0
"""How long the last answers may take; far longer than the writer's own deadlines."""


class Unanswered(Exception):
    """A request got no answer: the writer has broken its promise."""


class Tally:
    """What became of the requests: `committed`, `outcomes` by word, and `latencies` of the committed in seconds."""

    def __init__(self) -> None:
        self.committed = 0
        self.outcomes: Counter[str] = Counter()
        self.latencies: array[float] = array("d")

    def note(self, began: float, outcome: Outcome) -> None:
        """Count one answer."""
        if not isinstance(outcome, Receipt):
            self.outcomes[outcome.code] += 1
        elif outcome.repeat:
            self.outcomes["repeat"] += 1
        else:
            self.committed += 1
            self.latencies.append(time.perf_counter() - began)


class ClosedLoop:
    """`window` requests in flight until the supply or the time is over. One use.

    `tally_of` gives the tally for the request at a place of the supply; without it there is one for all.
    """

    def __init__(
        self, post: Post, supply: Sequence[Request], window: int, tally_of: Callable[[int], Tally] | None = None
    ) -> None:
        self._post = post
        self._supply = supply
        self._window = window
        self._tally_of = tally_of
        self._next = 0
        self._in_flight = 0
        self._stopped = False
        self._supply_is_over = asyncio.Event()
        self._quiet = asyncio.Event()
        self.tally = Tally()

    async def run(self, seconds: float) -> None:
        """Send for so long, or until all is sent. What is in flight then is answered in `finish`."""
        for _ in range(min(self._window, len(self._supply) + 1)):  # the one too many sees that the supply is over
            self._send()
        try:
            async with asyncio.timeout(seconds):
                await self._supply_is_over.wait()
        except TimeoutError:
            pass

    async def finish(self) -> None:
        """Send no more, and wait for the answers. Raises `Unanswered`."""
        self._stopped = True
        if self._in_flight:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._quiet.wait()
            except TimeoutError:
                raise Unanswered(f"{self._in_flight} requests have no answer after {ANSWER_SECONDS:g} s") from None

    @property
    def sent(self) -> int:
        """How much of the supply was used."""
        return self._next

    def _send(self) -> None:
        if self._stopped or self._next == len(self._supply):
            self._supply_is_over.set()
            return
        request = self._supply[self._next]
        tally = self.tally if self._tally_of is None else self._tally_of(self._next)
        self._next += 1
        began = time.perf_counter()
        try:
            self._post(request, partial(self._settled, tally, began))
        except LedgerError as error:
            tally.outcomes[error.code] += 1
            asyncio.get_running_loop().call_later(0.01, self._send)
            return
        self._in_flight += 1

    def _settled(self, tally: Tally, began: float, outcome: Outcome) -> None:
        self._in_flight -= 1
        tally.note(began, outcome)
        self._send()
        if not self._in_flight:
            self._quiet.set()


async def open_loop(
    post: Post, supply: Sequence[Request], per_second: float, tally_of: Callable[[int], Tally] | None = None
) -> Tally:
    """Send the supply at a steady rate; returns when all is answered. `tally_of` as above. Raises `Unanswered`."""
    only = Tally()
    in_flight = 0
    all_are_sent = False
    quiet = asyncio.Event()

    def settled(tally: Tally, due: float, outcome: Outcome) -> None:
        nonlocal in_flight
        in_flight -= 1
        tally.note(due, outcome)
        if all_are_sent and not in_flight:
            quiet.set()

    start = time.perf_counter() + 0.01
    for place, request in enumerate(supply):
        due = start + place / per_second
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(max(wait, TICK_SECONDS))
        tally = only if tally_of is None else tally_of(place)
        try:
            post(request, partial(settled, tally, due))
        except LedgerError as error:
            tally.outcomes[error.code] += 1
        else:
            in_flight += 1
        if place % 256 == 0:
            await asyncio.sleep(0)  # behind its schedule, it must not keep the writer from its work
    all_are_sent = True
    if in_flight:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await quiet.wait()
        except TimeoutError:
            raise Unanswered(f"{in_flight} requests have no answer after {ANSWER_SECONDS:g} s") from None
    return only


class NullWriter:
    """Answers everything, in turns as a writer would, and does no work: what is left is the driver's own cost."""

    def __init__(self, answer: Receipt, batch: int = 500) -> None:
        self._answer = answer
        self._batch = batch
        self._queue: deque[Callable[[Outcome], None]] = deque()

    def post(self, _request: Request, tell: Callable[[Outcome], None]) -> None:
        """Answered at one of the next turns of the loop."""
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._settle)
        self._queue.append(tell)

    def _settle(self) -> None:
        told = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
        if self._queue:
            asyncio.get_running_loop().call_soon(self._settle)
        for tell in told:
            tell(self._answer)
