"""The only way into the ledger: requests are queued for the shard of their task, which commits them in batches.

Each request gets exactly one answer within its deadline: a receipt, a rejection, `Unavailable` (nothing was written) or
`OutcomeUnknown` (its answer was lost and could not be found out). The queue is bounded by two marks: from the high one
on requests are answered `Busy`, until it has emptied to the low one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Final

from ledger.batch import Answer, Outcome
from ledger.epoch import History
from ledger.errors import Busy, LedgerError, Unavailable
from ledger.model import Key, Request, task_key
from ledger.pending import BUSY_RETRY_AFTER_MS, Listener, Pending, payload_bytes
from ledger.pool import Lane
from ledger.settings import LedgerSettings
from ledger.shard import Shard
from ledger.tally import Tally
from ledger.turns import out_of_turn

QUEUE_BYTES: Final = 64 * 1024 * 1024
"""Of payloads in the queue at most; as many reports of the largest as a second or two commits."""
LARGE_BYTES: Final = 1_024
"""Smaller payloads are bounded by their number, and not counted."""
LOW_WATER: Final = 0.75
"""The part of the limit to which a full queue has to empty before it takes more: else workers would be let in and
refused by turns, report by report."""


class Writer:
    """Appends requests through every connection of the write lane; a task always goes through the same one.

    Of the settings: `queue_limit` requests wait in all, and `QUEUE_BYTES` of large payloads (then `Busy`),
    `queue_wait_seconds` for a request that cannot be sent; `batch_limit` requests come in a statement. `patience` says
    when the reaper must look at a task. `history` hears the epoch of all that is read and written.
    """

    def __init__(
        self, lane: Lane, listener: Listener, settings: LedgerSettings, history: History | None = None
    ) -> None:
        history = history or History()
        history.listen(self.forget)
        self._high_water = settings.queue_limit
        self._low_water = int(self._high_water * LOW_WATER)
        self._queue_wait_seconds = settings.queue_wait_seconds
        self.tally = Tally()
        limit, patience = settings.batch_limit, settings.patience
        self._shards = [
            Shard(lane, listener, limit, patience, history, self.tally) for _ in range(settings.write_pool_max)
        ]
        self._full = False
        self._room = 0  # so many may come before it is counted again; at most as many as there is room for
        self._large_bytes = 0
        self._closing = False
        # What marks the transitions of requests that have no digest, in every try: unique, and cheaper than uuid4.
        self._marks = map((secrets.token_hex(10) + "{:012x}").format, count())

    def start(self) -> None:
        """Begin to commit; needs a running event loop."""
        for shard in self._shards:
            shard.start()

    @property
    def waiting(self) -> int:
        """Requests not yet answered."""
        return sum(shard.waiting for shard in self._shards)

    def submit(self, request: Request) -> asyncio.Future[Answer]:
        """Queue a request. The future brings a `Receipt` after its commit, or a `Rejection`.

        Raises `Busy` when the queue is full, `Unavailable` when the writer is closing. The future raises `Unavailable`
        or `OutcomeUnknown`.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.post(request, partial(_answer, answer))
        return answer

    def post(self, request: Request, tell: Callable[[Outcome], None]) -> None:
        """As `submit`, for those who have thousands in flight: `tell` is called with the answer or with the error.

        It is called once, and never before `post` has returned; whatever it does holds up the next batch.
        """
        if self._closing:
            self.tally.refused[Unavailable.code] += 1
            raise Unavailable("This server is shutting down; send the report again.", retry_after_ms=1000)
        key = task_key(request.tenant, request.task_id)
        shard = self._shards[hash(key) % len(self._shards)]
        now = time.monotonic()
        size = payload_bytes(request)
        if not (self._room or self._make_room()) or self._large_bytes + size > QUEUE_BYTES:
            shard.turns.miss(key, request, now)
            self.tally.refused[Busy.code] += 1
            raise Busy("Too many reports are waiting for the database.", retry_after_ms=BUSY_RETRY_AFTER_MS)
        if shard.turns.missed and not shard.turns.may_come(key, request, now):
            refusal = out_of_turn()
            self.tally.refused[refusal.code] += 1
            raise refusal
        if size >= LARGE_BYTES:
            self._large_bytes += size
            tell = partial(self._release, size, tell)
        self._room -= 1
        digest = request.digest or next(self._marks)
        shard.offer(Pending(key, request, digest, size=size, deadline=now + self._queue_wait_seconds, tell=tell))

    def overtaken(self, key: Key, seq: int) -> None:
        """Another node says that it has come so far with a task. Need not be true."""
        self._shards[hash(key) % len(self._shards)].overtaken(key, seq)

    def _release(self, size: int, tell: Callable[[Outcome], None], outcome: Outcome) -> None:
        self._large_bytes -= size
        tell(outcome)

    def _make_room(self) -> int:
        """Count how many more may come: some have been answered since it was counted last."""
        waiting = self.waiting
        self._full = waiting >= self._high_water or (self._full and waiting > self._low_water)
        self._room = 0 if self._full else self._high_water - waiting
        return self._room

    def forget(self) -> None:
        """Remember nothing of any task: the ledger's history is another one now."""
        for shard in self._shards:
            shard.forget()

    async def flush(self, timeout_seconds: float) -> None:
        """Wait until all that is queued has its answer, for at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(*(shard.flush() for shard in self._shards))
        await asyncio.sleep(0)  # those who wait for the answers have their turn

    def take_no_more(self) -> None:
        """From now on requests are answered `Unavailable`; what is queued goes on to its commit."""
        self._closing = True

    async def close(self, timeout_seconds: float) -> None:
        """Take no more, commit what is queued for at most so long, and answer the rest with `Unavailable`."""
        self._closing = True
        await asyncio.gather(*(shard.close(timeout_seconds) for shard in self._shards))


def _answer(future: asyncio.Future[Answer], outcome: Outcome) -> None:
    if future.done():  # the caller has gone
        return
    if isinstance(outcome, LedgerError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
