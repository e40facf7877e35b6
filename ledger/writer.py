"""The only way into the ledger: requests queue, and one loop per shard commits what is there.

Group commit without a timer: a shard takes what has gathered while the last statement was at work, up to the batch
limit, decides it (`ledger.batch`), and appends it with one statement, which is one commit. Nothing is answered or told
to the listener before that commit has returned. Each request gets exactly one answer within its deadline: a receipt, a
rejection, `Unavailable` (nothing was written) or `OutcomeUnknown` (its answer was lost and could not be found out).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import structlog

from ledger.batch import Answer, Entry, Fold, Found, append_arguments, fold, heads_arguments, transitions_of
from ledger.decide import receipt
from ledger.errors import Busy, LedgerError, OutcomeUnknown, Refused, Unavailable
from ledger.model import TERMINAL, Digest, Key, Rejection, Request, State, Transition, task_key
from ledger.pool import Lane
from ledger.rows import prior_of, state_of
from ledger.sql import query
from ledger.turns import Turns, out_of_turn

log = structlog.get_logger(__name__)

REMEMBERED_TASKS = 10_000  # heads per shard, about 1 KiB each; a forgotten one costs a read
RETRY_FIRST_SECONDS = 0.05
RETRY_MOST_SECONDS = 0.5
BUSY_RETRY_AFTER_MS = 500


class Listener(Protocol):
    """Told of every commit, in commit order per task, before the requests are answered. Must not fail or wait."""

    def committed(self, transitions: Sequence[Transition]) -> None:
        """These are in the ledger now."""

    def reached(self, key: Key, seq: int) -> None:
        """The task is known to have come at least so far; what happened in between was not seen here."""


class _Pending(Entry):
    __slots__ = ("answer", "deadline")

    def __init__(self, *, key: Key, request: Request, digest: Digest, deadline: float) -> None:
        super().__init__(key=key, request=request, digest=digest)
        self.deadline = deadline  # monotonic seconds
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def resolve(self, answer: Answer) -> None:
        if not self.answer.done():  # the caller may have gone
            self.answer.set_result(answer)

    def fail(self, error: LedgerError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Writer:
    """Appends requests through `shards` connections of the write lane; a task always goes through the same one.

    Limits: `queue_limit` requests waiting in all (then `Busy`), `queue_wait_seconds` for a request that cannot be sent,
    `batch_limit` requests in a statement.
    """

    def __init__(
        self,
        lane: Lane,
        listener: Listener,
        *,
        shards: int,
        queue_limit: int,
        queue_wait_seconds: float,
        batch_limit: int,
    ) -> None:
        self._queue_limit = queue_limit
        self._queue_wait_seconds = queue_wait_seconds
        self._shards = [_Shard(lane, listener, batch_limit) for _ in range(shards)]
        self._closing = False

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
        if self._closing:
            raise Unavailable("This server is shutting down; send the report again.", retry_after_ms=1000)
        key = task_key(request.tenant, request.task_id)
        shard = self._shards[hash(key) % len(self._shards)]
        if self.waiting >= self._queue_limit:
            shard.turns.miss(key, request, time.monotonic())
            raise Busy("Too many reports are waiting for the database.", retry_after_ms=BUSY_RETRY_AFTER_MS)
        if not shard.turns.may_come(key, request, time.monotonic()):
            raise out_of_turn()
        digest = request.digest or os.urandom(16).hex()
        pending = _Pending(
            key=key, request=request, digest=digest, deadline=time.monotonic() + self._queue_wait_seconds
        )
        shard.offer(pending)
        return pending.answer

    async def flush(self, timeout_seconds: float) -> None:
        """Wait until all that is queued has its answer, for at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(*(shard.flush() for shard in self._shards))
        await asyncio.sleep(0)  # those who wait for the answers have their turn

    async def close(self, timeout_seconds: float) -> None:
        """Take no more, commit what is queued for at most so long, and answer the rest with `Unavailable`."""
        self._closing = True
        await asyncio.gather(*(shard.close(timeout_seconds) for shard in self._shards))


class _Shard:
    def __init__(self, lane: Lane, listener: Listener, batch_limit: int) -> None:
        self._lane = lane
        self._listener = listener
        self._batch_limit = batch_limit
        self._queue: deque[_Pending] = deque()
        self._at_work: Sequence[_Pending] = ()
        self._heads: OrderedDict[Key, State] = OrderedDict()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self.turns = Turns()

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._at_work)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ledger-writer")

    def offer(self, pending: _Pending) -> None:
        self._queue.append(pending)
        self._idle.clear()
        self._wake.set()

    async def flush(self) -> None:
        await self._idle.wait()

    async def close(self, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.flush()
        except TimeoutError:
            log.warning("writer_closed_with_reports_waiting", waiting=self.waiting)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for pending in (*self._at_work, *self._queue):
            pending.fail(_gone(pending))

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            while self._queue:
                take = min(self._batch_limit, len(self._queue))
                self._at_work = [self._queue.popleft() for _ in range(take)]
                await self._commit_or_wait(self._at_work)
                self._at_work = ()
            self._idle.set()
            self._wake.clear()

    async def _commit_or_wait(self, batch: Sequence[_Pending]) -> None:
        """Commit a batch. What could not be settled is back at the head of the queue, unless its time is over."""
        try:
            again = await self._commit(batch)
            self._failures = 0
        except (Unavailable, OutcomeUnknown) as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("ledger_unreachable", reason=error.reason, waiting=self.waiting)
            again = [pending for pending in batch if not pending.answer.done()]
            await asyncio.sleep(_full_jitter(self._failures))
        except Exception:
            # A fault of ours must not end the loop: everybody else's reports depend on it.
            log.exception("writer_fault", requests=len(batch))
            for pending in batch:
                pending.fail(OutcomeUnknown("The server failed while writing; send the same again."))
            self._heads.clear()
            return
        now = time.monotonic()
        keep: list[_Pending] = []
        late: list[_Pending] = []
        for pending in again:
            (keep if pending.deadline > now else late).append(pending)
        self._queue.extendleft(reversed(keep))
        while self._failures and self._queue and self._queue[0].deadline <= now:
            late.append(self._queue.popleft())
        if late:
            self._give_up(late, now)

    def _give_up(self, late: Sequence[_Pending], now: float) -> None:
        """Answer what has waited too long, and with it what its worker has numbered behind it."""
        for pending in late:
            self.turns.miss(pending.key, pending.request, now)
            if self._failures or pending.sent_seq:
                pending.fail(_gone(pending))
            else:
                pending.fail(Busy("Others write to this task without a pause.", retry_after_ms=BUSY_RETRY_AFTER_MS))
        waiting, self._queue = self._queue, deque()
        for pending in waiting:
            if self.turns.may_come(pending.key, pending.request, now):
                self._queue.append(pending)
            else:
                pending.fail(_gone(pending) if pending.sent_seq else out_of_turn())

    async def _commit(self, batch: Sequence[_Pending]) -> list[_Pending]:
        """Settle a batch; returns the entries whose task had moved on, in order, to be decided again.

        Raises `Unavailable` or `OutcomeUnknown`; entries that were settled before that are answered.
        """
        found: dict[_Pending, Found] = {}
        decided = fold(batch, self._heads, found)
        try:
            if decided.stale:
                found = await self._read([entry for entry in batch if entry.key in decided.stale])
                decided = fold(batch, self._heads, found)
            arguments = append_arguments(decided.growth) if decided.growth else []
        except Refused as error:
            return await self._refused(batch, error)
        except UnicodeDecodeError as error:
            return await self._refused(batch, Refused(f"A payload is not UTF-8: {error.reason}."))
        applied: dict[Key, datetime] = {}
        if decided.growth:
            try:
                rows = await self._lane.fetch(query("append"), *arguments)
            except (OutcomeUnknown, asyncio.CancelledError):
                # Cancelled at the end of `close`, it may have been sent as well.
                for growth in decided.growth.values():
                    for entry, change in growth.changes:
                        # The first place of several: any of the statements sent may be the one that commits.
                        entry.sent_seq = min(entry.sent_seq or change.step.seq, change.step.seq)
                self._heads.clear()
                raise
            except Refused as error:
                return await self._refused(batch, error)
            except Unavailable as error:
                if error.reason != "statement_timeout" or len(batch) == 1:
                    raise
                return await self._in_halves(batch)  # it is the batch that takes too long
            applied = {row["key"].hex: row["at"] for row in rows}
        self._settle(decided, applied)
        return [entry for entry in batch if not entry.answer.done() and entry.key in decided.growth]

    async def _refused(self, batch: Sequence[_Pending], error: Refused) -> list[_Pending]:
        """The database refuses something in the batch: halve it until the culprit stands alone."""
        if len(batch) == 1:
            log.warning("report_refused_by_database", task_id=batch[0].request.task_id, reason=error.reason)
            batch[0].resolve(Rejection(code="bad_request", message=error.sentence))
            return []
        return await self._in_halves(batch)

    async def _in_halves(self, batch: Sequence[_Pending]) -> list[_Pending]:
        middle = len(batch) // 2
        again = await self._commit(batch[:middle])
        # A later report must not overtake an earlier one of its task that has to be decided again.
        held = {entry.key for entry in again}
        again += [entry for entry in batch[middle:] if entry.key in held]
        return [*again, *await self._commit([entry for entry in batch[middle:] if entry.key not in held])]

    def _settle(self, decided: Fold[_Pending], applied: dict[Key, datetime]) -> None:
        """After the commit: remember, tell the listener, then answer."""
        told: list[Transition] = []
        for key, growth in decided.growth.items():
            at = applied.get(key)
            if at is None:
                self._heads.pop(key, None)
            else:
                told += transitions_of(key, growth, at)
                self._remember(key, growth.state)
        if told:
            self._listener.committed(told)
        for key, growth in decided.growth.items():
            if key in applied:
                for entry, change in growth.changes:
                    entry.resolve(receipt(change))
        for key, answers in decided.answers.items():
            if key in decided.growth and key not in applied:
                continue
            for entry, answer in answers:
                if not isinstance(answer, Rejection):
                    self._listener.reached(key, answer.seq)
                entry.resolve(answer)

    def _remember(self, key: Key, state: State) -> None:
        if state.status in TERMINAL:
            self._heads.pop(key, None)
            return
        self._heads[key] = state
        self._heads.move_to_end(key)
        if len(self._heads) > REMEMBERED_TASKS:
            self._heads.popitem(last=False)

    async def _read(self, entries: Sequence[_Pending]) -> dict[_Pending, Found]:
        try:
            rows = await self._lane.fetch(query("heads"), *heads_arguments(entries))
        except OutcomeUnknown as error:  # nothing was written by a read
            raise Unavailable(error.sentence, reason=error.reason, retry_after_ms=error.retry_after_ms) from error
        found: dict[_Pending, Found] = {}
        for row in rows:
            entry = entries[row["ord"]]
            state = state_of(row)
            if state is not None and (state.tenant, state.task_id) != (entry.request.tenant, entry.request.task_id):
                raise AssertionError("two tasks with one key: sha256 has collided")
            found[entry] = Found(state=state, prior=prior_of(row))
        return found


def _gone(pending: _Pending) -> LedgerError:
    if pending.sent_seq:
        return OutcomeUnknown(
            "The database did not say whether this was written; send the same again with the same n or key.",
            retry_after_ms=1000,
        )
    return Unavailable("The database cannot be reached; nothing was written.", retry_after_ms=1000)


def _full_jitter(failures: int) -> float:
    return random.uniform(0.01, min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2**failures))  # noqa: S311 - not a secret
