"""What a failed job tells the world about its exception."""

from __future__ import annotations

import pytest

from ledgerwire.failure import MESSAGE_CHARACTERS_MAX, describe


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("connect postgresql://app:pw@db:5432/app failed", "connect postgresql://***@db:5432/app failed"),
        ("password=hunter2 host=db", "password=*** host=db"),
        ("401 for Authorization: Bearer eyJhbGciOi.J9_x", "401 for Authorization: Bearer ***"),
        ("GET https://api.example/v1?api_key=sk-123&page=2", "GET https://api.example/v1?api_key=***&page=2"),
        ("{'client_secret': 's3cr3t', 'user': 'a'}", "{'client_secret': ***, 'user': 'a'}"),
        ("row 7: not a number: 'abc'", "row 7: not a number: 'abc'"),
        ("no such file: a.csv", "no such file: a.csv"),
        ("a\x00b \ud800", "a�b ?"),
    ],
)
def test_a_message_is_told_without_its_secrets(message: str, told: str) -> None:
    """And as text that JSON and the ledger can hold."""
    assert describe(RuntimeError(message)) == {"type": "RuntimeError", "message": told}


def test_a_long_message_is_cut() -> None:
    """The error of a task is for a person, not a log."""
    message = describe(ValueError("x" * 5_000))["message"]
    assert len(message) == MESSAGE_CHARACTERS_MAX
    assert message.endswith("…")
