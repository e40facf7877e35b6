"""Bursts: what they say of themselves, how they are cut, and the bytes that a WebSocket gets."""

from __future__ import annotations

import pytest

from gateway.protocol.burst import BURST_BYTES, Burst, Piece, bursts, frames_of, ready, ready_pieces
from gateway.protocol.effects import Event
from ledger.model import CancelRequest, Report, task_key
from tests.property.paper_gateway import PaperTasks

KEY = task_key("tenant", "a")


def events(*requests: Report | CancelRequest) -> list[Event]:
    """Of task `a`, one for each request."""
    tasks = PaperTasks()
    for request in requests:
        tasks.commit(request)
    return tasks.events[KEY]


def report(**members: object) -> Report:
    return Report(tenant="tenant", task_id="a", **members)  # type: ignore[arg-type] # of its own members


def test_a_burst_knows_its_task_and_its_ends() -> None:
    """The subscription that takes it, the first and the last sequence, its bytes."""
    some = events(report(), report(progress=1.0), report(progress=2.0))[1:]
    burst = Burst(some)
    assert (burst.key, burst.slot, burst.first, burst.last) == (KEY, (KEY, False), 2, 3)
    assert burst.bytes == sum(len(event.frame) for event in some)
    assert burst.frames == [event.frame for event in some]
    assert burst.plain
    assert not burst.ended


def test_an_end_and_a_request_are_not_plain() -> None:
    """More follows from them than a frame."""
    ended = Burst(events(report(status="completed"), report()))
    asked = Burst(events(report(), CancelRequest(tenant="tenant", task_id="a", reason="why")))
    assert (ended.ended, ended.plain) == (True, False)
    assert (asked.ended, asked.plain) == (False, False)


def test_a_large_burst_is_several() -> None:
    """Each is no larger than a connection can be given at once; one event alone may have any size."""
    some = events(report(), *(report(data=b'"' + b"x" * size + b'"') for size in (30_000, 30_000, 16_000, 70_000, 10)))
    cut = bursts(some)
    assert [event for burst in cut for event in burst.events] == some
    assert [len(burst.events) for burst in cut] == [3, 1, 1, 1]
    assert all(burst.bytes <= BURST_BYTES or len(burst.events) == 1 for burst in cut)
    assert bursts([]) == []


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, "8100"),
        (125, "817d"),
        (126, "817e007e"),
        (65_535, "817effff"),
        (65_536, "817f0000000000010000"),
    ],
)
def test_a_frame_has_the_header_of_its_length(size: int, header: str) -> None:
    """RFC 6455, 5.2: a whole text message, not masked, in the shortest form."""
    assert ready([b"x" * size]) == bytes.fromhex(header) + b"x" * size


def test_pieces_are_joined_in_order() -> None:
    """Answers and bursts; a burst alone is the very bytes that everybody gets."""
    burst = Burst(events(report(), report(progress=1.0)))
    pieces: list[Piece] = [b"one", burst, b"two"]
    assert ready_pieces(pieces) == ready([b"one", *burst.frames, b"two"])
    assert list(frames_of(pieces)) == [b"one", *burst.frames, b"two"]
    assert ready_pieces([burst]) is burst.ready
