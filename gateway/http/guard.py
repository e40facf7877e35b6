"""Who may knock: the Origin of browsers, the Host in development, and the bearer token of API requests.

A browser sends `Origin` with every WebSocket upgrade and every cross-site request, whatever page it is on; without this
check any page the user visits could talk to a gateway on the same machine or network. Programs and mini-programs send
none, and are let through to authentication, which is by a bearer token always: nothing that a browser adds by itself
(a cookie, a client certificate) counts for anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from msgspec import Struct

from gateway.auth import Authenticator, Principal
from gateway.auth.tickets import TicketOffice
from gateway.http.problems import Handler, problem
from gateway.http.proxies import CLIENT
from gateway.protocol.errors import ProtocolError

PRINCIPAL: Final = web.RequestKey("principal", Principal)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer that does not bring its own: what is no page may do nothing, wherever it is shown."""
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
CORS_HEADERS: Final = {
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Encoding, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer"
    ),
    "Access-Control-Expose-Headers": "ETag, Location, Retry-After",
    "Access-Control-Max-Age": "600",
}


class Rules(Struct, frozen=True, kw_only=True):
    """Who may knock: every way in asks here. Headers are looked up by lower-case names.

    With `loopback_only` (no authentication) the Host must be a loopback name too: a page whose name was rebound to
    127.0.0.1 is its own origin, and would get in.
    """

    allowed_origins: Collection[str]
    loopback_only: bool

    def refusal(self, headers: Mapping[str, str], *, scheme: str, host: str, path: str) -> ProtocolError | None:
        """Why not, if so: a Host that is not this machine, or an Origin but the server's own and those listed."""
        if self.loopback_only and _name_of(host) not in LOOPBACK_NAMES:
            return ProtocolError(
                "forbidden",
                f"Host {host!r} is not this machine. Without authentication the server answers"
                " to localhost only; start it with --token-file to be reached by other names.",
            )
        origin = headers.get("origin")
        if origin is None:
            return _foreign("") if _of_another_page(headers, path) else None
        return None if origin in self.allowed_origins or origin == f"{scheme}://{host}" else _foreign(origin)


def origin_guard(rules: Rules) -> Middleware:
    """Refuse what the rules refuse. Answers preflight requests."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = rules.refusal(request.headers, scheme=request[CLIENT].scheme, host=request.host, path=request.path)
        if len(request.headers.getall(hdrs.ORIGIN, ())) > 1:
            refused = _foreign("")
        if refused is not None:
            return problem(refused)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            return await handler(request)
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
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
    cors = request.get(CORS)
    if cors is not None:
        response.headers.update(cors)
        response.headers["Access-Control-Expose-Headers"] = CORS_HEADERS["Access-Control-Expose-Headers"]


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of the Authorization header."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


TICKETED: Final = re.compile(r"/v1/tasks/[^/]+/events")
"""What a ticket opens; it is for those who cannot send a header."""


def identity(authenticator: Authenticator, tickets: TicketOffice) -> Middleware:
    """Every request to /v1 but the WebSocket (which says hello) needs a principal, by its token or a ticket."""

    @web.middleware
    async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1/") and request.path != "/v1/ws":
            token = bearer(request.headers)
            ticket = request.query.get("ticket") if token is None else None
            if ticket and request.method == hdrs.METH_GET and TICKETED.fullmatch(request.path):
                request[PRINCIPAL] = await tickets.redeem(ticket)
            else:
                request[PRINCIPAL] = await authenticator.authenticate(token)
        return await handler(request)

    return identify


def _of_another_page(headers: Mapping[str, str], path: str) -> bool:
    """Whether a browser asks for an image or follows a link on another site: then it says no Origin."""
    return headers.get("sec-fetch-site") in {"cross-site", "same-site"} and path.startswith("/v1/")


def _foreign(origin: str) -> ProtocolError:
    return ProtocolError(
        "forbidden",
        f"Origin {origin!r} is not allowed here; start the server with --allow-origin {origin}"
        if _is_origin(origin)
        else "This Origin is not allowed here.",
    )


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
