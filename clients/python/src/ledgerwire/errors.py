"""All exceptions of the client: one tree below `LedgerwireError`, and `CancelRequested` beside it.

LedgerwireError
├── Rejected          the gateway answered no: code, sentence, whether a retry makes sense
│   ├── Fenced        a newer attempt holds the task: stop working on it
│   ├── TaskEnded     the task is in a terminal state, which never changes
│   └── UnknownTask   nobody has created or reported this id
├── QueueFull         too many reports are waiting for their acknowledgement
├── JournalError      the journal cannot be used or written, or another process has it
├── DeliveryTimeout   no acknowledgement in time (also a TimeoutError)
├── Refused           the gateway will not have this connection: not to be retried
│   └── Unauthenticated   no token, or one that is not taken, nor a fresh one of the token function
├── Unreachable       no connection for longer than `Timing.unreachable_seconds`
└── Closed            the worker or watcher has been closed
"""

from __future__ import annotations

import copy
from typing import TypeVar


class LedgerwireError(Exception):
    """The root of everything this client raises on purpose."""


class Rejected(LedgerwireError):
    """The gateway answered a message with an error; it had no effect, unless `code` is `unknown_retry`.

    `code` is one of the error codes of the wire protocol (`bad_request`, `key_reused`, …), `message` a
    sentence for people, `retryable` whether the same may succeed later (the client has then already retried).
    """

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(code, message, retryable)
        self.code = code
        self.message = message
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Fenced(Rejected):
    """A newer attempt holds the task. Nothing this attempt reports has an effect any more: stop working."""


class TaskEnded(Rejected):
    """The task is completed, failed, cancelled or lost, and stays so."""


class UnknownTask(Rejected):
    """Nobody has created or reported this id (raised by a watcher that does not wait, or waited in vain)."""


class QueueFull(LedgerwireError):
    """`post` found as many unacknowledged reports as the worker may hold; the new one was not taken."""


class JournalError(LedgerwireError):
    """The journal cannot be used: another process has it, its folder is not ours, the disk is full or broken.

    A report that raises it was not taken.
    """


class DeliveryTimeout(LedgerwireError, TimeoutError):
    """No acknowledgement came in time.

    `queued` is True when the report was taken and goes on being sent until it is acknowledged or the worker
    is closed; False when it was not taken at all (the queue stayed full) or was withdrawn.
    """

    def __init__(self, message: str, queued: bool) -> None:
        super().__init__(message, queued)
        self.message = message
        self.queued = queued

    def __str__(self) -> str:
        return self.message


class Refused(LedgerwireError):
    """The gateway ended the connection and asked not to come back, or the URL leads to no gateway.

    `code` is the WebSocket close code (4500–4999) or the HTTP status of the refused upgrade, `reason` the
    word the gateway gave for it (`unauthenticated`, `unsupported_version`, …).
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(code, reason, message)
        self.code = code
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason} ({self.code}): {self.message}"


class Unauthenticated(Refused):
    """There is no token, or it is not taken; where a function gives tokens, a fresh one was not taken either."""


class Unreachable(LedgerwireError):
    """No connection to the gateway could be made for longer than `Timing.unreachable_seconds`."""


class Closed(LedgerwireError):
    """The worker or watcher has been closed, or was never opened."""


class CancelRequested(Exception):
    """From `raise_if_cancelled()`: a cancel was requested. Leaving the task block with it honours that."""

    def __init__(self, task_id: str, seq: int, reason: str | None = None) -> None:
        super().__init__(task_id, seq, reason)
        self.task_id = task_id
        self.seq = seq
        self.reason = reason

    def __str__(self) -> str:
        return f"cancel of task {self.task_id} was requested at sequence {self.seq}"


_BY_CODE: dict[str, type[Rejected]] = {"fenced": Fenced, "task_ended": TaskEnded, "unknown_task": UnknownTask}


def rejected(code: str, message: str, retryable: bool = False) -> Rejected:
    """The exception for an error code of the wire protocol."""
    return _BY_CODE.get(code, Rejected)(code, message, retryable)


_E = TypeVar("_E", bound=LedgerwireError)


def fresh(error: _E) -> _E:
    """A copy to raise: one instance raised again and again would gather tracebacks without bound."""
    return copy.copy(error)
