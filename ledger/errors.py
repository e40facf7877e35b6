"""The errors of the ledger: one tree, and for each error what a caller may do next.

Every failure that leaves this package is one of these, so that a transport can answer without knowing
PostgreSQL: `code` is the stable word for the wire, the sentence is for people, `retryable` says whether
the same request may be sent again, and `retry_after_ms` says when.

    LedgerError              base; never raised itself
    ├── SettingsError        "settings"       a setting is wrong                             not retryable
    ├── EmbeddedError        "embedded"       our own PostgreSQL could not be started        not retryable
    ├── MigrationError       "migration"      the schema cannot be brought up to date        not retryable
    ├── Unavailable          "unavailable"    database away or lane saturated; NOT written   retryable
    ├── OutcomeUnknown       "unknown_retry"  sent, perhaps committed; repeat with the key   retryable
    ├── Busy                 "busy"           a bounded queue is full; NOT written           retryable
    └── Refused              "bad_request"    the database refuses this data; NOT written    not retryable

The line that matters is between `Unavailable` and `OutcomeUnknown`: after the first nothing was written,
after the second it may well have been. So an `OutcomeUnknown` is never reported as a failure: it is resolved
by repeating the request with the same key.

Pure: this module imports nothing, does no I/O, reads no clock and writes no log.
"""


class LedgerError(Exception):
    """Base of the tree.

    `code` is stable and goes on the wire; `sentence` is for people and holds no secret; `reason` is a stable
    snake_case word for logs and metrics (the code, where nothing finer is known); `retry_after_ms` is a
    hint in milliseconds, `None` where the caller may choose.
    """

    code: str = "internal"
    retryable: bool = False

    def __init__(self, sentence: str, *, reason: str = "", retry_after_ms: int | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.reason = reason or self.code
        self.retry_after_ms = retry_after_ms


class SettingsError(LedgerError):
    """A setting is wrong. Names the variable, the value (never a secret) and an example that works."""

    code = "settings"


class EmbeddedError(LedgerError):
    """Our own PostgreSQL could not be started. The sentence says what to do about it."""

    code = "embedded"


class MigrationError(LedgerError):
    """The schema is not what this version needs and cannot be made so without a decision by a person."""

    code = "migration"


class Unavailable(LedgerError):
    """The database is away or every connection is busy. Nothing was written; try again after the hint."""

    code = "unavailable"
    retryable = True


class OutcomeUnknown(LedgerError):
    """The statement was sent and its answer was lost. Repeat it with the same key to learn the outcome."""

    code = "unknown_retry"
    retryable = True


class Busy(LedgerError):
    """A bounded queue is full. Nothing was written; try again after the hint."""

    code = "busy"
    retryable = True


class Refused(LedgerError):
    """The database refuses this data, and always will. Nothing was written; do not repeat it."""

    code = "bad_request"
