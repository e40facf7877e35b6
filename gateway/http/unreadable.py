"""Requests that are no HTTP: aiohttp answers them by itself, and logs them as errors, with the bytes it stumbled on.

Those may be half of a token, and anybody can make as many such lines as he likes: so they are for `debug` only.
"""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError


def without_bytes(record: logging.LogRecord) -> bool:
    """Filter of aiohttp's log: what the peer has done wrong is no fault of ours, and its bytes are not repeated."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    record.exc_info, record.args = None, ()
    record.msg = f"request_unreadable: {type(error).__name__}"
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger().isEnabledFor(logging.DEBUG)
