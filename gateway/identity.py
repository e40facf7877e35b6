"""Finds out on behalf of a session who its client is."""

from __future__ import annotations

import structlog

from gateway.protocol.effects import Authenticate, Effect
from gateway.protocol.errors import ProtocolError
from gateway.protocol.session import Session
from gateway.services import Services

log = structlog.get_logger(__name__)


async def identify(
    session: Session, services: Services, asked: Authenticate, token: str | None, address: str | None
) -> list[Effect]:
    """What the session does with the answer. `token` is that of the connection, for those who say none.

    `address`: of the client, for the log.
    """
    try:
        principal = await services.authenticator.authenticate(token if asked.token is None else asked.token)
    except ProtocolError as error:
        return session.refused(error, refresh=asked.refresh)
    if asked.refresh is None:
        log.info(
            "session_opened",
            session=session.id,
            tenant=principal.tenant,
            subject=principal.subject,
            client=session.client,
            **({} if address is None else {"address": address}),
        )
        services.admission.leave(session)
    effects = session.authenticated(principal.tenant, principal.subject, refresh=asked.refresh)
    if asked.refresh is None and services.hub.degraded:
        effects += session.notice("degraded")
    return effects
