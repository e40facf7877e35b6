"""A request on its way through a shard of the writer: whom to tell, and until when. Told once, whatever happens."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from ledger.batch import Entry, Outcome
from ledger.errors import LedgerError, OutcomeUnknown, Unavailable
from ledger.model import Create, Key, Report, Request, Transition

BATCH_BYTES: Final = 4 * 1024 * 1024
"""Of payloads: a batch of the largest would take longer than a statement may, however often it is tried."""

BUSY_RETRY_AFTER_MS: Final = 500
RETRY_FIRST_SECONDS: Final = 0.05
RETRY_MOST_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Told of every commit, in commit order per task, before the requests are answered. Must not fail or wait."""

    def watches(self, key: Key) -> bool:
        """Whether the transitions of this task are wanted here; else how far it came is enough."""

    def committed(self, transitions: Sequence[Transition], heads: Sequence[tuple[Key, int]]) -> None:
        """These tasks have come so far, and these are the transitions of those that are watched."""

    def reached(self, key: Key, seq: int) -> None:
        """The task is known to have come at least so far; what happened in between was not seen here."""


class Pending(Entry, eq=False, kw_only=True):
    """A request that waits for its answer, until `deadline` (monotonic seconds)."""

    size: int
    """Of its payloads, in bytes."""
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


def payload_bytes(request: Request) -> int:
    """How much of payloads a request brings."""
    if isinstance(request, Report):
        size = len(request.data) if request.data else 0
        if request.result or request.error:
            size += len(request.result or b"") + len(request.error or b"")
        return size
    return len(request.data or b"") if isinstance(request, Create) else 0


def take(queue: deque[Pending], limit: int) -> list[Pending]:
    """The next batch: at most so many, and as many as bring its payloads to `BATCH_BYTES`."""
    taken: list[Pending] = []
    size = 0
    while queue and len(taken) < limit and size < BATCH_BYTES:
        pending = queue.popleft()
        taken.append(pending)
        size += pending.size
    return taken


def full_jitter(failures: int) -> float:
    """How many seconds to wait after so many failures in a row."""
    return random.uniform(0.01, min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2**failures))  # noqa: S311 - not a secret
