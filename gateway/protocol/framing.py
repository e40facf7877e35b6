"""Where the frames of a WebSocket's client end, and the control frames of a server (RFC 6455, 5.2 and 5.5). Pure.

What is in a frame is read elsewhere; here is only what has to be known before, so that one frame is looked at after the
other, and none that is too large is waited for.
"""

from __future__ import annotations

from typing import Final

from gateway.protocol.errors import FRAME_TOO_LARGE, PROTOCOL_ERROR, Bye

CLOSE: Final = 0x8
PONG: Final = 0xA
OPCODE: Final = 0x0F
"""The bits of a frame's first byte that say what it is."""
FINAL: Final = 0x80
"""The bit of its first byte that says that no more of the message follows."""
CONTROL_BYTES: Final = 125
"""What a control frame may carry."""
_MASK_BYTES: Final = 4
_MASKED: Final = 0x80
_TWO_BYTES: Final = _MASKED | 126


class Misframed(Exception):
    """What came is no WebSocket's; `bye` says why the connection ends."""

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.reason)
        self.bye = bye


def end_of_frame(data: bytes | bytearray, at: int, *, most_bytes: int) -> int | None:
    """Where the client's frame ends that begins at `at`, here or later; None where its length is not here yet.

    Raises `Misframed` for one that is not masked (5.1), and for one that carries more than `most_bytes`.
    """
    here = len(data) - at
    if here < 2:
        return None
    second = data[at + 1]
    if second < _MASKED:
        raise Misframed(PROTOCOL_ERROR)
    if second < _TWO_BYTES:
        return at + 2 + _MASK_BYTES + (second & ~_MASKED)
    header = 4 if second == _TWO_BYTES else 10
    if here < header:
        return None
    size = int.from_bytes(data[at + 2 : at + header], "big")
    if size > most_bytes:
        raise Misframed(FRAME_TOO_LARGE)
    return at + header + _MASK_BYTES + size


def close_frame(code: int, reason: str) -> bytes:
    """Ends a conversation."""
    return _control(CLOSE, code.to_bytes(2, "big") + reason.encode()[: CONTROL_BYTES - 2])


def pong_frame(payload: bytes) -> bytes:
    """Answers a ping, with what it carried."""
    return _control(PONG, payload)


def _control(opcode: int, payload: bytes) -> bytes:
    return bytes((FINAL | opcode, len(payload))) + payload
