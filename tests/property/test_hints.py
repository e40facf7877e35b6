"""Bus messages: what goes in comes out, nothing is longer than it may be, and nothing that comes in does harm."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bus import hints
from gateway.bus.hints import Garbled
from gateway.bus.port import Hint
from gateway.bus.unsent import MAX_FRAME_BYTES, MAX_TASKS, Unsent
from gateway.protocol.codec import transition_frame
from ledger.machine import CancelStage, Status
from ledger.model import Key, Transition

NODE, EPOCH = "0a1b2c", "0123456789ab"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
PAYLOADS = st.none() | JSONS.map(lambda value: json.dumps(value).encode())
KEYS = st.integers(0, 2**128 - 1).map("{:032x}".format)
SEQUENCES = st.integers(1, 2**62)


@st.composite
def transitions(draw: st.DrawFn) -> Transition:
    cancel = draw(st.none() | st.sampled_from(CancelStage))
    return Transition(
        key=draw(KEYS),
        task_id=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,20}", fullmatch=True)),
        seq=draw(SEQUENCES),
        status=draw(st.sampled_from(Status)),
        attempt=draw(st.integers(0, 1_000)),
        progress=draw(st.none() | st.floats(0, 100, allow_nan=False)),
        stage=draw(st.none() | TEXTS),
        message=draw(st.none() | TEXTS),
        data=draw(PAYLOADS),
        result=draw(PAYLOADS),
        error=draw(PAYLOADS),
        cancel=cancel,
        reason=None if cancel is None else draw(st.none() | TEXTS),
        at=draw(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))),  # noqa: DTZ001 - aware
    )


@given(transitions())
def test_an_event_is_read_from_its_frame(transition: Transition) -> None:
    """A node that gets the frame knows of the transition all that the node knew which made it."""
    frame = transition_frame(transition)
    event = hints.event(transition.key, frame)
    assert event.frame is frame
    if transition.progress is not None:
        assert event.transition.progress == transition.progress
    assert transition_frame(event.transition) == frame
    assert event.transition.key == transition.key


@given(st.lists(st.tuples(KEYS, SEQUENCES, st.lists(transitions().map(transition_frame), max_size=2)), max_size=40))
def test_hints_survive_the_bus(said: list[tuple[Key, int, list[bytes]]]) -> None:
    """All hints come in order; in one message with their frames, or in several without, none too long."""
    given_ = [Hint(key, seq, EPOCH, frames) for key, seq, frames in said]
    messages = hints.encode(NODE, EPOCH, given_, max_bytes=1_000)
    assert all(len(message) <= 1_000 and message.startswith(hints.opening(NODE).encode()) for message in messages)
    heard = [hint for message in messages for hint in hints.decode(message)]
    assert [hint[:3] for hint in heard] == [hint[:3] for hint in given_]
    if len(messages) == 1:
        assert heard in (given_, [hint._replace(frames=[]) for hint in given_])
    else:
        assert all(not hint.frames for hint in heard)


@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | JSONS.map(lambda value: json.dumps(value).encode())
)
def test_what_is_no_message_is_garbled(raw: bytes) -> None:
    """Whatever a stranger says is garbled, and nothing else is raised."""
    for read in (hints.decode, lambda text: hints.event("k", text)):
        with pytest.raises(Garbled):
            read(raw)


def test_the_events_behind_a_sequence_are_given_only_if_all_are_there() -> None:
    """Not over a gap, not for who is as far already, and not with one among them that cannot be read."""
    frames = [
        f'{{"type":"transition","task_id":"t","seq":{seq},"status":"running","attempt":1,"progress":null,'
        f'"stage":null,"message":null,"at":"2026-01-01T00:00:00Z"}}'.encode()
        for seq in (4, 5, 6)
    ]
    hint = Hint("k", 6, EPOCH, frames)
    behind = {seq: [event.seq for event in hints.events_after(hint, seq)] for seq in range(1, 8)}
    assert behind == {1: [], 2: [], 3: [4, 5, 6], 4: [5, 6], 5: [6], 6: [], 7: []}
    garbled = hint._replace(frames=[frames[0], b"{}", frames[2]])
    assert [len(hints.events_after(garbled, seq)) for seq in (3, 4, 5)] == [0, 0, 1]


def test_many_hints_become_several_messages() -> None:
    """As few as hold them, none too long, and nothing is left out."""
    many = [Hint(f"{number:032x}", 1, EPOCH, [b"{}"]) for number in range(100)]
    messages = hints.encode(NODE, EPOCH, many, max_bytes=1_000)
    assert len(messages) == 5
    assert max(map(len, messages)) <= 1_000
    assert [hint.key for message in messages for hint in hints.decode(message)] == [hint.key for hint in many]
    assert hints.encode(NODE, EPOCH, [], max_bytes=1_000) == []


def test_bad_utf8_and_deep_nesting_are_garbled() -> None:
    """What would break whoever reads a frame later does not get in."""
    message = hints.encode(NODE, EPOCH, [Hint("k", 1, EPOCH, [b'{"m":"\xff"}'])], max_bytes=1_000)[0]
    with pytest.raises(Garbled):
        hints.decode(message)
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(Garbled):
        hints.decode(b'{"v":1,"node":"a","epoch":"e","hints":[["k",1,[' + deep + b"]]]}")
    with pytest.raises(Garbled):
        hints.event("k", b'{"type":"transition","data":' + deep + b"}")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans()),
            st.integers(1, 3),
        ),
        max_size=40,
    )
)
def test_what_waits_is_the_newest_of_each_task(steps: list[tuple[int, int, bool] | int]) -> None:
    """Each task's newest sequence is taken, once, with frames only if they are all since the last that was taken."""
    unsent, seqs, taken = Unsent(max_frame_bytes_each=40), dict.fromkeys("abcd", 0), dict.fromkeys("abcd", 0)
    for step in steps:
        if isinstance(step, tuple):
            task, grown, with_frames = "abcd"[step[0]], step[1], step[2]
            frames = [f"{seqs[task] + number:010}".encode() for number in range(1, grown + 1)]
            seqs[task] += grown
            unsent.add(EPOCH, [(task, seqs[task])], {task: frames} if with_frames else {})
            continue
        for hint in unsent.take(step):
            assert hint.seq == seqs[hint.key] > taken[hint.key]
            if hint.frames:
                assert [int(frame) for frame in hint.frames] == [*range(taken[hint.key] + 1, hint.seq + 1)]
                assert len(hint.frames) <= 4
            taken[hint.key] = hint.seq
    while len(unsent):
        taken |= {hint.key: hint.seq for hint in unsent.take(2)}
    assert taken == seqs
    assert unsent.dropped == 0


def test_what_waits_is_bounded() -> None:
    """Beyond so many tasks hints are dropped and counted; beyond so many bytes they wait without frames."""
    unsent, frame = Unsent(max_frame_bytes_each=4_096), b"x" * 4_096
    for number in range(MAX_TASKS + 5):
        unsent.add(EPOCH, [(str(number), 1)], {str(number): [frame]})
    unsent.add(EPOCH, [("1", 2)], {})
    assert (len(unsent), unsent.dropped) == (MAX_TASKS, 5)
    first = unsent.take(10)
    assert [hint.key for hint in first] == [str(number) for number in range(10)]
    assert first[0].frames == [frame]
    assert first[1][:2] == ("1", 2)
    rest = unsent.take(MAX_TASKS)
    assert sum(len(frame) for hint in [*first, *rest] for frame in hint.frames) <= MAX_FRAME_BYTES
    assert len(unsent) == 0


def test_frames_with_a_hole_between_them_are_left_out() -> None:
    """A hint that waits at 3 and one that brings only the frame of 5 become a hint at 5 without frames."""
    unsent = Unsent(max_frame_bytes_each=100)
    unsent.add(EPOCH, [("a", 3)], {"a": [b"3"]})
    unsent.add(EPOCH, [("a", 5)], {"a": [b"5"]})
    assert unsent.take(9) == [Hint("a", 5, EPOCH, [])]


def test_an_older_sequence_or_epoch_is_forgotten() -> None:
    """A repeat changes nothing, and hints of a history that is over are not sent."""
    unsent = Unsent(max_frame_bytes_each=100)
    unsent.add(EPOCH, [("a", 7), ("b", 1)], {})
    unsent.add(EPOCH, [("a", 6)], {})
    assert unsent.take(1)[0] == Hint("a", 7, EPOCH, [])
    unsent.add("next", [("a", 2)], {})
    assert unsent.take(9) == [Hint("a", 2, "next", [])]
