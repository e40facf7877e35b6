"""The two tables of errors and goodbyes, and the ledger's errors in the words of the protocol."""

from __future__ import annotations

import pytest

from gateway.protocol.errors import BYES, ERRORS, INTERNAL, OVERLOADED, ProtocolError, as_protocol_error
from ledger.errors import LedgerError, Unavailable


def test_an_error_carries_its_code_and_sentence() -> None:
    """As a reply shows it."""
    error = ProtocolError("fenced", "Stop.")
    assert (str(error), error.code, error.message, error.retry_after_ms) == ("Stop.", "fenced", "Stop.", None)
    assert error.as_json() == {"code": "fenced", "message": "Stop.", "retryable": False}


def test_an_error_says_when_to_come_back_where_it_is_known() -> None:
    """Zero is an answer, too."""
    assert ProtocolError("busy", "Later.", retry_after_ms=0).as_json() == {
        "code": "busy", "message": "Later.", "retryable": True, "retry_after_ms": 0,
    }  # fmt: skip


def test_a_code_that_is_not_in_the_table_cannot_be_written() -> None:
    """A fault of ours, found by the first test that meets it."""
    with pytest.raises(KeyError):
        ProtocolError("no_such_code", "?").as_json()


def test_what_may_be_sent_again_is_a_fault_of_the_server() -> None:
    """And the other way round: 5xx and retryable go together. But not where time is all that is wrong: a body that was
    too long on its way (408), a message that comes too soon (429)."""
    assert {code for code, error in ERRORS.items() if error.retryable} == {
        code for code, error in ERRORS.items() if error.http >= 500 or code in {"request_timeout", "rate_limited"}
    }


def test_the_ledgers_errors_of_requests_are_in_the_table() -> None:
    """With the same word on whether to send again; the others never meet a request."""
    at_start = {"settings", "embedded", "migration"}
    of_requests = [kind for kind in LedgerError.__subclasses__() if kind.__module__ == "ledger.errors"]
    checked = 0
    for kind in of_requests:
        if kind.code not in at_start:
            assert ERRORS[kind.code].retryable is kind.retryable
            checked += 1
    assert checked == 4


def test_the_ledgers_errors_are_told_in_the_words_of_the_protocol() -> None:
    """Code, sentence and hint; the finer reason is for the log."""
    error = as_protocol_error(Unavailable("Away.", reason="acquire_timeout", retry_after_ms=250))
    assert error.as_json() == {"code": "unavailable", "message": "Away.", "retryable": True, "retry_after_ms": 250}


def test_a_close_code_says_whether_to_reconnect() -> None:
    """Below 4500 yes, from 4500 on no; each code and each reason is there once."""
    assert all(4000 <= bye.code < 5000 and bye.retry is (bye.code < 4500) for bye in BYES)
    assert len({bye.code for bye in BYES}) == len({bye.reason for bye in BYES}) == len(BYES)
    assert OVERLOADED.retry_after_ms == 5_000
    assert INTERNAL.retry_after_ms == 1_000


def test_a_close_reason_fits_into_a_close_frame() -> None:
    """123 bytes are allowed."""
    assert max(len(bye.reason.encode()) for bye in BYES) <= 123
