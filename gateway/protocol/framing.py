"""The answer to an upgrade, where the frames of a client end, and a server's control frames (RFC 6455). Pure.

What is in a frame is read elsewhere; here is only what has to be known before, so that one frame is looked at after the
other, and none that is too large is waited for.
"""

from __future__ import annotations

import base64
import hashlib
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


_SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nServer: ledgerwire\r\n"
    b"Sec-WebSocket-Accept: %b\r\n\r\n"
)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


class Misframed(Exception):
    """What came is no WebSocket's; `bye` says why the connection ends."""

    def __init__(self, bye: Bye) -> None:
        super().__init__(bye.reason)
        self.bye = bye


def switching(key: str) -> bytes:
    """The server's answer to an upgrade with this `Sec-WebSocket-Key` (RFC 6455, 4.2.2)."""
    return _SWITCHING % base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest())


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


def may_be_said(code: int) -> bool:
    """Whether a closing frame may carry this code (7.4); 0 stands for none."""
    return not code or 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def close_frame(code: int, reason: str) -> bytes:
    """Ends a conversation."""
    return _control(CLOSE, code.to_bytes(2, "big") + reason.encode()[: CONTROL_BYTES - 2])


def pong_frame(payload: bytes) -> bytes:
    """Answers a ping, with what it carried."""
    return _control(PONG, payload)


def _control(opcode: int, payload: bytes) -> bytes:
    return bytes((FINAL | opcode, len(payload))) + payload
