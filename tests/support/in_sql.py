"""Requests to the ledger asked in SQL, as a transaction of an application asks them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
from msgspec import UNSET

from ledger.batch import Answer
from ledger.machine import CancelStage, Status
from ledger.model import Cancel, CancelRequest, Create, Lapse, Receipt, Rejection, Report, Request

Connection = Any  # asyncpg's own type is generic for type checkers only

SETTLE = (
    "select * from ledger.settle($1, $2, row($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,"
    " $19, $20, $21, $22)::ledger.request)"
)
"""The decision that ledger.create, report and cancel share, with the digests that the caller gives."""


async def settle(connection: Connection, request: Request) -> Answer:
    """Ask for it; the answer in the words of the ledger."""
    return answer_of(await connection.fetchrow(SETTLE, *arguments(request)), request.task_id)


def arguments(request: Request) -> list[object]:
    """The arguments of `SETTLE`."""
    assert not isinstance(request, Lapse), "the ledger's own, and not to be had in SQL"
    said = {name: getattr(request, name, None) for name in request.__struct_fields__}
    clear = [name for name in ("progress", "stage", "message") if said.get(name, UNSET) is None]
    what = {Report: "report", Create: "create", CancelRequest: "cancel"}[type(request)]
    new = said.get("attempt") == "new"

    def plain(name: str) -> Any:
        value = said.get(name)
        return None if value is UNSET else value.decode() if isinstance(value, bytes) else value

    return [
        request.tenant, request.task_id, what, None if new else plain("attempt"), new, plain("n"), uuid(request.idem),
        uuid(request.digest), None if plain("status") is None else str(plain("status")), plain("progress"),
        plain("stage"), plain("message"), clear, plain("data"), plain("result"), plain("error"), plain("kind"),
        plain("owner"), plain("cancel"), plain("lease_ms"), plain("deadline_ms"), plain("reason"),
    ]  # fmt: skip


def answer_of(row: asyncpg.Record, task_id: str) -> Answer:
    """A `ledger.answer` in the words of the ledger."""
    if not row["ok"]:
        return Rejection(code=row["code"], message=row["message"])
    cancel = None
    if row["cancel_stage"] is not None:
        cancel = Cancel(stage=CancelStage(row["cancel_stage"]), seq=row["cancel_seq"], reason=row["cancel_reason"])
    status, attempt, repeat = Status(row["status"]), row["attempt"], row["repeat"]
    return Receipt(task_id=task_id, seq=row["seq"], status=status, attempt=attempt, repeat=repeat, cancel=cancel)


def uuid(digest: str | None) -> UUID | None:
    """A digest as the driver takes it."""
    return None if digest is None else UUID(digest)
