"""Array literals, letter by letter. That PostgreSQL reads them so: tests/integration/ledger/test_literals.py."""

from __future__ import annotations

import pytest

from ledger.literals import SEPARATOR, NotJson, payloads, texts, words, words_or_null
from ledger.machine import Status


def test_words_stand_without_quotes() -> None:
    """Numbers, uuids, truth values, words of ours."""
    assert words([1, -2, 1 << 62]) == "{1,-2,4611686018427387904}"
    assert words([f"{1:032x}"]) == "{00000000000000000000000000000001}"
    assert words([True, False]) == "{True,False}"
    assert words([Status.RUNNING]) == "{running}"
    assert words([]) == "{}"


def test_nothing_is_null() -> None:
    """Beside numbers as Python writes them."""
    assert words_or_null([None, 0, 0.5, 1e-300, 1e22, None]) == "{NULL,0,0.5,1e-300,1e+22,NULL}"
    assert words_or_null([None]) == "{NULL}"


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("", '""'),
        ("NULL", '"NULL"'),
        ("null", '"null"'),
        ("a,b", '"a,b"'),
        ("{}", '"{}"'),
        ('say "a"', r'"say \"a\""'),
        ("\\", r'"\\"'),
        ('\\"', r'"\\\""'),
        ("  ", '"  "'),
        ("a\n\tb", '"a\n\tb"'),
        ("é☃😀", '"é☃😀"'),
        ("\x1f", '"\x1f"'),
        ("'", '"\'"'),
    ],
)
def test_a_text_stands_in_quotes(text: str, literal: str) -> None:
    """Only quotes and backslashes are escaped."""
    assert texts([text]) == f"{{{literal}}}"
    assert texts([None, text, None, text]) == f"{{NULL,{literal},NULL,{literal}}}"


def test_payloads_are_joined_as_they_are() -> None:
    """With the unit separator between them, and nothing for null: none, one, and many of either."""
    assert payloads([b'{"a":"\\u001f"}', None, b"null", b'"\xc3\xa9"']) == '{"a":"\\u001f"}\x1f\x1fnull\x1f"\u00e9"'
    assert payloads([None]) == ""
    assert payloads([None] * 3) == "\x1f\x1f"
    assert payloads([b"1"]) == "1"


@pytest.mark.parametrize("payload", [SEPARATOR, b'"a\x1fb"', b"1\x1f"])
def test_a_payload_with_the_separator_is_not_json(payload: bytes) -> None:
    """Wherever it stands."""
    for column in ([payload], [None, payload], [payload, b"1"]):
        with pytest.raises(NotJson, match="control character"):
            payloads(column)


@pytest.mark.parametrize("payload", [b"\xff", b'"\xed\xa0\x80"', b'"\xc3'])
def test_a_payload_that_is_not_utf_8_is_not_json(payload: bytes) -> None:
    """Not either a lone surrogate, nor a letter that is cut, though the next one may complete it."""
    for column in ([payload], [b"1", payload], [payload, b'\xa9"']):
        with pytest.raises(NotJson, match="not UTF-8"):
            payloads(column)
