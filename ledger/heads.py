"""What a shard remembers of the tasks that passed through it: their newest states, in one copy of the ledger.

A memory may be behind, which an append finds out. It must never be ahead: then an append would leave a hole. So it
ends with the copy of the ledger that it is of, since another one (after a failover, or a restore) may lack what was
committed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from ledger.epoch import History
from ledger.machine import TERMINAL
from ledger.model import Key, State

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
