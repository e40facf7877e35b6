"""Columns of values as PostgreSQL array literals. Pure.

A statement that takes hundreds of rows takes them as columns. As text each column costs its sender a fraction of what a
driver's array codec does, which looks at every element several times; the casts stand in the SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

SEPARATOR: Final = b"\x1f"
"""Between payloads. JSON has no such character, not even inside a string."""

Encoder = Callable[[Sequence[Any]], str]


class NotJson(ValueError):
    """A payload holds what no JSON text can hold; it would be cut in two, or is not UTF-8."""


def words(column: Sequence[object]) -> str:
    """Numbers and truth values; none of them may be None."""
    return "{" + ",".join(map(str, column)) + "}"


def names(column: Sequence[str]) -> str:
    """Uuids as 32 hex digits, and other strings that need no quotes; none of them may be None."""
    return "{" + ",".join(column) + "}"


def words_or_null(column: Sequence[object]) -> str:
    """As `words`, with None for null."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in column]) + "}"


def texts(column: Sequence[str | None]) -> str:
    """Any text, with None for null."""
    try:
        joined = '","'.join(column)  # type: ignore[arg-type]
    except TypeError:  # there are nulls
        pass
    else:
        if "\\" not in joined and joined.count('"') == 2 * len(column) - 2:
            return '{"' + joined + '"}'
    quoted = ["NULL" if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in column]
    return "{" + ",".join(quoted) + "}"


def payloads(column: Sequence[bytes | None]) -> str:
    """JSON texts in UTF-8, joined by `SEPARATOR`, with nothing for null. Raises `NotJson`."""
    joined = SEPARATOR.join([text or b"" for text in column])
    if joined.count(SEPARATOR) != len(column) - 1:
        raise NotJson("A payload holds a control character, which JSON does not allow.")
    try:
        return joined.decode()
    except UnicodeDecodeError as error:
        raise NotJson(f"A payload is not UTF-8: {error.reason}.") from error
