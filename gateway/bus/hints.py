"""Bus messages as bytes, and back. Pure.

A message is a JSON object: a version, who sent it, the epoch of its hints, and the hints `[key, seq]` or
`[key, seq, [frame, …]]`, where the frames are the very bytes that watchers get. What comes from a bus is looked at as
if a stranger had sent it: it is read strictly, and what cannot be read is `Garbled` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType
from msgspec.json import Decoder

from gateway.bus.port import Hint
from gateway.protocol.effects import Event
from ledger.machine import CancelStage, Status
from ledger.model import Key, Transition

VERSION: Final = 1
END: Final = b"]}"
_Sequence = Annotated[int, Meta(ge=1, le=2**62)]


class Garbled(ValueError):
    """Not a message of this version, or not a frame."""


def opening(node: str) -> str:
    """How every message of this node begins; a node knows its own by it."""
    return f'{{"v":{VERSION},"node":"{node}",'


def beginning(node: str, epoch: str) -> bytes:
    """All of a message before its hints; `encoded` ones follow, with commas between them, and then `END`."""
    return f'{opening(node)}"epoch":"{epoch}","hints":['.encode()


def encode(node: str, epoch: str, hints: Iterable[Hint], *, max_bytes: int) -> list[bytes]:
    """Messages with all these hints, each of at most `max_bytes`; in order, as few as will hold them.

    The frames go along only where everything fits into one message.
    """
    hints = list(hints)
    begin, end = beginning(node, epoch), END
    room = max_bytes - len(begin) - len(end)
    whole = [encoded(hint) for hint in hints]
    if sum(map(len, whole)) + len(whole) <= room:
        return [begin + b",".join(whole) + end] if whole else []
    messages, some, size = [], list[bytes](), 0
    for hint in hints:
        text = _bare(hint)
        if size + len(text) > room:
            messages.append(begin + b",".join(some) + end)
            some, size = [], 0
        some.append(text)
        size += len(text) + 1
    return [*messages, begin + b",".join(some) + end]


def encoded(hint: Hint) -> bytes:
    """One hint with its frames, as it stands in a message."""
    if not hint.frames:
        return _bare(hint)
    return f'["{hint.key}",{hint.seq},['.encode() + b",".join(hint.frames) + b"]]"


def decode(message: bytes) -> list[Hint]:
    """The hints of a message. Raises `Garbled`."""
    try:
        message.decode()  # what is left raw is not looked at otherwise
        read = _MESSAGE.decode(message)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Garbled(str(error)) from error
    return [Hint(hint.key, hint.seq, read.epoch, [bytes(raw) for raw in hint.frames]) for hint in read.hints]


def events_after(hint: Hint, seq: int) -> list[Event]:
    """The events behind this sequence, if the hint says that it has all of them and they can be read; else none."""
    if not 0 < hint.seq - seq <= len(hint.frames):
        return []
    try:
        return [event(hint.key, frame) for frame in hint.frames[seq - hint.seq :]]
    except Garbled:
        return []


def event(key: Key, frame: bytes) -> Event:
    """The event whose frame this is. Raises `Garbled`."""
    try:
        read = _FRAME.decode(frame)
    except (DecodeError, RecursionError) as error:
        raise Garbled(str(error)) from error
    cancel = read.cancel
    transition = Transition(
        key=key,
        task_id=read.task_id,
        seq=read.seq,
        status=read.status,
        attempt=read.attempt,
        progress=read.progress,
        stage=read.stage,
        message=read.message,
        data=_bytes(read.data),
        result=_bytes(read.result),
        error=_bytes(read.error),
        cancel=None if cancel is None else cancel.stage,
        reason=None if cancel is None else cancel.reason,
        at=read.at,
    )
    return Event(transition, frame)


def _bare(hint: Hint) -> bytes:
    return f'["{hint.key}",{hint.seq}]'.encode()


def _bytes(raw: Raw | UnsetType) -> bytes | None:
    return None if raw is UNSET else bytes(raw)


class _Hint(Struct, array_like=True, frozen=True):
    key: Key
    seq: _Sequence
    frames: list[Raw] = []


class _Message(Struct, frozen=True):
    v: Literal[1]
    node: str
    epoch: str
    hints: list[_Hint]


class _Cancel(Struct, frozen=True):
    stage: CancelStage
    reason: str | None


class _Frame(Struct, frozen=True, tag="transition"):
    task_id: str
    seq: _Sequence
    status: Status
    attempt: int
    progress: float | None
    stage: str | None
    message: str | None
    at: datetime
    data: Raw | UnsetType = UNSET  # null is a payload too
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    cancel: _Cancel | None = None


_MESSAGE: Final = Decoder(_Message)
_FRAME: Final = Decoder(_Frame)
