"""Every error and every way to be closed, in two tables. docs/protocol.md prints them; a test compares.

Pure. An `ErrorCode` answers one message and leaves the connection alone; a `Bye` ends the connection.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ledger.errors import LedgerError


class ErrorCode(Struct, frozen=True):
    """What a code means to a transport: its HTTP status, and whether the same request may be sent again."""

    http: int
    retryable: bool = False


ERRORS: Final[dict[str, ErrorCode]] = {
    "bad_json": ErrorCode(400),
    "bad_request": ErrorCode(400),
    "bad_task_id": ErrorCode(400),
    "frame_too_large": ErrorCode(413),
    "unknown_type": ErrorCode(400),
    "hello_required": ErrorCode(400),
    "unsupported_version": ErrorCode(400),
    "unauthenticated": ErrorCode(401),
    "forbidden": ErrorCode(403),
    "unknown_task": ErrorCode(404),
    "unknown_path": ErrorCode(404),
    "method_not_allowed": ErrorCode(405),
    "request_timeout": ErrorCode(408, retryable=True),
    "task_exists": ErrorCode(409),
    "key_reused": ErrorCode(409),
    "illegal_transition": ErrorCode(409),
    "task_ended": ErrorCode(409),
    "fenced": ErrorCode(409),
    "superseded": ErrorCode(409),
    "request_too_large": ErrorCode(413),
    "unsupported_media_type": ErrorCode(415),
    "too_many_subscriptions": ErrorCode(429),
    "rate_limited": ErrorCode(429, retryable=True),
    "busy": ErrorCode(503, retryable=True),
    "unavailable": ErrorCode(503, retryable=True),
    "unknown_retry": ErrorCode(503, retryable=True),
    "internal": ErrorCode(500, retryable=True),
}


class ProtocolError(Exception):
    """A message or request cannot be served. `code` is a key of `ERRORS`; the sentence says what to do."""

    def __init__(self, code: str, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms

    def as_json(self) -> dict[str, object]:
        """The `error` member of a reply."""
        body: dict[str, object] = {
            "code": self.code,
            "message": self.message,
            "retryable": ERRORS[self.code].retryable,
        }
        if self.retry_after_ms is not None:
            body["retry_after_ms"] = self.retry_after_ms
        return body


def as_protocol_error(error: LedgerError) -> ProtocolError:
    """A failure of the ledger, in the words of the protocol."""
    return ProtocolError(error.code, error.sentence, retry_after_ms=error.retry_after_ms)


class Bye(Struct, frozen=True):
    """A reason to end a connection. `code` is the WebSocket close code: below 4500 means reconnect."""

    code: int
    reason: str
    message: str
    retry_after_ms: int | None = None

    @property
    def retry(self) -> bool:
        """Whether the client should connect again."""
        return self.code < NO_RETRY_FROM


NO_RETRY_FROM: Final = 4500

SHUTTING_DOWN: Final = Bye(4000, "shutting_down", "The server restarts; reconnect and go on from your cursor.")
PING_TIMEOUT: Final = Bye(4001, "ping_timeout", "Nothing was heard from you for one and a half ping intervals.")
TOO_SLOW: Final = Bye(4002, "too_slow", "You take nothing of what is sent; reconnect and go on from your cursor.")
HELLO_TIMEOUT: Final = Bye(4003, "hello_timeout", "Send hello within 5 seconds of connecting.")
OVERLOADED: Final = Bye(4004, "overloaded", "This server has too many connections; try again.", retry_after_ms=5000)
INTERNAL: Final = Bye(4005, "internal", "The server has failed on this connection; reconnect.", retry_after_ms=1000)
EPOCH_CHANGED: Final = Bye(4006, "epoch_changed", "The ledger was rewound; reconnect and show your cursor.")
RATE_LIMITED: Final = Bye(4007, "rate_limited", "You go beyond a limit of this server.", retry_after_ms=1000)
UNAUTHENTICATED: Final = Bye(4501, "unauthenticated", "Send a valid token in hello.")
UNSUPPORTED_VERSION: Final = Bye(4502, "unsupported_version", "This server speaks version 1 of the protocol.")
PROTOCOL_ERROR: Final = Bye(4503, "protocol_error", "Too many unreadable frames; see docs/protocol.md.")
FRAME_TOO_LARGE: Final = Bye(4504, "frame_too_large", "A frame was far beyond limits.frame_bytes.")
TOKEN_EXPIRED: Final = Bye(4505, "token_expired", "The token has expired; connect again with a new one.")

BYES: Final = (
    SHUTTING_DOWN,
    PING_TIMEOUT,
    TOO_SLOW,
    HELLO_TIMEOUT,
    OVERLOADED,
    INTERNAL,
    EPOCH_CHANGED,
    RATE_LIMITED,
    UNAUTHENTICATED,
    UNSUPPORTED_VERSION,
    PROTOCOL_ERROR,
    FRAME_TOO_LARGE,
    TOKEN_EXPIRED,
)
