"""One shard of the writer: the requests of its tasks, committed in the order they came.

Group commit without a timer: a shard takes what has gathered while the last statement was at work, up to the batch
limit, decides it (`ledger.batch`), and appends it: progress with one statement, which is one commit, and all else with
another. Nothing is answered or told to the listener before its commit has returned.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Container, Mapping, Sequence
from datetime import datetime

import structlog

from ledger.arguments import advance_arguments, append_arguments
from ledger.batch import Answer, Fold, Growth, apart, fold, transitions_of
from ledger.doubt import doubtful
from ledger.epoch import History
from ledger.errors import Busy, LedgerError, OutcomeUnknown, Refused, Unavailable
from ledger.heads import Heads
from ledger.literals import NotJson
from ledger.model import Key, Patience, Rejection, Transition
from ledger.parked import Parked
from ledger.pending import BUSY_RETRY_AFTER_MS, Listener, Pending, full_jitter, take
from ledger.pool import Lane
from ledger.receipts import receipt
from ledger.sql import query
from ledger.tally import Tally
from ledger.turns import Turns, out_of_turn

log = structlog.get_logger(__name__)


class Shard:
    """One connection, one loop, and the heads of its tasks."""

    def __init__(
        self, lane: Lane, listener: Listener, batch_limit: int, patience: Patience, history: History, tally: Tally
    ) -> None:
        self._connection = lane.hold("writer")
        self._patience = patience
        self._history = history
        self._tally = tally
        self._listener = listener
        self._batch_limit = batch_limit
        self._queue: deque[Pending] = deque()
        self._at_work: Sequence[Pending] = ()
        self.waiting = 0
        """Requests not yet answered."""
        self._heads = Heads(history)
        self._wake = asyncio.Event()
        self._parked = Parked(self._connection, self._wake.set)
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self.turns = Turns()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="ledger-writer")

    def offer(self, pending: Pending) -> None:
        self._queue.append(pending)
        self.waiting += 1
        if not self._at_work:
            self._wake.set()

    def forget(self) -> None:
        """Remember nothing of any task."""
        self._heads.states.clear()

    def overtaken(self, key: Key, seq: int) -> None:
        """Somebody else has come so far with a task."""
        self._heads.overtaken(key, seq)

    async def flush(self) -> None:
        while self.waiting:
            self._idle.clear()
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
        for pending in (*self._at_work, *self._parked.entries, *self._queue):
            self._refuse(pending, pending.gone())
        await self._connection.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            while self._queue or self._parked.due:
                back, late = await self._parked.look()
                self._queue.extendleft(reversed(back))
                self._give_up(late, time.monotonic())
                self._at_work = take(self._queue, self._batch_limit)
                await self._commit_or_wait(self._at_work)
                self._at_work = ()
                self.waiting = len(self._queue) + len(self._parked)
            self._idle.set()
            self._wake.clear()

    async def _commit_or_wait(self, batch: Sequence[Pending]) -> None:
        """Commit a batch. What could not be settled is back at the head of the queue, unless its time is over."""
        try:
            again = await self._commit(batch)
            self._failures = 0
        except (Unavailable, OutcomeUnknown) as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("ledger_unreachable", reason=error.reason, waiting=self.waiting)
            again = [pending for pending in self._parked.apart_from(batch) if not pending.done]
            await asyncio.sleep(full_jitter(self._failures))
        except Exception:
            # A fault of ours must not end the loop: everybody else's reports depend on it.
            log.exception("writer_fault", requests=len(batch))
            for pending in self._parked.apart_from(batch):
                self._refuse(pending, OutcomeUnknown("The server failed while writing; send the same again."))
            self._heads.states.clear()
            return
        now = time.monotonic()
        keep: list[Pending] = []
        late: list[Pending] = []
        for pending in again:
            (keep if pending.deadline > now else late).append(pending)
        self._queue.extendleft(reversed(keep))
        while self._failures and self._queue and self._queue[0].deadline <= now:
            late.append(self._queue.popleft())
        self._give_up(late, now)

    def _give_up(self, late: Sequence[Pending], now: float) -> None:
        """Answer what has waited too long, and with it what its worker has numbered behind it."""
        if not late:
            return
        for pending in late:
            self.turns.miss(pending.key, pending.request, now)
            busy = Busy("Others write to this task without a pause.", retry_after_ms=BUSY_RETRY_AFTER_MS)
            self._refuse(pending, pending.gone() if self._failures or pending.sent_seq else busy)
        waiting, self._queue = self._queue, deque()
        for pending in waiting:
            if self.turns.may_come(pending.key, pending.request, now):
                self._queue.append(pending)
            else:
                self._refuse(pending, pending.gone() if pending.sent_seq else out_of_turn())

    def _refuse(self, pending: Pending, why: Rejection | LedgerError) -> None:
        self._tally.refused[why.code] += not pending.done
        pending.resolve(why)

    async def _commit(self, batch: Sequence[Pending]) -> list[Pending]:
        """Settle a batch; returns the entries whose task had moved on, in order, to be decided again.

        Raises `Unavailable` or `OutcomeUnknown`; entries that were settled before that are answered.
        """
        batch = self._parked.others(batch)
        epoch, copy = self._history.epoch, self._heads.copy
        decided = fold(batch, self._heads.states, {})
        try:
            if decided.stale:
                found = await self._heads.read(
                    self._connection.fetch, [entry for entry in batch if entry.key in decided.stale]
                )
                epoch, copy = self._history.epoch, self._heads.copy  # where one is another, no head is left
                decided = fold(batch, self._heads.states, found)
            for key, answers in decided.answers.items():
                if key not in decided.growth:
                    self._answer(answers)
            progress, rest = apart(decided.growth)
            if progress:
                await self._write(decided, progress, "advance", advance_arguments(progress), epoch, copy)
            if rest:
                await self._write(decided, rest, "append", append_arguments(rest, self._patience), epoch, copy)
        except Refused as error:
            return await self._refused(batch, error)
        except NotJson as error:
            return await self._refused(batch, Refused(str(error)))
        except Unavailable as error:
            if error.reason == "lock_timeout":
                return await self._held_up([entry for entry in batch if not entry.done])
            if error.reason != "statement_timeout" or len(batch) == 1:
                raise
            return await self._in_halves(batch)  # it is the batch that takes too long
        return [entry for entry in batch if not entry.done]

    async def _write(
        self,
        decided: Fold[Pending],
        growth: Mapping[Key, Growth[Pending]],
        name: str,
        arguments: Sequence[str],
        epoch: str,
        copy: str | None,
    ) -> None:
        """Append what grows with one statement, in the epoch and the copy of the decision, and settle it."""
        began = time.monotonic()
        try:
            (row,) = await self._connection.fetch(query(name), *arguments, epoch or None, copy)
            self._tally.commit_seconds.note(time.monotonic() - began)
        except (OutcomeUnknown, asyncio.CancelledError):
            # Cancelled at the end of `close`, it may have been sent as well.
            self._note_sent(growth, epoch)
            raise
        if not self._history.note(row["epoch"], epoch):
            # Written, but the history has changed since: whether it has come along is found out as after a lost answer.
            self._note_sent(growth, epoch)
            return
        self._heads.answered(row["copy"], epoch)
        applied = growth if row["applied"] is None else {key.hex for key in row["applied"]}
        self._settle(growth, decided, applied, row["at"], epoch)

    def _note_sent(self, growth: Mapping[Key, Growth[Pending]], epoch: str) -> None:
        """These may have been written.

        They are looked for by their digest from the first place of several on, as any of the statements sent may be the
        one that commits. Also after a rewind: no statement writes in another epoch than that of its decision, so if it
        is in the new history, then as a part of the old one that was kept, and at that place.
        """
        for key, grown in growth.items():
            self._history.expect(epoch, key, grown.expected)
            for entry, change in grown.changes:
                entry.sent_seq = min(entry.sent_seq or change.state.seq, change.state.seq)
        self._heads.doubt(epoch)

    async def _refused(self, batch: Sequence[Pending], error: Refused) -> list[Pending]:
        """The database refuses something in the batch: halve it until the culprit stands alone."""
        if error.reason == "collision":
            return await self._collided([entry for entry in batch if not entry.done])
        if len(batch) == 1:
            log.warning("report_refused_by_database", task_id=batch[0].request.task_id, reason=error.reason)
            self._refuse(batch[0], Rejection(code="bad_request", message=error.sentence))
            return []
        odd = {entry.key for entry in batch if not entry.done and doubtful(entry.request)}
        return await self._apart(batch, odd) if odd else await self._in_halves(batch)

    async def _apart(self, batch: Sequence[Pending], keys: Container[Key]) -> list[Pending]:
        """What is not of these tasks together, then what is of them, each alone and in their order."""
        batch = [entry for entry in batch if not entry.done]
        again = await self._commit([entry for entry in batch if entry.key not in keys])
        held = set[Key]()
        for entry in batch:
            if entry.key in keys:
                left = [entry] if entry.key in held else await self._commit([entry])
                held.update(one.key for one in left)
                again += left
        return again

    async def _collided(self, batch: Sequence[Pending]) -> list[Pending]:
        """Somebody has appended to one of these tasks, and it is not said to which: read them all, and try again.

        Where that was in vain others append at this very moment: halve until what they append to stands alone.
        """
        keys = {entry.key for entry in batch}
        self._heads.drop(keys)
        if not all(entry.must_read for entry in batch):
            for entry in batch:
                entry.must_read = True
            return await self._commit(batch)
        return list(batch) if len(keys) == 1 else await self._in_halves(batch)

    async def _held_up(self, batch: Sequence[Pending]) -> list[Pending]:
        """An open transaction holds the place of one of these tasks: what is for it steps aside, the rest goes on."""
        rest = await self._parked.part(batch, self._heads.drop)
        if rest is None and any(entry.deadline <= time.monotonic() for entry in batch):
            return list(batch)  # somebody holds a whole table: to look for a culprit would take everybody's time
        return await (self._in_halves(batch) if rest is None else self._commit(rest))

    async def _in_halves(self, batch: Sequence[Pending]) -> list[Pending]:
        batch = [entry for entry in batch if not entry.done]  # a part of it may have been written
        middle = len(batch) // 2
        again = await self._commit(batch[:middle])
        # A later report must not overtake an earlier one of its task that has to be decided again.
        held = {entry.key for entry in again}
        again += [entry for entry in batch[middle:] if entry.key in held]
        return [*again, *await self._commit([entry for entry in batch[middle:] if entry.key not in held])]

    def _settle(
        self,
        growth: Mapping[Key, Growth[Pending]],
        decided: Fold[Pending],
        applied: Container[Key],
        at: datetime,
        epoch: str,
    ) -> None:
        """After a commit: remember, tell the listener, then answer.

        What is to be told is told once the next batch has been sent, while PostgreSQL is at work on it.
        """
        told: list[Transition] = []
        heads: list[tuple[Key, int]] = []
        answers: list[tuple[Pending, Answer]] = []
        known: list[tuple[Pending, Answer]] = []
        for key, grown in growth.items():
            if key not in applied:
                self._heads.states.pop(key, None)
                for entry, _ in grown.changes:
                    entry.must_read = True
                self._history.expect(epoch, key, grown.expected)
                continue
            self._heads.remember(key, grown.state)
            heads.append((key, grown.state.seq))
            if self._listener.watches(key):
                told += transitions_of(key, grown, at)
            for entry, change in grown.changes:
                entry.done = True
                answers.append((entry, receipt(change.state)))
            known += decided.answers.get(key, ())
        self._tally.commit_transitions.note(len(answers))
        asyncio.get_running_loop().call_soon(self._tell, told, heads, answers)
        self._answer(known)

    def _tell(
        self,
        transitions: Sequence[Transition],
        heads: Sequence[tuple[Key, int]],
        answers: Sequence[tuple[Pending, Answer]],
    ) -> None:
        try:
            self._listener.committed(transitions, heads)
        except Exception:
            log.exception("listener_fault", tasks=len(heads))  # the answers do not depend on it
        for entry, answer in answers:
            try:  # as `say` does, without a call for each
                entry.tell(answer)
            except Exception:
                log.exception("listener_fault", task_id=entry.request.task_id)

    def _answer(self, known: Sequence[tuple[Pending, Answer]]) -> None:
        """Answer what changes nothing, after all that was to be told before."""
        for entry, _ in known:
            entry.done = True
        if known:
            asyncio.get_running_loop().call_soon(self._tell_known, known)

    def _tell_known(self, known: Sequence[tuple[Pending, Answer]]) -> None:
        for entry, answer in known:
            if not isinstance(answer, Rejection):
                try:
                    self._listener.reached(entry.key, answer.seq)
                except Exception:
                    log.exception("listener_fault", task_id=answer.task_id)
            else:
                self._tally.refused[answer.code] += 1
            entry.say(answer)
