"""Tickets: for clients that have nothing but a URL, as a browser's `EventSource`. Good once, for half a minute.

A token never stands in a URL, where logs and histories keep it; a ticket may, because it is worth nothing afterwards.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

from gateway.auth.door import refused
from gateway.principal import Principal, parse_grants
from gateway.protocol.errors import ProtocolError
from ledger.tickets import Ticket, Tickets

TICKET_SECONDS: Final = 30
TICKETS: Final = 100
"""Unused ones of one principal at a time; a page needs one for each stream that it opens."""
_FORM: Final = re.compile(r"lwt_[A-Za-z0-9_-]{43}", re.ASCII)


class TicketOffice:
    """Gives tickets, and takes each once."""

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets

    async def give(self, principal: Principal) -> str:
        """A ticket for this principal. Raises `ProtocolError` `busy`, and `LedgerError`."""
        ticket = "lwt_" + secrets.token_urlsafe(32)
        kept = Ticket(
            tenant=principal.tenant,
            subject=principal.subject,
            grants=tuple(grant.words for grant in principal.grants),
            issuer=principal.issuer,
            token_id=principal.token_id,
            token_ends=principal.expires_at,
        )
        if not await self._tickets.add(_digest(ticket), kept, seconds=TICKET_SECONDS, most=TICKETS):
            raise ProtocolError(
                "busy", f"You have {TICKETS} unused tickets; use them.", retry_after_ms=TICKET_SECONDS * 1_000
            )
        return ticket

    async def redeem(self, ticket: str) -> Principal:
        """Who it was given to. Raises `ProtocolError` `unauthenticated` unless it is good, and `LedgerError`."""
        taken = await self._tickets.take(_digest(ticket)) if _FORM.fullmatch(ticket) else None
        if taken is None:
            raise refused()
        return Principal(
            tenant=taken.tenant,
            subject=taken.subject,
            grants=parse_grants(taken.grants),
            expires_at=taken.token_ends,
            token_id=taken.token_id,
            issuer=taken.issuer,
        )


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()
