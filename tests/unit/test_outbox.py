"""The queue between a session and its transport: its order, its bounds, and what becomes of what does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.outbox import ANSWERS, BYTES, FRAMES, Outbox, OutboxFull
from gateway.protocol.burst import Burst, Piece, frames_of
from gateway.protocol.effects import Slot
from ledger.model import Report, task_key
from tests.property.paper_gateway import PaperTasks

A: Slot = (f"{1:032x}", False)
B: Slot = (f"{2:032x}", False)
ALL = 1_000_000


def test_frames_leave_in_the_order_they_came() -> None:
    """Answers and frames of subscriptions share one queue."""
    outbox = Outbox()
    outbox.put(b"1")
    assert outbox.offer(A, 1, b"2") == {}
    outbox.put(b"3")
    assert outbox.offer(B, 1, b"4") == {}
    assert len(outbox) == 4
    assert outbox.take(ALL) == [b"1", b"2", b"3", b"4"]
    assert len(outbox) == 0
    assert outbox.take(ALL) == []


def test_about_so_many_bytes_are_taken_at_once() -> None:
    """At least one frame, however large; then as many as fit."""
    outbox = Outbox()
    for frame in (b"x" * 10, b"y" * 4, b"z" * 4, b"!"):
        outbox.put(frame)
    assert outbox.take(3) == [b"x" * 10]
    assert outbox.take(8) == [b"y" * 4, b"z" * 4]
    assert outbox.take(0) == [b"!"]


def test_too_many_answers_are_the_peers_fault() -> None:
    """Answers are never dropped; frames of subscriptions do not count among them."""
    outbox = Outbox(max_answers=2)
    for seq in (1, 2, 3):
        outbox.offer(A, seq, b"live")
    outbox.put(b"1")
    outbox.put(b"2")
    with pytest.raises(OutboxFull):
        outbox.put(b"3")
    outbox.take(ALL)
    outbox.put(b"3")
    assert outbox.take(ALL) == [b"3"]


def test_the_bounds_are_those_of_the_documents() -> None:
    """A subscription's frames: 256, or 256 KiB. Answers: 10,000."""
    assert (FRAMES, BYTES, ANSWERS) == (256, 256 * 1024, 10_000)
    outbox = Outbox()
    assert [outbox.offer(A, seq, b"x") for seq in range(1, FRAMES + 1)] == [{}] * FRAMES
    assert outbox.offer(A, FRAMES + 1, b"x") == {A: FRAMES + 1}
    outbox = Outbox()
    half = b"x" * (BYTES // 2)
    assert [outbox.offer(A, 1, half), outbox.offer(A, 2, half)] == [{}, {}]
    assert outbox.offer(A, 3, b"x") == {A: 3}


def burst(times: int) -> Burst:
    """So many transitions of one task."""
    tasks = PaperTasks()
    for _ in range(times):
        tasks.commit(Report(tenant="tenant", task_id="a"))
    return Burst(tasks.events[task_key("tenant", "a")])


def test_a_burst_counts_as_one_and_by_its_bytes() -> None:
    """It is taken whole, or dropped whole."""
    outbox = Outbox(max_frames=2)
    assert outbox.offer(A, 1, burst(3)) == {}
    assert outbox.offer(B, 1, burst(9)) == {}
    assert outbox.offer(A, 4, burst(1)) == {A: 4}
    assert [len(list(frames_of([piece]))) for piece in outbox.take(ALL)] == [3, 9]
    outbox = Outbox(max_bytes=burst(3).bytes)
    assert outbox.offer(A, 1, burst(3)) == {}
    assert outbox.waiting_bytes == burst(3).bytes
    assert outbox.offer(A, 4, b"x") == {A: 4}


def test_one_frame_may_have_any_size() -> None:
    """Where nothing else waits, a frame beyond the bound is taken: else it could never be sent."""
    outbox = Outbox(max_bytes=10)
    outbox.put(b"an answer")
    assert outbox.offer(A, 1, b"x" * 100) == {}
    assert outbox.offer(A, 2, b"y") == {A: 2}
    assert outbox.take(ALL) == [b"an answer", b"x" * 100]


def test_nothing_overtakes_what_did_not_fit() -> None:
    """After a frame that did not fit, smaller ones and those of others are refused too, until what waits has left."""
    outbox = Outbox(max_bytes=10)
    assert outbox.offer(A, 1, b"x" * 8) == {}
    assert outbox.offer(A, 2, b"y" * 8) == {A: 2}
    assert outbox.offer(A, 3, b"z") == {A: 3}
    assert outbox.offer(B, 7, b"b") == {B: 7}
    outbox.put(b"an answer")
    assert outbox.take(1) == [b"x" * 8]
    assert outbox.offer(A, 2, b"y" * 8) == {}
    assert outbox.take(ALL) == [b"an answer", b"y" * 8]


def test_what_waits_is_kept_when_something_does_not_fit() -> None:
    """So that each read of the ledger brings the client forward, however large its page."""
    outbox = Outbox(max_frames=3)
    taken: list[Piece] = []
    reads, next_seq = 0, 1
    while len(taken) < 10:
        reads += 1
        lost = [seq for at in range(next_seq, 11) for seq in outbox.offer(A, at, b"%d" % at).values()]
        next_seq = min(lost, default=11)
        taken += outbox.take(ALL)
    assert taken == [b"%d" % seq for seq in range(1, 11)]
    assert reads == 4


def test_a_newer_snapshot_takes_the_place_of_an_unsent_one() -> None:
    """Each subscription's own, and only while it waits."""
    outbox = Outbox(max_frames=2, max_bytes=100)
    assert outbox.offer(A, 1, b"a1", replaces=True) == {}
    assert outbox.offer(B, 1, b"b1", replaces=True) == {}
    assert outbox.offer(A, 2, b"a2", replaces=True) == {}
    assert outbox.take(1) == [b"a2"]
    assert outbox.offer(A, 3, b"a3", replaces=True) == {}
    assert outbox.offer(B, 2, b"b2", replaces=True) == {}
    assert outbox.take(ALL) == [b"b2", b"a3"]
    assert len(outbox) == 0


def test_a_snapshot_that_outgrows_the_bound_does_not_take_the_place() -> None:
    """The older one is sent, and the newer is to be read again; alone in the queue it may have any size."""
    outbox = Outbox(max_bytes=10)
    assert outbox.offer(A, 1, b"a", replaces=True) == {}
    assert outbox.offer(A, 2, b"a" * 50, replaces=True) == {}
    outbox.take(ALL)
    assert outbox.offer(A, 3, b"a", replaces=True) == {}
    assert outbox.offer(B, 1, b"b" * 8, replaces=True) == {}
    assert outbox.offer(A, 4, b"a" * 5, replaces=True) == {A: 4}
    assert outbox.offer(B, 2, b"b", replaces=True) == {B: 2}
    assert outbox.take(ALL) == [b"a", b"b" * 8]


offers = st.tuples(st.sampled_from([A, B]), st.integers(1, 12))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(offers, st.integers(1, 40)), max_size=40))
def test_a_peer_sees_each_stream_without_a_hole_whatever_is_dropped(done: list[tuple[Slot, int] | int]) -> None:
    """Offered again from where it was cut, a stream is whole; and the bounds hold at every moment."""
    outbox = Outbox(max_frames=4, max_bytes=30)
    next_seq, seen = {A: 1, B: 1}, {A: 0, B: 0}
    waiting = 0
    for step in done:
        if isinstance(step, int):
            for frame in frames_of(outbox.take(step)):
                slot = A if frame[0] == 0 else B
                assert frame[1] == seen[slot] + 1
                seen[slot] += 1
                waiting -= 1
            continue
        slot, size = step
        frame = bytes([0 if slot is A else 1, next_seq[slot]]) + b"x" * size
        if outbox.offer(slot, next_seq[slot], frame) == {}:
            next_seq[slot] += 1
            waiting += 1
        assert len(outbox) == waiting <= 4
