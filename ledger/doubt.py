"""Which requests PostgreSQL may refuse for what is in them, where it has refused a batch and does not say which. Pure.

A doubt is no verdict: what is doubted is tried alone, and the others go on together. The gateway lets nothing like it
pass; this is for whoever else fills the ledger.
"""

from __future__ import annotations

from typing import Final

import orjson

from ledger.model import Request

_TEXTS: Final = ("stage", "message", "kind", "owner", "reason")
_PAYLOADS: Final = ("data", "result", "error")


def doubtful(request: Request) -> bool:
    """Whether there is anything odd about its texts and payloads."""
    texts = (getattr(request, name, None) for name in _TEXTS)
    payloads = (getattr(request, name, None) for name in _PAYLOADS)
    return not all(_is_plain(text) for text in texts if text) or not all(
        _is_json(payload) for payload in payloads if payload is not None
    )


def _is_plain(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half a character
        return False


def _is_json(payload: bytes) -> bool:
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return True
