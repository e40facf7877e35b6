"""Tickets in the ledger: each is used once, on whatever node, because whoever deletes its row has used it."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import Struct

from ledger.pool import Lane
from ledger.sql import query


class Ticket(Struct, frozen=True, kw_only=True):
    """For whom it was given. `token_ends` is in seconds since 1970, None where the token has no end of its own."""

    tenant: str
    subject: str
    grants: tuple[str, ...]
    issuer: str | None
    token_id: str | None
    token_ends: float | None


class Tickets:
    """Gives and takes them through one lane. Both methods raise as `Lane.fetch` does."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def add(self, digest: bytes, ticket: Ticket, *, seconds: float, most: int) -> bool:
        """Keep a ticket for so long; False when its principal has as many as it may have."""
        ends = None if ticket.token_ends is None else datetime.fromtimestamp(ticket.token_ends, UTC)
        who = (ticket.tenant, ticket.subject, list(ticket.grants), ticket.issuer, ticket.token_id, ends)
        return bool(await self._lane.fetch(query("new_ticket"), digest, *who, most, seconds, label="ticket"))

    async def take(self, digest: bytes) -> Ticket | None:
        """Use a ticket; None where it was used before, was never given, or its time or that of its token is over."""
        rows = await self._lane.fetch(query("take_ticket"), digest, label="ticket")
        if not rows or not rows[0]["good"]:
            return None
        row = rows[0]
        return Ticket(
            tenant=row["tenant"],
            subject=row["subject"],
            grants=tuple(row["grants"]),
            issuer=row["issuer"],
            token_id=row["token_id"],
            token_ends=None if row["token_ends"] is None else row["token_ends"].timestamp(),
        )
