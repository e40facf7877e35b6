"""What the end of a connection means: come back, when, or never. Pure."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import Final

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.http11 import Response

from ledgerwire.errors import LedgerwireError, Refused, Unauthenticated
from ledgerwire.wire import Bye

_NOT_FOUND: Final = 404
_NOT_AUTHORISED: Final = frozenset({401, 403})
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_FINAL_CODES: Final = range(4500, 5000)
_LONGEST_NAMED_SECONDS: Final = 60.0
"""A proxy may name an hour, and know nothing."""


class Said(Exception):
    """The gateway has said bye."""

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.reason)
        self.bye = bye


class Unfit(Exception):
    """The connection cannot be used; another may."""


@dataclass(frozen=True, slots=True)
class Ending:
    """`error` is set when there is to be no other; `retry_after_seconds` when the gateway named a time.

    With `detour` it may be that only WebSockets do not come through, and polls would.
    """

    why: str
    error: LedgerwireError | None = None
    retry_after_seconds: float | None = None
    detour: bool = False


def of_opening(error: Exception, shown_url: str, *, ever_welcomed: bool) -> Ending:
    """A WebSocket could not be opened.

    An answer that shows a wrong address or certificate is final, unless the address has been right before: a
    load balancer may say such things while a gateway restarts.
    """
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        why = f"the upgrade was answered with HTTP {status}"
        if status == _NOT_FOUND:
            why += " (a gateway's WebSocket is at /v1/ws)"
        if status in _PASSING or (ever_welcomed and status not in _NOT_AUTHORISED):
            return Ending(why, retry_after_seconds=_named_time(error.response))
        refused = Refused(status, "upgrade_refused", f"{shown_url}: {why}")
        return Ending(why, refused, detour=status not in _NOT_AUTHORISED | {_NOT_FOUND})
    if isinstance(error, InvalidMessage):  # usually a connection that was closed before it answered
        return Ending(f"no answer to the upgrade ({error})")
    if isinstance(error, (InvalidHandshake, ssl.SSLCertVerificationError)) and not ever_welcomed:
        return Ending(str(error), Refused(0, "no_websocket", f"{shown_url}: {error}"))
    return Ending(f"{type(error).__name__}: {error}")


def _named_time(response: Response) -> float | None:
    """When to come again, in seconds, as the answer says: the gateway's own word is finer than HTTP's."""
    try:
        seconds = float(json.loads(response.body or b"")["retry_after_ms"]) / 1000
    except (ValueError, TypeError, KeyError):
        header = response.headers.get("Retry-After", "")
        if not (header.isascii() and header.isdigit()):  # else a date, of whoever stands between
            return None
        seconds = float(header)
    return min(max(seconds, 0.0), _LONGEST_NAMED_SECONDS)


def is_unauthenticated(error: Exception) -> bool:
    """Whether the gateway has not taken the token."""
    return isinstance(error, Said) and error.bye.reason in {"unauthenticated", "token_expired"}


def of_conversation(error: Exception, *, renewable: bool) -> Ending:
    """An open connection has ended. `renewable`: another token may be had for one that was not taken."""
    if isinstance(error, Said):
        bye = error.bye
        why = f"bye {bye.code} {bye.reason}"
        if not bye.retry and not (renewable and is_unauthenticated(error)):
            kind = Unauthenticated if is_unauthenticated(error) else Refused
            return Ending(why, kind(bye.code, bye.reason, bye.message))
        return Ending(why, retry_after_seconds=bye.retry_after_seconds)
    if isinstance(error, ConnectionClosed):
        if error.rcvd is None:
            return Ending("broken")
        why = f"closed with {error.rcvd.code}"
        if error.rcvd.code in _FINAL_CODES:
            return Ending(why, Refused(error.rcvd.code, error.rcvd.reason or "closed", "closed without a bye"))
        return Ending(why)
    if isinstance(error, TimeoutError):
        return Ending("silent for too long")
    return Ending(str(error) or type(error).__name__)
