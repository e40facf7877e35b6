"""What a failed job says about itself: type and message of the exception, no traceback, no secrets."""

from __future__ import annotations

import re
from typing import Final

MESSAGE_CHARACTERS_MAX: Final = 1_000

# Secrets that exception messages are known to carry: a database URL with its password (SQLAlchemy, redis),
# request headers, `key=value` settings (libpq), and query parameters (HTTP clients quote the URL).
_SECRETS: Final = (
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]*@", re.IGNORECASE), r"\g<keep>***@"),
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[\w.~+/=-]+", re.IGNORECASE), r"\g<keep>***"),
    (
        re.compile(
            r"(?P<keep>[\w-]*(?:passw(?:or)?d|pwd|secret|token|api[_-]?key|credential|private[_-]?key)[\w-]*"
            r"['\"]?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;&)}\]]+)",
            re.IGNORECASE,
        ),
        r"\g<keep>***",
    ),
)


def describe(error: BaseException) -> dict[str, str]:
    """`{"type", "message"}` for the `error` of a failed task.

    The message is cut at 1,000 characters, and what looks like a password, token or key in it is replaced by
    `***`. That is a net, not a promise: a job that knows better calls `task.fail(...)` itself.
    """
    text = str(error)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "�")
    if len(text) > MESSAGE_CHARACTERS_MAX:
        text = text[: MESSAGE_CHARACTERS_MAX - 1] + "…"
    return {"type": type(error).__name__, "message": text}
