"""Messages of workers and clients, made into requests to the ledger. Pure.

The same for every transport: a report over HTTP is the same `Report` as one over WebSocket. Raises `ProtocolError` for
what a type cannot say: a task id that is not allowed, a payload that is too large, `n` without `attempt`.
"""

from __future__ import annotations

import hashlib
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from gateway.protocol import messages
from gateway.protocol.codec import check_task_id, payload
from gateway.protocol.errors import ProtocolError
from ledger.machine import Status
from ledger.model import CancelRequest, Create, Digest, Key, Report, fingerprint, task_key

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
    report = Report(
        tenant=tenant,
        task_id=message.task_id,
        attempt=message.attempt,
        n=message.n,
        idem=_idem(message.key),
        status=None if message.status is None else _STATUS[message.status],
        progress=message.progress,
        stage=message.stage,
        message=message.message,
        data=payload("data", message.data, messages.DATA_BYTES),
        result=payload("result", message.result, messages.RESULT_BYTES),
        error=payload("error", message.error, messages.ERROR_BYTES),
        kind=message.kind,
        owner=message.owner,
        cancel=message.cancel,
        lease_ms=message.lease_ms,
        deadline_ms=message.deadline_ms,
    )
    if message.n is None and message.key is None:
        return report
    return replace(report, digest=_digest(report))


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


def held_task(tenant: str, one: str | messages.Held) -> tuple[Key, int | None]:
    """A task of a beat, with the attempt that gives it, where it says so."""
    task = messages.Held(one) if isinstance(one, str) else one
    return task_key(tenant, check_task_id(task.task_id)), task.attempt


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


def _digest(report: Report) -> Digest:
    """Of all that the worker said, and nothing that only places it: UNSET and null must differ."""
    said = (report.progress, report.stage, report.message)
    return fingerprint(
        "report",
        report.status,
        [None if value is UNSET else [value] for value in said],
        [None if text is None else text.decode() for text in (report.data, report.result, report.error)],
        report.kind,
        report.owner,
        report.cancel,
        report.lease_ms,
        report.deadline_ms,
    )


def _idem(key: str | None) -> Digest | None:
    """A caller's key as the ledger keeps it."""
    return None if key is None else hashlib.sha256(b"key\x1f" + key.encode()).hexdigest()[:32]


def _check_texts(message: messages.Report | messages.Create | messages.Cancel) -> None:
    """PostgreSQL's text has no NUL."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, str) and "\0" in value:
            raise ProtocolError("bad_request", f"`{name}` contains a NUL character.")
