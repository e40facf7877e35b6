"""What an error of the driver says about our statement: refused, not done, or not known.

No exception class alone answers that. The tables below are made from errors that were produced for real
(tests/integration/ledger/test_classify.py produces them again), and the default is the careful one: an error that
is not listed says nothing, so its outcome is unknown. This module never retries and never logs.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Mapping
from typing import Final

import asyncpg
import msgspec

from ledger.errors import LedgerError, OutcomeUnknown, Refused


class Verdict(enum.StrEnum):
    """What became of the statement."""

    REJECTED = "rejected"  # rolled back, and would be again: the data is at fault
    RETRY = "retry"  # rolled back or never sent: the same statement may succeed later
    UNKNOWN = "unknown"  # sent, and its answer was lost: only the key can tell


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A classified error. `sqlstate` is the server's code or None; `reason` a stable word for metrics."""

    verdict: Verdict
    sqlstate: str | None
    reason: str


# Login errors. The server sends them instead of a session, so no statement of ours was ever there.
_AT_LOGIN: Final[Mapping[str, str]] = {
    "57P03": "cannot_connect_now",  # starting up, shutting down, in recovery
    "53300": "too_many_connections",
    "28000": "login_refused",
    "28P01": "login_refused",
    "3D000": "database_missing",
}

_BY_STATE: Final[Mapping[str, tuple[Verdict, str]]] = {
    # The server rolled back to protect others, or because it could not go on. Not our data's fault.
    "40001": (Verdict.RETRY, "serialization"),
    "40P01": (Verdict.RETRY, "deadlock"),
    "23505": (Verdict.REJECTED, "collision"),  # somebody else has appended to the task in the same moment
    "40003": (Verdict.UNKNOWN, "completion_unknown"),
    "55P03": (Verdict.RETRY, "lock_timeout"),
    "57014": (Verdict.RETRY, "statement_timeout"),
    "53100": (Verdict.RETRY, "disk_full"),
    "53200": (Verdict.RETRY, "out_of_memory"),
    "25006": (Verdict.RETRY, "read_only"),
    "25P02": (Verdict.RETRY, "failed_transaction"),
    # The session does not fit the statement (any more); a new connection or a new plan heals it.
    "0A000": (Verdict.RETRY, "schema_changed"),
    "26000": (Verdict.RETRY, "prepared_statement_missing"),
    "42P05": (Verdict.RETRY, "prepared_statement_exists"),
}

_BY_CLASS: Final[Mapping[str, tuple[Verdict, str]]] = {
    "22": (Verdict.REJECTED, "data_exception"),
    "23": (Verdict.REJECTED, "constraint"),
    "21": (Verdict.REJECTED, "cardinality"),
    "44": (Verdict.REJECTED, "check_option"),
    "54": (Verdict.REJECTED, "limit_exceeded"),
    "P0": (Verdict.REJECTED, "raised_by_rule"),  # a trigger of the operator's says no
    "40": (Verdict.RETRY, "rolled_back"),
    "53": (Verdict.RETRY, "insufficient_resources"),
    # Our statements are fixed, so no report can cause these: a migration is missing or a grant was revoked.
    # To call that the data's fault would throw good reports away.
    "42": (Verdict.RETRY, "schema_or_privilege"),
    "3F": (Verdict.RETRY, "schema_or_privilege"),
    "08": (Verdict.UNKNOWN, "connection_lost"),
    "57": (Verdict.UNKNOWN, "server_shutdown"),  # 57P01, 57P02, 57P04, 57P05: the session is ended
}

# The server rejects the notification, not the data: the queue is full because some listener sleeps.
# The message is translated by the server's locale, the name of the C function is not.
_NOTIFY_QUEUE_FULL: Final = ("54000", "PreCommit_Notify")

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg is seen to raise when a statement fails; TimeoutError is an OSError."""

_NEVER_CONNECTED: Final = (ConnectionRefusedError, FileNotFoundError, socket.gaierror)


def classify(exc: BaseException, *, sent: bool = True) -> Failure:
    """Say what became of one autocommit statement (or one transaction) that ended with `exc`.

    The rule: an ErrorResponse means that the server rolled back, so it is `rejected` where the data is at
    fault (class 22, 23, 21, 44, 54, P0; also what the driver refuses to encode) and `retry` where it is not
    (40, 42, 53, 55P03, 57014, 25006, …, and everything at login). All else happened after the statement had
    left us and before its answer came, and is `unknown`: a lost connection (08, 57P01, resets), a timeout of
    ours, a driver in a state it does not understand, and whatever is not listed here. With `sent=False`
    nothing had left us, so the verdict is never `unknown`. An error that already is a `LedgerError` keeps
    what it says.

    Raises `exc` itself when it is no `Exception`: a cancellation is not a failure to be answered.
    """
    if not isinstance(exc, Exception):
        raise exc
    if isinstance(exc, LedgerError):
        failure = _of_ledger_error(exc)
    elif isinstance(exc, asyncpg.PostgresError):
        failure = _of_server_error(exc)
    else:
        failure = _of_client_error(exc)
    if failure.verdict is Verdict.UNKNOWN and not sent:
        return Failure(verdict=Verdict.RETRY, sqlstate=failure.sqlstate, reason=failure.reason)
    return failure


def _of_ledger_error(exc: LedgerError) -> Failure:
    if isinstance(exc, OutcomeUnknown):
        verdict = Verdict.UNKNOWN
    elif isinstance(exc, Refused) or not exc.retryable:
        verdict = Verdict.REJECTED
    else:
        verdict = Verdict.RETRY
    return Failure(verdict=verdict, sqlstate=None, reason=exc.reason)


def _of_server_error(exc: asyncpg.PostgresError) -> Failure:
    state: str = exc.sqlstate or ""
    if state in _AT_LOGIN:
        return Failure(verdict=Verdict.RETRY, sqlstate=state, reason=_AT_LOGIN[state])
    if (state, exc.server_source_function) == _NOTIFY_QUEUE_FULL:
        return Failure(verdict=Verdict.RETRY, sqlstate=state, reason="notify_queue_full")
    verdict, reason = _BY_STATE.get(state) or _BY_CLASS.get(state[:2], (Verdict.UNKNOWN, "unlisted"))
    if exc.severity_en in {"FATAL", "PANIC"}:
        # The session ended with the error, and what it was doing at that moment is not said.
        verdict = Verdict.UNKNOWN
    return Failure(verdict=verdict, sqlstate=state or None, reason=reason)


def _of_client_error(exc: Exception) -> Failure:
    if isinstance(exc, _NEVER_CONNECTED):
        return Failure(verdict=Verdict.RETRY, sqlstate=None, reason="cannot_connect")
    if isinstance(exc, asyncpg.TargetServerAttributeNotMatched):
        return Failure(verdict=Verdict.RETRY, sqlstate=None, reason="no_suitable_host")
    if isinstance(exc, TimeoutError):
        reason = "timeout"
    elif isinstance(exc, OSError):
        reason = "connection_lost"
    elif isinstance(exc, asyncpg.InterfaceError | asyncpg.InternalClientError):
        # Mostly the second symptom of a lost connection: "connection is closed", "cannot switch to state …".
        reason = "driver_state"
    else:
        reason = "unexpected"
    return Failure(verdict=Verdict.UNKNOWN, sqlstate=None, reason=reason)
