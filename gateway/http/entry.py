"""Who comes in: what each connection and each request may take, before it costs anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from gateway.auth import Principal
from gateway.http.guard import PRINCIPAL
from gateway.http.problems import Handler
from gateway.http.proxies import CLIENT
from gateway.limits.allowance import Allowance
from gateway.limits.quotas import Quotas
from gateway.protocol.errors import ProtocolError

log = structlog.get_logger(__name__)


def enter(request: web.Request, quotas: Quotas) -> Allowance:
    """A connection begins; the allowance is to be closed at its end. Raises `ProtocolError` `rate_limited`."""
    try:
        return Allowance(quotas, request[CLIENT].counted_as, time.monotonic())
    except ProtocolError as error:
        _tell(quotas, error, request.get(PRINCIPAL))
        raise


@contextmanager
def entered(request: web.Request, quotas: Quotas) -> Iterator[Allowance]:
    """A connection of a principal, from its beginning to its end. Raises `ProtocolError` `rate_limited`."""
    principal = request.get(PRINCIPAL)
    allowance = enter(request, quotas)
    try:
        bye = None if principal is None else allowance.join(principal.tenant, principal.subject)
        if bye is not None:
            too_many = ProtocolError("rate_limited", bye.message, retry_after_ms=bye.retry_after_ms)
            _tell(quotas, too_many, principal)
            raise too_many
        yield allowance
    finally:
        allowance.close(time.monotonic())


def rations(quotas: Quotas) -> Middleware:
    """Middleware: what a principal reads and writes over HTTP counts for it and its tenant."""

    @web.middleware
    async def ration(request: web.Request, handler: Handler) -> web.StreamResponse:
        principal = request.get(PRINCIPAL)
        if principal is not None:
            take = quotas.write if request.method == hdrs.METH_POST else quotas.query
            try:
                take(principal.tenant, principal.subject, time.monotonic())
            except ProtocolError as error:
                _tell(quotas, error, principal)
                raise
        return await handler(request)

    return ration


def _tell(quotas: Quotas, error: ProtocolError, principal: Principal | None) -> None:
    if quotas.telling.take(1, time.monotonic()):
        return
    who = {} if principal is None else {"tenant": principal.tenant, "subject": principal.subject}
    log.warning("client_limited", detail=error.message, **who)
