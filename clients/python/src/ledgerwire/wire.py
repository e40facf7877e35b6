"""Messages of the wire protocol, version 1, to bytes and back. Pure: knows shapes, not connections.

What comes in is checked only as far as the client relies on it; a message that breaks the contract raises
`Malformed`, and whoever reads the connection then treats it as broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar

import orjson

from ledgerwire.errors import Rejected, rejected
from ledgerwire.model import CancelState, Cursor, Liveness, Receipt, Snapshot, Status, Transition, WorkerLiveness

Message: TypeAlias = dict[str, Any]
T = TypeVar("T")

PONG: Final = b'{"type":"pong"}'
VERSION: Final = 1
FRAME_BYTES_DEFAULT: Final = 65_536
"""What a gateway takes unless its `welcome` says otherwise."""
IDS_PER_MESSAGE: Final = 400
"""Of 128 characters each, with quotes and commas, these fill 52 of the 64 KiB of a frame."""
BEATS_PER_MESSAGE: Final = 350
"""Of such ids with an attempt each; these fill 56 KiB."""
RETRY_AFTER_SECONDS_MAX: Final = 600.0
"""A client does not stay away for longer, whatever it is told."""
_ENVELOPE_BYTES: Final = 256
"""Room for the members added when a body is sent: type, id, attempt and n."""


class Malformed(Exception):
    """The peer sent something that is not a message of the protocol."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the gateway says first: names, the ping interval, and its limit for a frame."""

    session: str
    epoch: str
    ping_interval_ms: int
    frame_bytes: int


@dataclass(frozen=True, slots=True)
class Bye:
    """The gateway closes the connection: whether to come back, and when."""

    code: int
    retry: bool
    retry_after_seconds: float | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    """How a subscription begins."""

    verdict: str
    epoch: str
    seq: int
    recovered: bool
    waiting: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one message of ours: a receipt, a rejection, or neither for a bare ok."""

    id: int | None
    receipt: Receipt | None = None
    rejection: Rejected | None = None
    retry_after_seconds: float = 0.0


def decode(frame: bytes) -> Message:
    """One message from one frame. Raises Malformed."""
    message = loads(frame)
    if not isinstance(message.get("type"), str):
        raise Malformed("a frame is not a message")
    return message


def loads(text: bytes) -> Message:
    """One JSON object. Raises Malformed."""
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Malformed("it is not JSON") from error
    if not isinstance(content, dict):
        raise Malformed("it is not a JSON object")
    return content


def encode(message: Mapping[str, Any]) -> bytes:
    """One frame for one message. Raises TypeError for what JSON cannot say."""
    return orjson.dumps(message)


def hello(client: str, token: str | None) -> bytes:
    """The first frame of a connection."""
    message: Message = {"type": "hello", "v": VERSION, "client": client}
    if token is not None:
        message["token"] = token
    return encode(message)


def freeze(body: Mapping[str, Any], frame_bytes: int) -> Message:
    """The body with its free-form members already encoded, so that the caller may change them afterwards.

    Raises TypeError for what JSON cannot say, and Rejected(`frame_too_large`) for what fits no frame: the
    gateway could not even tell whose message that was.
    """
    frozen = dict(body)
    for name in ("data", "result", "error"):
        if name in frozen:
            frozen[name] = orjson.Fragment(orjson.dumps(frozen[name]))
    size = len(orjson.dumps(frozen))
    if size + _ENVELOPE_BYTES > frame_bytes:
        sentence = f"The message would have about {size} bytes; the gateway takes frames of {frame_bytes}."
        raise rejected("frame_too_large", sentence)
    return frozen


def chunks(ids: Iterable[T], at_most: int = IDS_PER_MESSAGE) -> Iterator[list[T]]:
    """The ids in lists short enough for one frame each."""
    chunk: list[T] = []
    for name in ids:
        chunk.append(name)
        if len(chunk) == at_most:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def beats(held: Iterable[tuple[str, int]]) -> list[bytes]:
    """Frames that say who is at work: tasks, each with the attempt that holds it."""
    tasks = [{"task_id": name, "attempt": attempt} for name, attempt in held]
    return [encode({"type": "beat", "task_ids": chunk}) for chunk in chunks(tasks, BEATS_PER_MESSAGE)]


def welcome(message: Message) -> Welcome:
    """Raises Malformed."""
    with Checked("welcome"):
        limits = message.get("limits") or {}
        return Welcome(
            session=str(message["session"]),
            epoch=str(message["epoch"]),
            ping_interval_ms=int(message["ping_interval_ms"]),
            frame_bytes=int(limits.get("frame_bytes", FRAME_BYTES_DEFAULT)),
        )


def bye(message: Message) -> Bye:
    """Raises Malformed."""
    with Checked("bye"):
        return Bye(
            code=int(message["code"]),
            retry=bool(message["retry"]),
            retry_after_seconds=seconds(message.get("retry_after_ms")),
            reason=str(message.get("reason", "")),
            message=str(message.get("message", "")),
        )


def reply(message: Message) -> Reply:
    """Raises Malformed."""
    with Checked("reply"):
        number = message["id"]
        if number is not None and not isinstance(number, int):
            raise Malformed("a reply repeats an id that was never sent")
        if not message["ok"]:
            error = message["error"]
            rejection = rejected(str(error["code"]), str(error["message"]), bool(error["retryable"]))
            return Reply(
                number,
                rejection=rejection,
                retry_after_seconds=seconds(error.get("retry_after_ms")) or 0.0,
            )
        return Reply(number, receipt=_receipt(message) if "seq" in message else None)


def subscribed(message: Message) -> Subscribed:
    """Raises Malformed."""
    with Checked("subscribed"):
        return Subscribed(
            verdict=str(message["verdict"]),
            epoch=str(message["epoch"]),
            seq=int(message["seq"]),
            recovered=bool(message["recovered"]),
            waiting=bool(message.get("waiting", False)),
        )


def task_id(message: Message) -> str:
    """The task that a message is about. Raises Malformed."""
    with Checked(message["type"]):
        return str(message["task"]["task_id"] if message["type"] == "snapshot" else message["task_id"])


def snapshot(task: Message, epoch: str) -> Snapshot:
    """From the `task` member of a snapshot message. Raises Malformed."""
    with Checked("snapshot"):
        return Snapshot(
            task_id=task["task_id"],
            cursor=Cursor(epoch, int(task["seq"])),
            status=Status(task["status"]),
            attempt=int(task["attempt"]),
            progress=task["progress"],
            stage=task["stage"],
            message=task["message"],
            kind=task["kind"],
            owner=task["owner"],
            data=task["data"],
            result=task["result"],
            error=task["error"],
            cancel=_cancel(task["cancel"]),
            created_at=datetime.fromisoformat(task["created_at"]),
            updated_at=datetime.fromisoformat(task["updated_at"]),
            deadline_at=_time(task["deadline_at"]),
            beat_at=_time(task["beat_at"]),
            beat_age_ms=None if task["beat_age_ms"] is None else int(task["beat_age_ms"]),
            liveness=None if task["liveness"] is None else Liveness(task["liveness"]),
            forced=bool(task.get("forced", False)),
        )


def transition(message: Message, epoch: str) -> Transition:
    """Raises Malformed."""
    with Checked("transition"):
        return Transition(
            task_id=message["task_id"],
            cursor=Cursor(epoch, int(message["seq"])),
            status=Status(message["status"]),
            attempt=int(message["attempt"]),
            progress=message["progress"],
            stage=message["stage"],
            message=message["message"],
            at=datetime.fromisoformat(message["at"]),
            sets=frozenset(name for name in ("data", "result", "error") if name in message),
            data=message.get("data"),
            result=message.get("result"),
            error=message.get("error"),
            cancel=_cancel(message.get("cancel")),
            forced=bool(message.get("forced", False)),
        )


def liveness(message: Message) -> WorkerLiveness:
    """Raises Malformed."""
    with Checked("liveness"):
        age_ms = message.get("beat_age_ms")
        return WorkerLiveness(
            task_id=message["task_id"],
            liveness=Liveness(message["liveness"]),
            beat_age_ms=None if age_ms is None else int(age_ms),
        )


def cursor(value: Message | None) -> Cursor | None:
    """From `{"epoch", "seq"}`. Raises Malformed."""
    with Checked("cursor"):
        return None if value is None else Cursor(str(value["epoch"]), int(value["seq"]))


def cancel_request(message: Message) -> CancelState:
    """From the `cancel` message a worker gets. Raises Malformed."""
    with Checked("cancel"):
        return CancelState(stage="recorded", reason=message.get("reason"), seq=int(message["seq"]))


def _receipt(message: Message) -> Receipt:
    return Receipt(
        task_id=message["task_id"],
        seq=int(message["seq"]),
        status=Status(message["status"]),
        attempt=int(message["attempt"]),
        repeat=bool(message["repeat"]),
        cancel=_cancel(message.get("cancel")),
    )


def seconds(milliseconds: float | None) -> float | None:
    """A `retry_after_ms` in seconds, within bounds."""
    return None if milliseconds is None else max(0.0, min(RETRY_AFTER_SECONDS_MAX, milliseconds / 1000))


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _cancel(value: Message | None) -> CancelState | None:
    if value is None:
        return None
    return CancelState(stage=value["stage"], reason=value.get("reason"), seq=value.get("seq"))


class Checked:
    """Turns the errors of reading a member that is missing or of the wrong kind into Malformed."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError, OverflowError)):
            sentence = f"a {self._what} breaks the protocol: {type(error).__name__} {error}"
            raise Malformed(sentence) from error
