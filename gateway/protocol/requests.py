"""Messages of workers and clients, made into requests to the ledger. Pure.

The same for every transport: a report over HTTP is the same `Report` as one over WebSocket. Raises `ProtocolError` for
what a type cannot say: a task id that is not allowed, a payload that is too large, `n` without `attempt`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway.protocol import messages
from gateway.protocol.codec import check_task_id, payload
from gateway.protocol.errors import ProtocolError
from ledger.machine import Status
from ledger.model import CancelRequest, Create, Digest, Report, fingerprint

_TEXTS: Final[Mapping[type, Sequence[str]]] = {
    messages.Report: ("stage", "message", "kind", "owner", "key"),
    messages.Create: ("kind", "owner", "key"),
    messages.Cancel: ("reason", "key"),
}
_STATUS: Final = {status.value: status for status in Status}


def report_request(tenant: str, message: messages.Report) -> Report:
    """A report, for the ledger."""
    check_task_id(message.task_id)
    if message.n is not None and not isinstance(message.attempt, int):
        raise ProtocolError("bad_request", "`n` counts within an attempt: send `attempt` as a number too.")
    if message.n is not None and message.key is not None:
        raise ProtocolError("bad_request", "Send `n` or `key`, not both: either makes the report repeatable.")
    if message.cancel is not None and message.status is not None:
        raise ProtocolError("bad_request", "Send `cancel` or `status`: an answer to a cancel request has no status.")
    _check_texts(message)
    data = None if message.data is UNSET else payload("data", message.data, messages.DATA_BYTES)
    result = None if message.result is UNSET else payload("result", message.result, messages.RESULT_BYTES)
    error = None if message.error is UNSET else payload("error", message.error, messages.ERROR_BYTES)
    repeatable = message.n is not None or message.key is not None
    return Report(
        tenant=tenant,
        task_id=message.task_id,
        attempt=message.attempt,
        n=message.n,
        idem=_idem(message.key),
        digest=_digest(message, data, result, error) if repeatable else None,
        status=None if message.status is None else _STATUS[message.status],
        progress=message.progress,
        stage=message.stage,
        message=message.message,
        data=data,
        result=result,
        error=error,
        kind=message.kind,
        owner=message.owner,
        cancel=message.cancel,
        lease_ms=message.lease_ms,
        deadline_ms=message.deadline_ms,
    )


def create_request(tenant: str, message: messages.Create) -> Create:
    """A create, for the ledger. Without a key the content itself is the key."""
    check_task_id(message.task_id)
    _check_texts(message)
    data = payload("data", message.data, messages.DATA_BYTES)
    said = (message.kind, message.owner, data and data.decode(), message.lease_ms, message.deadline_ms)
    digest = fingerprint("create", *said)
    return Create(
        tenant=tenant,
        task_id=message.task_id,
        idem=_idem(message.key) or digest,
        digest=digest,
        kind=message.kind,
        owner=message.owner,
        data=data,
        lease_ms=message.lease_ms,
        deadline_ms=message.deadline_ms,
    )


def cancel_request(tenant: str, message: messages.Cancel) -> CancelRequest:
    """A cancel, for the ledger."""
    check_task_id(message.task_id)
    _check_texts(message)
    return CancelRequest(
        tenant=tenant,
        task_id=message.task_id,
        idem=_idem(message.key),
        digest=None if message.key is None else fingerprint("cancel", message.reason),
        reason=message.reason,
    )


class _Said(Struct, gc=False):
    """What a report says, and nothing that only places it. UNSET is not in its JSON: other than null."""

    status: str | None
    progress: float | UnsetType | None
    stage: str | UnsetType | None
    message: str | UnsetType | None
    kind: str | None
    owner: str | None
    cancel: str | None
    lease_ms: int | None
    deadline_ms: int | None
    payload_bytes: tuple[int, int, int]


def _digest(message: messages.Report, data: bytes | None, result: bytes | None, error: bytes | None) -> Digest:
    said = _Said(
        message.status,
        message.progress,
        message.stage,
        message.message,
        message.kind,
        message.owner,
        message.cancel,
        message.lease_ms,
        message.deadline_ms,
        (_length(data), _length(result), _length(error)),
    )
    content = b"".join((msgspec.json.encode(said), data or b"", result or b"", error or b""))
    return hashlib.sha256(content).hexdigest()[:32]


def _length(part: bytes | None) -> int:
    return -1 if part is None else len(part)


def _idem(key: str | None) -> Digest | None:
    """A caller's key as the ledger keeps it."""
    return None if key is None else hashlib.sha256(b"key\x1f" + key.encode()).hexdigest()[:32]


def _check_texts(message: messages.Report | messages.Create | messages.Cancel) -> None:
    """PostgreSQL's text has no NUL."""
    for name in _TEXTS[type(message)]:
        value = getattr(message, name)
        if value and "\0" in value:
            raise ProtocolError("bad_request", f"`{name}` contains a NUL character.")
