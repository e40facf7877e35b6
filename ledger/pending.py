"""A request on its way through a shard of the writer: whom to tell, and until when. Told once, whatever happens."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ledger.batch import Entry, Outcome
from ledger.errors import LedgerError, OutcomeUnknown, Unavailable

log = structlog.get_logger(__name__)


class Pending(Entry, eq=False, kw_only=True):
    """A request that waits for its answer, until `deadline` (monotonic seconds)."""

    deadline: float
    tell: Callable[[Outcome], None]
    done: bool = False
    """Whether its outcome is known; it is told once."""

    def resolve(self, outcome: Outcome) -> None:
        if not self.done:
            self.done = True
            self.say(outcome)

    def say(self, outcome: Outcome) -> None:
        try:
            self.tell(outcome)
        except Exception:
            log.exception("listener_fault", task_id=self.request.task_id)

    def gone(self) -> LedgerError:
        """Why it has no outcome, where the database could not be reached in time."""
        if self.sent_seq:
            return OutcomeUnknown(
                "The database did not say whether this was written; send the same again with the same n or key.",
                retry_after_ms=1000,
            )
        return Unavailable("The database cannot be reached; nothing was written.", retry_after_ms=1000)
