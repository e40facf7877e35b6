"""Reports that must harm nobody but themselves: what may come to the writer, and what may become of it. Pure.

The gateway refuses most of these before they come so far; the ledger does not rely on it. Each kind makes a bad report
out of a good one for the same running task, which is at attempt 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from ledger.model import Report

NESTED: Final = 100_000
BEYOND_INT4: Final = 2**31
BEYOND_INT8: Final = 2**63
REJECTED: Final = frozenset({"bad_request"})
COMMITTED: Final = "committed"


class Kind(Struct, frozen=True, kw_only=True):
    """A kind of poison: `spoil` makes it out of a good report, and its outcome is one of `outcomes`.

    An outcome is `committed` or the code of a rejection; never an error that asks to try again.
    """

    name: str
    spoil: Callable[[Report], Report]
    outcomes: frozenset[str] = REJECTED


def _with(**members: Any) -> Callable[[Report], Report]:
    return lambda good: replace(good, **members)


# What is no poison in this schema, but would be in one with jsonb or numeric: it may be stored as it came, or refused.
_EITHER: Final = frozenset({COMMITTED, *REJECTED})

KINDS: Final = (
    Kind(name="NUL in message", spoil=_with(message="a\0b")),
    Kind(name="NUL in stage", spoil=_with(stage="\0")),
    Kind(name="lone surrogate in message", spoil=_with(message="a\ud800b")),
    Kind(name="lone surrogate in stage", spoil=_with(stage="\udfff")),
    Kind(name="n beyond int4", spoil=_with(n=BEYOND_INT4)),
    Kind(name="n beyond int8", spoil=_with(n=BEYOND_INT8)),
    Kind(name="attempt beyond int4", spoil=_with(attempt=BEYOND_INT4)),
    Kind(name="attempt beyond int8", spoil=_with(attempt=BEYOND_INT8)),
    Kind(name="lease beyond int4", spoil=_with(lease_ms=BEYOND_INT4)),
    Kind(name="deadline beyond int8", spoil=_with(deadline_ms=BEYOND_INT8)),
    Kind(name="deadline beyond all time", spoil=_with(deadline_ms=BEYOND_INT8 - 1)),
    Kind(name="infinite progress", spoil=_with(progress=float("inf")), outcomes=_EITHER),
    Kind(name="progress is no number", spoil=_with(progress=float("nan")), outcomes=_EITHER),
    Kind(name="deep JSON in data", spoil=_with(data=b"[" * NESTED + b"]" * NESTED)),
    Kind(name="invalid UTF-8 in data", spoil=_with(data=b'"\xff\xfe"')),
    Kind(name="data is no JSON", spoil=_with(data=b'{"cut":')),
    Kind(name="two payloads in one", spoil=_with(data=b'1\x1f"2"')),
    Kind(name="empty data", spoil=_with(data=b""), outcomes=_EITHER),
    Kind(name="NUL escaped in data", spoil=_with(data=b'"\\u0000"'), outcomes=_EITHER),
    Kind(name="lone surrogate escaped in data", spoil=_with(data=b'"\\ud800"'), outcomes=_EITHER),
    Kind(name="1e400000 in data", spoil=_with(data=b"1e400000"), outcomes=_EITHER),
    Kind(name="number used for another", spoil=_with(n=1, stage="another"), outcomes=frozenset({"key_reused"})),
    Kind(
        name="illegal transition",
        spoil=_with(n=None, digest=None, cancel="delivered"),
        outcomes=frozenset({"illegal_transition"}),
    ),
    Kind(name="zombie attempt", spoil=_with(attempt=1), outcomes=frozenset({"fenced"})),
)
"""Every kind, once."""
