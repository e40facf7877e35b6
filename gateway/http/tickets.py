"""Tickets over HTTP: a token in a header becomes a word that may stand in a URL, once."""

from __future__ import annotations

from aiohttp import hdrs, web

from gateway.auth.tickets import TICKET_SECONDS
from gateway.http.guard import PRINCIPAL
from gateway.http.tasks import SERVICES
from gateway.protocol.access import check
from gateway.protocol.codec import json_bytes

routes = web.RouteTableDef()


@routes.post("/v1/tickets")
async def give(request: web.Request) -> web.Response:
    """A ticket for one `GET /v1/tasks/{task_id}/events?ticket=…` of the same principal. A body is not looked at."""
    principal = request[PRINCIPAL]
    check(principal, "watch")
    ticket = await request.app[SERVICES].tickets.give(principal)
    return web.Response(
        body=json_bytes({"ticket": ticket, "expires_in": TICKET_SECONDS}),
        status=201,
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )
