"""Who may knock: the Origin of browsers, the Host in development, and the bearer token of API requests.

A browser sends `Origin` with every WebSocket upgrade and every cross-site request, whatever page it is on; without this
check any page the user visits could talk to a gateway on the same machine or network. Programs and mini-programs send
none, and are let through to authentication.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from gateway.auth import Authenticator, Principal
from gateway.auth.tickets import TicketOffice
from gateway.http.problems import Handler, problem
from gateway.protocol.errors import ProtocolError

PRINCIPAL: Final = web.RequestKey("principal", Principal)
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
CORS_HEADERS: Final = {
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Encoding, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer"
    ),
    "Access-Control-Expose-Headers": "ETag, Location, Retry-After",
    "Access-Control-Max-Age": "600",
}


def origin_guard(allowed: Collection[str], *, loopback_only: bool) -> Middleware:
    """Refuse every Origin but the server's own and those listed, exactly. Answers preflight requests.

    With `loopback_only` (no authentication) the Host must be a loopback name too: a page whose name was rebound to
    127.0.0.1 is its own origin, and would get in.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if loopback_only and _name_of(request.host) not in LOOPBACK_NAMES:
            return problem(
                ProtocolError(
                    "forbidden",
                    f"Host {request.host!r} is not this machine. Without authentication the server answers"
                    " to localhost only; start it with --token-file to be reached by other names.",
                )
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            return await handler(request)
        if origin not in allowed and origin != f"{request.scheme}://{request.host}":
            return problem(
                ProtocolError(
                    "forbidden",
                    f"Origin {origin!r} is not allowed here; start the server with --allow-origin {origin}"
                    if _is_origin(origin)
                    else "This Origin is not allowed here.",
                )
            )
        cors = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204, headers={**cors, **CORS_HEADERS})
        request[CORS] = cors
        return await handler(request)

    return guard


CORS: Final = web.RequestKey("cors", dict[str, str])


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal `on_response_prepare`: what every answer carries, streams and errors too."""
    response.headers["Server"] = "ledgerwire"
    response.headers["X-Content-Type-Options"] = "nosniff"
    cors = request.get(CORS)
    if cors is not None:
        response.headers.update(cors)
        response.headers["Access-Control-Expose-Headers"] = CORS_HEADERS["Access-Control-Expose-Headers"]


def bearer(request: web.Request) -> str | None:
    """The token of the Authorization header."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


TICKETED: Final = re.compile(r"/v1/tasks/[^/]+/events")
"""What a ticket opens; it is for those who cannot send a header."""


def identity(authenticator: Authenticator, tickets: TicketOffice) -> Middleware:
    """Every request to /v1 but the WebSocket (which says hello) needs a principal, by its token or a ticket."""

    @web.middleware
    async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1/") and request.path != "/v1/ws":
            token = bearer(request)
            ticket = request.query.get("ticket") if token is None else None
            if ticket and request.method == hdrs.METH_GET and TICKETED.fullmatch(request.path):
                request[PRINCIPAL] = await tickets.redeem(ticket)
            else:
                request[PRINCIPAL] = await authenticator.authenticate(token)
        return await handler(request)

    return identify


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_origin(text: str) -> bool:
    """Whether it may be repeated to the operator as an option: scheme and host, nothing else."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and text.isascii() and text.isprintable()
