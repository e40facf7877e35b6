"""Whatever comes in, a frame becomes messages or says why not; whatever goes out is JSON with `type` first."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from random import Random
from typing import Any, Final, get_args

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from gateway.protocol import codec, messages
from gateway.protocol.access import held_tasks
from gateway.protocol.codec import FRAME_BYTES, Unreadable, decode, payload
from gateway.protocol.errors import BYES, ERRORS, ProtocolError
from gateway.protocol.messages import MESSAGES_PER_FRAME, Cursor, Inbound
from gateway.protocol.requests import cancel_request, create_request, report_request
from ledger.machine import CancelStage, Liveness, Status
from ledger.model import Cancel, Receipt, Task, Transition
from tests.support.principals import somebody

SETTINGS: Final = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KINDS: Final = get_args(Inbound)

VALID: Final[list[dict[str, Any]]] = [
    {"type": "hello", "v": 1, "token": "t" * 40, "client": "tests/1"},
    {"type": "refresh", "id": 1, "token": ""},
    {"type": "subscribe", "id": "s", "tasks": [{"task_id": "a", "after": {"epoch": "e", "seq": 7}}], "wait_ms": 5},
    {"type": "subscribe", "id": 2, "tasks": [{"task_id": "a"}, {"task_id": "b"}], "mode": "latest"},
    {"type": "unsubscribe", "id": 3, "task_ids": ["a"]},
    {"type": "cancel", "id": 4, "task_id": "a", "reason": "changed my mind", "key": "k"},
    {"type": "create", "id": 5, "task_id": "a", "kind": "import", "owner": "alice", "data": {"file": "a.csv"}},
    {"type": "report", "task_id": "a", "attempt": "new", "key": "k", "status": "running", "progress": 1.5},
    {"type": "report", "id": 6, "task_id": "a", "attempt": 1, "n": 2, "stage": None, "data": [1, {"a": None}]},
    {"type": "report", "id": 7, "task_id": "a", "cancel": "refused", "error": "x", "result": 12},
    {"type": "attend", "id": 8, "task_ids": ["a", "b"]},
    {"type": "report", "task_id": "a", "lease_ms": 30_000, "deadline_ms": 600_000},
    {"type": "beat", "task_ids": ["a", {"task_id": "b", "attempt": 2}]},
    {"type": "ping"},
    {"type": "pong"},
]
FRAGMENTS: Final = (
    "\0", "\ud800", "\udfff", "\\ud800", "\\udc00", "\\u0000", "\ufeff", "[", "]", "{", "}", '"', ",", ":", "null",
    "NaN", "-0", "1e999", "9" * 40, "9" * 5000, "1.0", "true", '"id":', '"type":', "[" * 300, '{"a":' * 300, "\u2028",
)  # fmt: skip


def members_of(frame: bytes) -> dict[str, Any]:
    """A server frame, read with the ordinary library: strict JSON, no spaces, `type` first."""
    assert frame.startswith(b'{"type":"')
    content = json.loads(frame.decode(), parse_constant=pytest.fail)
    assert isinstance(content, dict)
    assert len(frame) <= len(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()) + 8
    return content


def outcome(frame: str) -> list[Inbound | Unreadable]:
    """What a frame is decoded to. Everything in it can be answered: as a request, or by a refusal."""
    found = list(decode(frame))
    for one in found:
        if isinstance(one, Unreadable):
            assert one.error.code in {"bad_json", "bad_request", "unknown_type", "frame_too_large"}
            told = members_of(codec.refusal(one.id, one.error))
            assert (told["id"], told["ok"], told["error"]["code"]) == (one.id, False, one.error.code)
            continue
        assert isinstance(one, KINDS)
        try:
            match one:
                case messages.Report():
                    report_request("t", one)
                case messages.Create():
                    create_request("t", one)
                case messages.Cancel():
                    cancel_request("t", one)
                case messages.Beat():
                    assert len(held_tasks(somebody(), one.task_ids)) == len(one.task_ids)
                case _:
                    members_of(codec.reply(getattr(one, "id", None)))
        except ProtocolError as error:
            members_of(codec.refusal(getattr(one, "id", None), error))
    return found


@SETTINGS
@given(st.binary(max_size=200), st.sampled_from(["utf-8", "latin-1", "utf-16-le"]))
@example(b"", "utf-8")
@example(b"\xed\xa0\x80", "utf-8")
def test_random_bytes_are_no_messages(noise: bytes, encoding: str) -> None:
    """Noise is answered with `bad_json` or `bad_request`; it raises nothing."""
    for errors in ("surrogateescape", "replace", "surrogatepass"):
        try:
            text = noise.decode(encoding, errors)
        except UnicodeDecodeError:
            continue
        for prefix in ("", "[", '{"type":"ping","x":"'):
            outcome(prefix + text)


@SETTINGS
@given(st.text(st.characters(), max_size=60))
def test_any_text_in_any_place_of_a_message_is_read_or_refused(text: str) -> None:
    """Lone surrogates, NUL and the rest of Unicode: in a value, in a name, as an id, raw and escaped."""
    for written in (json.dumps(text), json.dumps(text, ensure_ascii=False), f'"{text}"'):
        assert len(outcome(f'{{"type":"report","task_id":"a","stage":{written},"key":{written}}}')) == 1
        assert len(outcome(f'{{"type":{written},"id":{written}}}')) == 1
        outcome(f'[{{"type":"subscribe","id":{written},"tasks":[{{"task_id":{written}}}]}},{{{written}:1}}]')


def test_mutated_messages_are_read_or_refused(seed: int) -> None:
    """Valid frames with pieces cut out, doubled, exchanged and put in: nothing is raised, and some are still read."""
    random, seen = Random(seed), Counter[str]()
    for _ in range(4_000):
        text = json.dumps(random.choice(VALID))
        if random.random() < 0.2:
            text = f"[{text},{json.dumps(random.choice(VALID))}]"
        for _ in range(random.randint(1, 3)):
            start = random.randrange(len(text) + 1)
            end = min(len(text), start + random.choice((0, 0, 1, 2, 8)))
            other = random.randrange(len(text) + 1)
            put = random.choice(("", random.choice(FRAGMENTS), text[other : other + 12]))
            text = text[:start] + put + text[end:]
        for one in outcome(text):
            seen[one.error.code if isinstance(one, Unreadable) else "read"] += 1
    print(dict(seen))  # noqa: T201 - what was done, shown with a failure
    assert min(seen[kind] for kind in ("read", "bad_json", "bad_request", "unknown_type")) >= 10


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@SETTINGS
@given(st.sampled_from(VALID), st.data())
def test_a_member_of_any_type_is_read_or_refused_with_the_messages_id(
    valid: dict[str, Any], data: st.DataObject
) -> None:
    """One member replaced by any JSON value: the refusal names the id, where that is one."""
    name = data.draw(st.sampled_from(sorted(valid)))
    changed = valid | {name: data.draw(json_values)}
    (one,) = outcome(json.dumps(changed))
    if isinstance(one, Unreadable) and name not in {"id", "type"}:
        assert one.id == changed.get("id")
        assert one.error.code == "bad_request"


@SETTINGS
@given(st.lists(st.one_of(st.sampled_from(VALID), json_values), max_size=12))
def test_a_bad_member_of_an_array_does_not_harm_the_others(parts: list[Any]) -> None:
    """As many outcomes as members, in their order; a valid message is the one that it is alone."""
    together = outcome(json.dumps(parts))
    assert len(together) == len(parts)
    for part, one in zip(parts, together, strict=True):
        if part in VALID:
            assert one == outcome(json.dumps(part))[0]
            assert not isinstance(one, Unreadable)
        else:
            assert isinstance(one, Unreadable)


@pytest.mark.parametrize("letter", ["a", "é", "読", "𝄞"])
@pytest.mark.parametrize("array", [False, True])
def test_a_frame_may_have_so_many_bytes_and_not_one_more(letter: str, array: bool) -> None:
    """Bytes are counted, not characters; white space counts too."""
    text = '[{"type":"ping","x":"%s"}]' if array else '{"type":"ping","x":"%s"}'
    room = FRAME_BYTES - len(text % "")
    fits = text % (letter * (room // len(letter.encode())) + "a" * (room % len(letter.encode())))
    assert len(fits.encode()) == FRAME_BYTES
    assert outcome(fits) == [messages.Ping()]
    for longer in (fits + " ", " " + fits, text % ("a" * (room + 1))):
        (refused,) = outcome(longer)
        assert isinstance(refused, Unreadable)
        assert (refused.error.code, refused.id) == ("frame_too_large", None)


def test_a_frame_may_have_so_many_messages_and_not_one_more() -> None:
    """One message more, and none of them is read."""
    assert (
        outcome("[" + ",".join(['{"type":"ping"}'] * MESSAGES_PER_FRAME) + "]")
        == [messages.Ping()] * MESSAGES_PER_FRAME
    )
    (refused,) = outcome("[" + ",".join(['{"type":"ping"}'] * (MESSAGES_PER_FRAME + 1)) + "]")
    assert isinstance(refused, Unreadable)
    assert refused.error.message == "A frame may have 500 messages."
    assert outcome("[]") == outcome(" \r\n\t[ ]") == []


@pytest.mark.parametrize("depth", [10, 250, 253, 254, 255, 256, 1_000, 5_000, 30_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
@pytest.mark.parametrize("place", ["data", "nobody_knows", "id", "type"])
@pytest.mark.parametrize("array", [False, True])
def test_deep_nesting_is_read_or_refused(depth: int, pair: str, place: str, array: bool) -> None:
    """At any depth, in any member, whether the decoder looks into it or not."""
    opened = '{"a":' if pair == "{}" else "["
    deep = opened * depth + "1" + ("}" if pair == "{}" else "]") * depth
    text = f'{{"task_id":"a","{place}":{deep}' + ("}" if place == "type" else ',"type":"report"}')
    (one,) = outcome(f"[{text}]" if array else text)
    if len(text) < FRAME_BYTES and depth <= 256 and place == "nobody_knows":
        assert isinstance(one, messages.Report)
    if place in {"id", "type"}:
        assert isinstance(one, Unreadable)


@pytest.mark.parametrize(
    ("id_", "known"),
    [
        ("1", 1), ("-1", -1), (str(2**53), 2**53), ('"x"', "x"), (f'"{"x" * 64}"', "x" * 64), (str(2**53 + 1), None),
        (str(2**64), None), (str(-(2**63) - 1), None), ("9" * 40, None), ("9" * 5_000, None), ("1.5", None),
        ("true", None), ("null", None), ("[]", None), (f'"{"x" * 65}"', None),
    ],
)  # fmt: skip
def test_a_refusal_names_the_id_where_it_can_be_written(id_: str, known: int | str | None) -> None:
    """An id that the protocol does not allow is not repeated; it could not even be written."""
    (one,) = outcome(f'{{"type":"dance","id":{id_}}}')
    assert isinstance(one, Unreadable)
    assert one.id == known


def test_an_unknown_type_is_told_from_a_wrong_member() -> None:
    """Of a long name only the beginning is repeated."""
    (one,) = outcome(json.dumps({"type": "dance" * 20, "id": 1}))
    assert isinstance(one, Unreadable)
    assert str(one) == one.error.message == f"No message has the type {('dance' * 20)[:32]!r}; see docs/protocol.md."
    for text, message in [
        ('{"type":"ping","type":"pong"}', "Invalid value 'pong' - at `$.type`."),
        ('{"id":1}', "Object missing required field `type`."),
        ('{"type":5}', "Expected `str` - at `$.type`."),
        ("5", "Expected `object`, got `int`."),
        ('{"type":"dance","x":' + "[" * 5_000 + "]" * 5_000 + "}", "Invalid value 'dance' - at `$.type`."),
    ]:
        (one,) = outcome(text)
        assert isinstance(one, Unreadable)
        assert (one.error.code, one.error.message) == ("bad_request", message)


@pytest.mark.parametrize("task_id", ["a", "A.b_c:d-9", "0" * 128])
def test_a_task_id_of_the_allowed_characters_is_taken(task_id: str) -> None:
    """Letters, digits and . _ : -, up to 128."""
    assert codec.check_task_id(task_id) == task_id


@pytest.mark.parametrize(
    "task_id", ["", ".a", "-a", "a b", "a*", "a>", "a/b", "é", "a\n", "a\0", "0" * 129, "\ud800", "٣"]
)
def test_any_other_task_id_is_refused(task_id: str) -> None:
    """The sentence says what is allowed."""
    with pytest.raises(ProtocolError, match="1 to 128 of the characters") as refused:
        codec.check_task_id(task_id)
    assert refused.value.code == "bad_task_id"


@SETTINGS
@given(json_values, st.integers(1, 60))
def test_a_payload_is_stored_as_it_can_be_read_or_refused(value: object, limit: int) -> None:
    """Stored JSON is within the limit and says the same; numbers beyond 64 bits and lone surrogates are refused."""
    refused: list[ProtocolError] = []
    text: bytes | None = None
    try:
        text = payload("data", value, limit)
    except ProtocolError as error:
        refused.append(error)
    assert [(error.code, error.message[:7]) for error in refused] == [("bad_request", "`data` ")] * (text is None)
    if text is None:
        return
    assert len(text) <= limit
    assert json.loads(text) == value == orjson.loads(text)


def test_a_payload_may_have_so_many_bytes_and_not_one_more() -> None:
    """Bytes of the JSON text as it is stored, not of the text that came."""
    assert payload("data", UNSET, 0) is None
    assert payload("data", None, 4) == b"null"
    assert payload("data", "é" * 7, 16) == ('"' + "é" * 7 + '"').encode()
    with pytest.raises(ProtocolError, match=r"^`result` has 17 bytes; 16 are allowed\.$"):
        payload("result", "a" * 15, 16)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", {"\udfff": 1}])
def test_a_payload_that_others_could_not_read_is_refused(value: object) -> None:
    """With the member's name and the reason."""
    with pytest.raises(ProtocolError, match=r"^`error` cannot be stored: .+\.$"):
        payload("error", value, 100)


def test_a_payload_may_be_nested_so_deeply() -> None:
    """254 levels, which every reader can take."""
    fits: object = 1
    for _ in range(254):
        fits = [fits]
    text = payload("data", fits, 1_000)
    assert text is not None
    assert json.loads(text) == fits
    with pytest.raises(ProtocolError, match="`data` cannot be stored"):
        payload("data", [fits], 1_000)


plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
labels = st.none() | plain_text
payloads = st.none() | st.sampled_from([b"null", b"0", b'{"a":[1,2.50,"\\u0000"]}', b'"x"'])
times = st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the timezone comes with it
progresses = st.none() | st.floats(0, 100, allow_nan=False)
stages = st.sampled_from(CancelStage)


def read_payload(text: bytes | None) -> object:
    """As a client would."""
    return None if text is None else json.loads(text)


@SETTINGS
@given(
    st.builds(
        Transition,
        key=st.just(f"{1:032x}"),
        task_id=st.just("a"),
        seq=st.integers(1, 2**63 - 1),
        status=st.sampled_from(Status),
        attempt=st.integers(0, 2**31 - 1),
        progress=progresses,
        stage=labels,
        message=labels,
        data=payloads,
        result=payloads,
        error=payloads,
        cancel=st.none() | stages,
        reason=labels,
        at=times,
    )
)
def test_a_transition_is_written_as_it_is(transition: Transition) -> None:
    """The small state always, payloads and the cancel stage only where this change set them, the time in UTC."""
    content = members_of(codec.transition_frame(transition))
    assert content.pop("type") == "transition"
    for name in ("task_id", "seq", "status", "stage", "message", "attempt", "progress"):
        assert content.pop(name) == getattr(transition, name), name
    for name in ("data", "result", "error"):
        assert (name in content) is (getattr(transition, name) is not None)
        assert content.pop(name, None) == read_payload(getattr(transition, name))
    at = content.pop("at")
    assert at.endswith("Z")
    assert datetime.fromisoformat(at) == transition.at
    cancel = {"stage": transition.cancel, "reason": transition.reason}
    forced = {"forced": True} if transition.cancel is CancelStage.FORCED else {}
    assert content == ({} if transition.cancel is None else {"cancel": cancel, **forced})


@SETTINGS
@given(
    st.builds(
        Task,
        key=st.just(f"{1:032x}"),
        tenant=plain_text,
        task_id=st.just("a"),
        kind=labels,
        owner=labels,
        status=st.sampled_from(Status),
        seq=st.integers(1, 2**63 - 1),
        attempt=st.integers(0, 2**31 - 1),
        progress=progresses,
        stage=labels,
        message=labels,
        data=payloads,
        result=payloads,
        error=payloads,
        cancel=st.none() | st.builds(Cancel, stage=stages, seq=st.integers(1, 9), reason=labels),
        created_at=times,
        updated_at=times,
        deadline_at=st.none() | times,
        beat_at=st.none() | times,
        beat_age_ms=st.none() | st.integers(0, 2**53),
        liveness=st.none() | st.sampled_from(Liveness),
    )
)
def test_a_snapshot_is_written_as_it_is(task: Task) -> None:
    """Every member, null where there is nothing, but `forced`; the tenant and the key stay inside."""
    content = members_of(codec.snapshot_frame(task))
    assert set(content) == {"type", "task"}
    shown = content["task"]
    assert shown == json.loads(codec.json_bytes(codec.task_members(task)))
    small = ("task_id", "kind", "owner", "status", "seq", "attempt", "progress", "stage", "message")
    for name in (*small, "beat_age_ms", "liveness"):
        assert shown.pop(name) == getattr(task, name), name
    for name in ("data", "result", "error"):
        assert shown.pop(name) == read_payload(getattr(task, name))
    cancel = task.cancel and {"stage": task.cancel.stage, "seq": task.cancel.seq, "reason": task.cancel.reason}
    assert shown.pop("cancel") == cancel
    assert shown.pop("forced", False) is (task.cancel is not None and task.cancel.stage is CancelStage.FORCED)
    for name in ("created_at", "updated_at", "deadline_at", "beat_at"):
        at = getattr(task, name)
        text = shown.pop(name)
        assert (text and datetime.fromisoformat(text)) == at
    assert shown == {}


def test_a_whole_progress_is_written_without_a_point() -> None:
    """40 rather than 40.0: what the worker wrote."""
    transition = Transition(
        key=f"{1:032x}", task_id="a", seq=1, status=Status.RUNNING, attempt=0, progress=40.0, stage=None, message=None,
        data=None, result=None, error=None, cancel=None, reason=None,
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    assert codec.transition_frame(transition) == (
        b'{"type":"transition","task_id":"a","seq":1,"status":"running","progress":40,"stage":null,"message":null,'
        b'"attempt":0,"at":"2026-01-01T00:00:00Z"}'
    )


@pytest.mark.parametrize("cancel", [None, Cancel(stage=CancelStage.RECORDED, seq=2, reason=None)])
@pytest.mark.parametrize("id_", ['i"d', -7])
@pytest.mark.parametrize("repeat", [False, True])
def test_a_receipt_is_written_as_a_reply(cancel: Cancel | None, id_: int | str, repeat: bool) -> None:
    """`cancel` is there only where a cancel request is to be told."""
    receipt = Receipt(task_id="a", seq=3, status=Status.RUNNING, attempt=1, repeat=repeat, cancel=cancel)
    frame = codec.receipt_reply(id_, receipt)
    assert frame == codec.reply(id_, **codec.receipt_members(receipt)), "the short way writes what the encoder does"
    content = members_of(frame)
    told = {} if cancel is None else {"cancel": {"stage": "recorded", "seq": 2, "reason": None}}
    assert content == {
        "type": "reply", "id": id_, "ok": True, "task_id": "a", "seq": 3, "status": "running", "attempt": 1,
        "repeat": repeat, **told,
    }  # fmt: skip


def test_liveness_is_told_with_the_age_of_the_last_sign() -> None:
    """No sequence: it is no transition."""
    frame = codec.liveness_frame("a", Liveness.LATE, 70_123)
    assert frame == b'{"type":"liveness","task_id":"a","liveness":"late","beat_age_ms":70123}'


def test_a_jump_says_from_where_to_where_and_why() -> None:
    """Both ends are cursors."""
    frame = codec.jump_notice("a", "other_epoch", Cursor("old", 9), Cursor("new", 4))
    assert frame == (
        b'{"type":"notice","kind":"jumped","task_id":"a","reason":"other_epoch",'
        b'"from":{"epoch":"old","seq":9},"to":{"epoch":"new","seq":4}}'
    )


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_is_written_with_its_sentence(code: str) -> None:
    """When to come back is there only where it is known."""
    content = members_of(codec.refusal(None, ProtocolError(code, "A sentence.")))
    error = {"code": code, "message": "A sentence.", "retryable": ERRORS[code].retryable}
    assert content == {"type": "reply", "id": None, "ok": False, "error": error}
    told = members_of(codec.refusal(5, ProtocolError(code, "A sentence.", retry_after_ms=10)))
    assert told["error"] == error | {"retry_after_ms": 10}


@pytest.mark.parametrize("bye", BYES)
def test_every_goodbye_is_written_in_full(bye: Any) -> None:
    """The frame says what a close code cannot."""
    content = members_of(codec.bye(bye))
    assert content.pop("type") == "bye"
    assert content == {
        "code": bye.code, "retry": bye.code < 4500, "retry_after_ms": bye.retry_after_ms, "reason": bye.reason,
        "message": bye.message,
    }  # fmt: skip
