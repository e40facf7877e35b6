"""What a shard remembers of the tasks that passed through it: their newest states, in one copy of the ledger.

A memory may be behind, which an append finds out. It must never be ahead: then an append would leave a hole. So it
ends with the copy of the ledger that it is of, since another one (after a failover, or a restore) may lack what was
committed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from ledger.arguments import heads_arguments
from ledger.batch import Entry, Found
from ledger.epoch import Fetch, History
from ledger.errors import OutcomeUnknown, Unavailable
from ledger.machine import TERMINAL
from ledger.model import Key, State
from ledger.rows import prior_of, state_of
from ledger.sql import query

E = TypeVar("E", bound=Entry)

REMEMBERED_TASKS: Final = 10_000
"""Per shard, about 1 KiB each; a forgotten one costs a read."""


class Heads:
    """The states of tasks that have not ended, the latest used last."""

    def __init__(self, history: History, *, most: int = REMEMBERED_TASKS) -> None:
        self._history = history
        self._most = most
        self.states: OrderedDict[Key, State] = OrderedDict()
        self.copy: str | None = None
        """The copy of the ledger that they are of; None until it has answered once."""

    def remember(self, key: Key, state: State) -> None:
        """So the task stands after a commit."""
        if state.status in TERMINAL:
            self.states.pop(key, None)
            return
        self.states[key] = state
        self.states.move_to_end(key)
        if len(self.states) > self._most:
            self.states.popitem(last=False)

    def drop(self, keys: Iterable[Key]) -> None:
        """These tasks must be read anew, and have come at least as far as is remembered."""
        for key in keys:
            state = self.states.pop(key, None)
            if state is not None:
                self._history.expect(self._history.epoch, key, state.seq)

    def overtaken(self, key: Key, seq: int) -> None:
        """Somebody else has come so far with a task: better read than tried in vain."""
        state = self.states.get(key)
        if state is not None and state.seq < seq:
            del self.states[key]

    def answered(self, copy: str, epoch: str) -> None:
        """This copy of the ledger has answered to what was asked in this epoch."""
        if copy != self.copy:
            self.doubt(epoch)
            self.copy = copy

    def doubt(self, epoch: str) -> None:
        """Every task must be read anew, and have come at least as far as it had in this epoch."""
        for key, state in self.states.items():
            self._history.expect(epoch, key, state.seq)
        self.states.clear()

    async def read(self, fetch: Fetch, entries: Sequence[E]) -> dict[E, Found]:
        """What the ledger says of the tasks of these entries, and of the entries themselves.

        Raises `Unavailable`, also where the history has become another one.
        """
        asked_in = self._history.epoch
        try:
            rows = await fetch(query("heads"), *heads_arguments(entries))
        except OutcomeUnknown as error:  # nothing was written by a read
            raise Unavailable(error.sentence, reason=error.reason, retry_after_ms=error.retry_after_ms) from error
        if not self._history.note(rows[0]["epoch"], asked_in):
            raise Unavailable("The ledger's history has changed.", reason="epoch_changed")
        self.answered(rows[0]["copy"], asked_in)
        found: dict[E, Found] = {}
        for row in rows:
            entry = entries[row["ord"]]
            state = state_of(row)
            if state is not None and (state.tenant, state.task_id) != (entry.request.tenant, entry.request.task_id):
                raise AssertionError("two tasks with one key: sha256 has collided")
            found[entry] = Found(state=state, prior=prior_of(row))
            if (known := self._history.lost(entry.key, 0 if state is None else state.seq)) is not None:
                await self._history.rewound(fetch, known)
        return found
