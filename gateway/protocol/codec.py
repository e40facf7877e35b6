"""Frames to messages, and the ledger's words to frames. Pure; never lets a decoder's exception out.

Server frames are JSON bytes with `type` first and without spaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
import orjson
from msgspec import UNSET

from gateway.protocol import messages
from gateway.protocol.errors import Bye, ProtocolError
from gateway.protocol.messages import MESSAGES_PER_FRAME, TYPES, Cursor, Id, Inbound, Report
from ledger.machine import CancelStage, Liveness
from ledger.model import TASK_ID, Receipt, Task, Transition
from ledger.model import Cancel as CancelState

FRAME_BYTES: Final = 64 * 1024
"""The largest frame a client may send; mini-programs choke on less, and a larger one hides a misuse."""

BAD_TASK_ID: Final = "A task id has 1 to 128 of the characters A-Z a-z 0-9 . _ : - and begins with a letter or digit."

_message: Final[msgspec.json.Decoder[Inbound]] = msgspec.json.Decoder(Inbound)
_report: Final = msgspec.json.Decoder(Report)
_array: Final = msgspec.json.Decoder(list[msgspec.Raw])
_anything: Final = msgspec.json.Decoder()
_TIMES: Final = orjson.OPT_UTC_Z


class Unreadable(Exception):
    """One message could not be read; `id` is the message's, where it had one that could be made out."""

    def __init__(self, error: ProtocolError, *, id: int | str | None = None) -> None:  # noqa: A002 - the wire's word
        super().__init__(str(error))
        self.error = error
        self.id = id


def decode(frame: str) -> Iterator[Inbound | Unreadable]:
    """The messages of one frame, in order; one that cannot be read does not harm the others."""
    size = len(frame) if frame.isascii() or len(frame) > FRAME_BYTES else len(frame.encode("utf-8", "surrogatepass"))
    if size > FRAME_BYTES:
        yield Unreadable(ProtocolError("frame_too_large", f"A frame may have {FRAME_BYTES} bytes; send less at once."))
        return
    if frame.startswith("{") or not frame.lstrip(" \t\r\n").startswith("["):
        yield _decode_one(frame)
        return
    try:
        parts = _array.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        yield _bad_json()
        return
    if len(parts) > MESSAGES_PER_FRAME:
        yield Unreadable(ProtocolError("bad_request", f"A frame may have {MESSAGES_PER_FRAME} messages."))
        return
    for part in parts:
        yield _decode_one(part)


def decode_line(line: bytes) -> Report | Unreadable:
    """The report of one line of a batch; its `type` may be left out."""
    try:
        return _report.decode(line)
    except msgspec.ValidationError as invalid:
        return _explain(line, invalid)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return Unreadable(ProtocolError("bad_json", "This line is not valid JSON in UTF-8."))


def _decode_one(text: str | msgspec.Raw) -> Inbound | Unreadable:
    try:
        return _message.decode(text)
    except msgspec.ValidationError as invalid:
        return _explain(text, invalid)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return _bad_json()


def _bad_json() -> Unreadable:
    return Unreadable(ProtocolError("bad_json", "This frame is not valid JSON."))


def _explain(text: str | bytes | msgspec.Raw, invalid: msgspec.ValidationError) -> Unreadable:
    """Find the `id` to answer to, and whether it is the type that is wrong."""
    error = ProtocolError("bad_request", f"{invalid}.")
    try:
        content = _anything.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return Unreadable(error)
    if not isinstance(content, dict):
        return Unreadable(error)
    type_ = content.get("type")
    if isinstance(type_, str) and type_ not in TYPES:
        error = ProtocolError("unknown_type", f"No message has the type {type_[:32]!r}; see docs/protocol.md.")
    try:
        return Unreadable(error, id=msgspec.convert(content.get("id"), Id))
    except msgspec.ValidationError:
        return Unreadable(error)


def check_task_id(task_id: str) -> str:
    """The id itself; raises `ProtocolError` `bad_task_id`."""
    if TASK_ID.fullmatch(task_id) is None:
        raise ProtocolError("bad_task_id", BAD_TASK_ID)
    return task_id


def payload(name: str, value: Any, max_bytes: int) -> bytes | None:
    """A payload member as JSON text, None when it is UNSET; raises `ProtocolError` `bad_request`.

    It is encoded anew, which refuses what a reader in another language could not read: integers beyond 64 bits, lone
    surrogates, a nesting deeper than 254.
    """
    if value is UNSET:
        return None
    try:
        text = orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise ProtocolError("bad_request", f"`{name}` cannot be stored: {error}.") from error
    if len(text) > max_bytes:
        raise ProtocolError("bad_request", f"`{name}` has {len(text)} bytes; {max_bytes} are allowed.")
    return text


def frame(type_: str, /, **members: object) -> bytes:
    """A server frame."""
    return orjson.dumps({"type": type_, **members}, option=_TIMES)


def reply(id_: int | str | None, **members: object) -> bytes:
    """An accepting reply."""
    return frame("reply", id=id_, ok=True, **members)


def receipt_reply(id_: int | str, receipt: Receipt) -> bytes:
    """The accepting reply to a report, create or cancel."""
    if receipt.cancel is not None or not isinstance(id_, int):
        return reply(id_, **receipt_members(receipt))
    # Nearly all replies: nothing in them needs an escape, and this costs a quarter of an encoder.
    return (
        f'{{"type":"reply","id":{id_},"ok":true,"task_id":"{receipt.task_id}","seq":{receipt.seq},'
        f'"status":"{receipt.status}","attempt":{receipt.attempt},"repeat":{"true" if receipt.repeat else "false"}}}'
    ).encode()


def refusal(id_: int | str | None, error: ProtocolError) -> bytes:
    """A refusing reply."""
    return frame("reply", id=id_, ok=False, error=error.as_json())


def outcome(line: int, id_: int | str | None, answer: Receipt | ProtocolError) -> bytes:
    """What became of one line of a batch (counted from 1), as a line. `id` is there where the report had one."""
    told: dict[str, object] = {"line": line} if id_ is None else {"line": line, "id": id_}
    return _line(told, answer)


def broken_off(from_line: int, error: ProtocolError) -> bytes:
    """The last line of the answer to a batch that was not read to its end: nothing from this line on was looked at."""
    return _line({"from_line": from_line}, error)


def _line(told: dict[str, object], answer: Receipt | ProtocolError) -> bytes:
    if isinstance(answer, Receipt):
        told |= {"ok": True, **receipt_members(answer)}
    else:
        told |= {"ok": False, "error": answer.as_json()}
    return orjson.dumps(told, option=_TIMES | orjson.OPT_APPEND_NEWLINE)


def welcome(version: int, session: str, epoch: str, ping_interval_ms: int, server_time: datetime) -> bytes:
    """The answer to a hello that was understood."""
    limits = {
        "frame_bytes": FRAME_BYTES,
        "data_bytes": messages.DATA_BYTES,
        "result_bytes": messages.RESULT_BYTES,
        "messages_per_frame": messages.MESSAGES_PER_FRAME,
        "subscriptions": messages.SUBSCRIPTIONS,
    }
    return frame(
        "welcome",
        v=version,
        session=session,
        epoch=epoch,
        ping_interval_ms=ping_interval_ms,
        server_time=server_time,
        limits=limits,
    )


def bye(reason: Bye) -> bytes:
    """The last frame of a connection."""
    return frame(
        "bye",
        code=reason.code,
        retry=reason.retry,
        retry_after_ms=reason.retry_after_ms,
        reason=reason.reason,
        message=reason.message,
    )


def jump_notice(task_id: str, reason: str, cursor: Cursor, to: Cursor) -> bytes:
    """The stream of a task does not go on at its cursor: from where to where it jumped, and why."""
    ends = {"from": {"epoch": cursor.epoch, "seq": cursor.seq}, "to": {"epoch": to.epoch, "seq": to.seq}}
    return frame("notice", kind="jumped", task_id=task_id, reason=reason, **ends)


def receipt_members(receipt: Receipt) -> dict[str, object]:
    """The members of the reply to a report, create or cancel."""
    members: dict[str, object] = {
        "task_id": receipt.task_id,
        "seq": receipt.seq,
        "status": receipt.status,
        "attempt": receipt.attempt,
        "repeat": receipt.repeat,
    }
    if receipt.cancel is not None:
        members["cancel"] = cancel_members(receipt.cancel)
    return members


def cancel_members(cancel: CancelState) -> dict[str, object]:
    """A cancel request in a reply or snapshot."""
    return {"stage": cancel.stage, "seq": cancel.seq, "reason": cancel.reason}


def transition_members(transition: Transition) -> dict[str, object]:
    """The members of a `transition` frame, after `type`."""
    return _transition({}, transition)


def _transition(members: dict[str, object], transition: Transition) -> dict[str, object]:
    members["task_id"] = transition.task_id
    members["seq"] = transition.seq
    members["status"] = transition.status
    members["progress"] = _number(transition.progress)
    members["stage"] = transition.stage
    members["message"] = transition.message
    members["attempt"] = transition.attempt
    if transition.data is not None:
        members["data"] = orjson.Fragment(transition.data)
    if transition.result is not None:
        members["result"] = orjson.Fragment(transition.result)
    if transition.error is not None:
        members["error"] = orjson.Fragment(transition.error)
    if transition.cancel is not None:
        members["cancel"] = {"stage": transition.cancel, "reason": transition.reason}
    if transition.cancel is CancelStage.FORCED:
        members["forced"] = True
    members["at"] = transition.at
    return members


def transition_frame(transition: Transition) -> bytes:
    """A `transition` frame; the same bytes go to everybody who watches."""
    return orjson.dumps(_transition({"type": "transition"}, transition), option=_TIMES)


def task_members(task: Task) -> dict[str, object]:
    """A snapshot, as in `snapshot` frames and HTTP bodies."""
    members: dict[str, object] = {
        "task_id": task.task_id,
        "kind": task.kind,
        "owner": task.owner,
        "status": task.status,
        "seq": task.seq,
        "attempt": task.attempt,
        "progress": _number(task.progress),
        "stage": task.stage,
        "message": task.message,
        "data": _fragment(task.data),
        "result": _fragment(task.result),
        "error": _fragment(task.error),
        "cancel": None if task.cancel is None else cancel_members(task.cancel),
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "deadline_at": task.deadline_at,
        "beat_at": task.beat_at,
        "beat_age_ms": task.beat_age_ms,
        "liveness": task.liveness,
    }
    if task.cancel is not None and task.cancel.stage is CancelStage.FORCED:
        members["forced"] = True
    return members


def snapshot_frame(task: Task) -> bytes:
    """A `snapshot` frame."""
    return frame("snapshot", task=task_members(task))


def liveness_frame(task_id: str, liveness: Liveness, beat_age_ms: int | None) -> bytes:
    """How the worker of a task is, between its transitions."""
    return frame("liveness", task_id=task_id, liveness=liveness, beat_age_ms=beat_age_ms)


def json_bytes(content: Mapping[str, object]) -> bytes:
    """A JSON body with the same conventions as frames."""
    return orjson.dumps(content, option=_TIMES)


def _fragment(text: bytes | None) -> orjson.Fragment | None:
    return None if text is None else orjson.Fragment(text)


def _number(progress: float | None) -> float | int | None:
    """40 rather than 40.0: what the worker wrote."""
    return int(progress) if progress is not None and progress.is_integer() else progress
