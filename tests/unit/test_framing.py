"""Where a client's frames end, before anything in them is looked at."""

from __future__ import annotations

import pytest

from gateway.protocol.errors import FRAME_TOO_LARGE, PROTOCOL_ERROR
from gateway.protocol.framing import (
    CONTROL_BYTES,
    Misframed,
    close_frame,
    end_of_frame,
    may_be_said,
    pong_frame,
    switching,
)
from tests.support.frames import frame

MOST = 100_000
SIZES = (0, 1, 125, 126, 65_535, 65_536, MOST)


@pytest.mark.parametrize("size", SIZES)
def test_the_end_is_known_as_soon_as_the_length_is(size: int) -> None:
    """Wherever the frame begins, and however much of it is here; before that nothing is said."""
    whole = frame(b"x" * size)
    header = len(whole) - size - 4
    for before in (b"", b"another"):
        for here in {0, 1, 2, header - 1, header, header + 1, len(whole) - 1, len(whole)}:
            data = bytearray(before + whole[:here])
            found = end_of_frame(data, len(before), most_bytes=MOST)
            assert found == (None if here < header else len(before) + len(whole)), here


def test_frames_that_follow_each_other_are_found_one_by_one() -> None:
    """Each begins where the last one has ended."""
    frames = [frame(b"y" * size) for size in SIZES]
    data, at = b"".join(frames), 0
    for each in frames:
        end = end_of_frame(data, at, most_bytes=MOST)
        assert end is not None
        assert data[at:end] == each
        at = end
    assert end_of_frame(data, at, most_bytes=MOST) is None


@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_masked_is_no_clients(size: int) -> None:
    """Two bytes are enough to know (RFC 6455, 5.1)."""
    with pytest.raises(Misframed) as refused:
        end_of_frame(frame(b"x" * size, masked=False)[:2], 0, most_bytes=MOST)
    assert refused.value.bye is PROTOCOL_ERROR


@pytest.mark.parametrize("size", [MOST + 1, 2**63, 2**64 - 1])
def test_what_is_too_large_is_not_waited_for(size: int) -> None:
    """Its header is enough to know."""
    with pytest.raises(Misframed) as refused:
        end_of_frame(b"\x82\xff" + size.to_bytes(8, "big"), 0, most_bytes=MOST)
    assert refused.value.bye is FRAME_TOO_LARGE


def test_control_frames_of_a_server() -> None:
    """Final, not masked, and never longer than a control frame may be."""
    assert close_frame(4000, "shutting_down") == b"\x88\x0f\x0f\xa0shutting_down"
    assert pong_frame(b"") == b"\x8a\x00"
    assert len(close_frame(4000, "x" * 200)) == 2 + CONTROL_BYTES


@pytest.mark.parametrize(
    ("code", "allowed"),
    [(0, True), (999, False), (1000, True), (1004, False), (1006, False), (1007, True), (1014, True), (1015, False),
     (2999, False), (3000, True), (4999, True), (5000, False)],
)  # fmt: skip
def test_a_close_code_may_be_said_or_not(code: int, allowed: bool) -> None:
    """Some only stand for what no frame has said."""
    assert may_be_said(code) is allowed


def test_an_upgrade_is_answered_as_the_standard_does() -> None:
    """With the key of its own example (RFC 6455, 1.3)."""
    answer = switching("dGhlIHNhbXBsZSBub25jZQ==")
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.endswith(b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
