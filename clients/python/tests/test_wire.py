"""What comes over the wire: read as the contract says, or `Malformed`, never another exception."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerwire import Cursor, Status, wire
from ledgerwire.backoff import FullJitter
from ledgerwire.errors import CancelRequested, DeliveryTimeout, Fenced, Refused, Rejected, TaskEnded, fresh, rejected

TASK = {
    "task_id": "t", "kind": "k", "owner": "o", "status": "failed", "seq": 3, "attempt": 1, "progress": 2.5,
    "stage": "s", "message": "m", "data": {"a": 1}, "result": None, "error": {"reason": "disk full"},
    "cancel": {"stage": "too_late", "seq": 2, "reason": None}, "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00.5Z", "deadline_at": "2026-01-01T01:00:00Z", "beat_at": None,
    "beat_age_ms": 5, "liveness": "late", "forced": True,
}  # fmt: skip
MESSAGES: list[dict[str, Any]] = [
    {"type": "welcome", "session": "s", "epoch": "e", "ping_interval_ms": 25000, "limits": {"frame_bytes": 65536}},
    {"type": "bye", "code": 4000, "retry": True, "retry_after_ms": 5, "reason": "r", "message": "m"},
    {
        "type": "reply", "id": 1, "ok": True, "task_id": "t", "seq": 1, "status": "running", "attempt": 1,
        "repeat": False, "cancel": {"stage": "recorded", "seq": 1, "reason": "r"},
    },
    {"type": "reply", "id": 1, "ok": False, "error": {"code": "busy", "message": "m", "retryable": True}},
    {"type": "subscribed", "task_id": "t", "verdict": "live", "epoch": "e", "seq": 1, "recovered": True},
    {"type": "snapshot", "task": TASK},
    {
        "type": "transition", "task_id": "t", "seq": 1, "status": "running", "progress": None, "stage": None,
        "message": None, "attempt": 0, "error": None, "at": "2026-01-01T00:00:00Z",
    },
    {"type": "cancel", "task_id": "t", "seq": 2, "reason": "r"},
    {"type": "liveness", "task_id": "t", "liveness": "late", "beat_age_ms": 70_000},
]  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def read(message: dict[str, Any]) -> object:
    match message["type"]:
        case "welcome":
            return wire.welcome(message)
        case "bye":
            return wire.bye(message)
        case "reply":
            return wire.reply(message)
        case "subscribed":
            return wire.task_id(message), wire.subscribed(message)
        case "snapshot":
            return wire.task_id(message), wire.snapshot(message["task"], "e")
        case "liveness":
            return wire.task_id(message), wire.liveness(message)
        case "transition":
            return wire.task_id(message), wire.transition(message, "e")
        case _:
            return wire.task_id(message), wire.cancel_request(message)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_broken_message_is_malformed_and_nothing_else(message: dict[str, Any], data: st.DataObject) -> None:
    """A member is missing or is something else: the connection is given up, the client is not."""
    broken = orjson.loads(orjson.dumps(message))
    place = broken["task"] if message["type"] == "snapshot" and data.draw(st.booleans()) else broken
    name = data.draw(st.sampled_from(sorted(place.keys() - {"type"})))
    if data.draw(st.booleans()):
        del place[name]
    else:
        place[name] = data.draw(json_values)
    try:
        read(broken)
    except wire.Malformed as error:
        assert message["type"] in str(error)  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize(("said", "read_as"), [(None, None), (0, 0.0), (1500, 1.5), (-5, 0.0), (1e300, 600.0)])
def test_a_time_to_come_back_is_read_in_seconds_and_bounded(said: float | None, read_as: float | None) -> None:
    """Whatever a server says, a client does not stay away for ever."""
    assert wire.bye({**MESSAGES[1], "retry_after_ms": said}).retry_after_seconds == read_as
    error = {**MESSAGES[3]["error"], "retry_after_ms": said}
    assert wire.reply({**MESSAGES[3], "error": error}).retry_after_seconds == (read_as or 0.0)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
def test_unknown_members_are_ignored(message: dict[str, Any]) -> None:
    """A later version of the server may say more."""
    assert repr(read(message)) == repr(read({**message, "later": {"version": 2}}))


@given(st.binary(max_size=50))
def test_a_frame_is_a_message_or_malformed(frame: bytes) -> None:
    """Any bytes."""
    try:
        assert isinstance(wire.decode(frame)["type"], str)
    except wire.Malformed:
        pass


def test_a_snapshot_and_a_transition_are_read_as_the_contract_says() -> None:
    """With times as aware datetimes, and what a change has set told apart from what it left alone."""
    snapshot = wire.snapshot(TASK, "e")
    assert (snapshot.cursor, snapshot.status, snapshot.progress) == (Cursor("e", 3), Status.FAILED, 2.5)
    assert snapshot.updated_at == datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    assert snapshot.deadline_at == datetime(2026, 1, 1, 1, tzinfo=UTC)
    assert (snapshot.beat_at, snapshot.beat_age_ms, snapshot.liveness, snapshot.forced) == (None, 5, "late", True)
    transition = wire.transition(MESSAGES[6], "e")
    assert not transition.forced
    assert wire.transition(MESSAGES[6] | {"forced": True}, "e").forced
    assert transition.sets == {"error"}
    assert not transition.status.terminal


@given(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True), max_size=900))
def test_any_number_of_ids_fits_into_frames(ids: list[str]) -> None:
    """In their order, none left out."""
    chunks = list(wire.chunks(ids))
    assert [name for chunk in chunks for name in chunk] == ids
    for chunk in chunks:
        frame = wire.encode({"type": "unsubscribe", "id": 2**53, "task_ids": [name.ljust(128, "x") for name in chunk]})
        assert len(frame) <= wire.FRAME_BYTES_DEFAULT


@given(st.lists(st.integers(1, 2**31 - 1), max_size=800))
def test_any_number_of_beats_fits_into_frames(attempts: list[int]) -> None:
    """Each with its attempt, in their order, however long the ids are."""
    held = [(f"{place}".ljust(128, "x"), attempt) for place, attempt in enumerate(attempts)]
    frames = wire.beats(held)
    assert all(len(frame) <= wire.FRAME_BYTES_DEFAULT for frame in frames)
    told = [task for frame in frames for task in orjson.loads(frame)["task_ids"]]
    assert told == [{"task_id": task_id, "attempt": attempt} for task_id, attempt in held]


@given(st.text(min_size=1), st.integers(0, 2**63))
def test_a_cursor_survives_being_written_down(epoch: str, seq: int) -> None:
    """Also an epoch with a colon in it."""
    assert Cursor.parse(str(Cursor(epoch, seq))) == Cursor(epoch, seq)


@pytest.mark.parametrize("text", ["", ":", "e", "e:", ":3", "e:-1", "e:x", "e:²"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    """And not taken for another one."""
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text)


@given(st.integers(1, 10_000), st.integers())
def test_a_delay_is_between_floor_and_ceiling_and_begins_small(failures: int, seed: int) -> None:
    """Full jitter, doubling."""
    delay = FullJitter(0.1, 10.0).delay(failures, random.Random(seed))
    assert 0.1 <= delay <= min(10.0, 0.1 * 2 ** min(failures, 10))


@pytest.mark.parametrize(
    "error",
    [
        rejected("fenced", "No."), rejected("task_ended", "No."), rejected("busy", "No.", True),
        Refused(4501, "unauthenticated", "No token."), DeliveryTimeout("late", queued=True),
    ],
)  # fmt: skip
def test_an_error_can_be_raised_again_as_a_fresh_copy(error: Rejected | Refused | DeliveryTimeout) -> None:
    """With all it says, without the traceback of the first time; and it crosses processes."""
    copy = fresh(error)
    assert copy is not error
    assert (type(copy), copy.args, str(copy)) == (type(error), error.args, str(error))
    assert isinstance(rejected("fenced", ""), Fenced)
    assert isinstance(rejected("task_ended", ""), TaskEnded)
    assert "sequence 3" in str(CancelRequested("t", 3))
