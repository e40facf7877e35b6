"""Finds out on behalf of a session who its client is."""

from __future__ import annotations

import time
from typing import Final

import structlog
from msgspec import Struct

from gateway.principal import Principal
from gateway.protocol.effects import Authenticate, Effect
from gateway.protocol.errors import ProtocolError, as_protocol_error
from gateway.protocol.session import Session
from gateway.services import Services
from ledger.errors import LedgerError

log = structlog.get_logger(__name__)


class Visitor(Struct, frozen=True):
    """What is known of a client before it says hello."""

    token: str | None = None
    """Of its connection, for those who say none in hello."""
    address: str | None = None
    """For the log."""


UNKNOWN: Final = Visitor()


async def identify(session: Session, services: Services, asked: Authenticate, visitor: Visitor) -> list[Effect]:
    """What the session does with the answer."""
    try:
        principal = await services.authenticator.authenticate(visitor.token if asked.token is None else asked.token)
    except ProtocolError as error:
        return session.refused(error, refresh=asked.refresh)
    except LedgerError as error:
        return session.refused(as_protocol_error(error), refresh=asked.refresh)
    if asked.refresh is None:
        log.info(
            "session_opened",
            session=session.id,
            tenant=principal.tenant,
            subject=principal.subject,
            token_id=principal.token_id,
            client=session.client,
            **({} if visitor.address is None else {"address": visitor.address}),
        )
        services.admission.leave(session)
    effects = introduce(session, principal, refresh=asked.refresh)
    if asked.refresh is None and services.hub.degraded:
        effects += session.notice("degraded")
    return effects


def introduce(session: Session, principal: Principal, *, refresh: int | str | None = None) -> list[Effect]:
    """Tell the session who its client is, and how long its token lasts by the clock of this machine."""
    lasts = None if principal.expires_at is None else principal.expires_at - time.time()
    return session.authenticated(principal, now=time.monotonic(), lasts=lasts, refresh=refresh)
