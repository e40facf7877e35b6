"""The WebSocket's path, as aiohttp serves it: upgrades that the door has left to it, and what is no upgrade at all."""

from __future__ import annotations

import time
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from gateway.http.entry import enter
from gateway.http.guard import bearer
from gateway.http.problems import problem
from gateway.http.proxies import CLIENT
from gateway.identity import Visitor
from gateway.protocol.errors import ProtocolError
from gateway.transports.websocket import WebSockets
from gateway.transports.wire import Taken, take_over

SOCKETS: Final = web.AppKey("sockets", WebSockets)

routes = web.RouteTableDef()


@routes.get("/v1/ws", allow_head=False)
async def ws(request: web.Request) -> web.StreamResponse:
    """The WebSocket, where the door has left the upgrade to aiohttp (`gateway.http.door`)."""
    if request.headers.get(hdrs.UPGRADE, "").lower() != "websocket":
        raise ProtocolError("bad_request", "This path is a WebSocket; connect with a WebSocket client.")
    length = request.headers.get(hdrs.CONTENT_LENGTH, "0")
    if request.version < HttpVersion11 or length != "0" or hdrs.TRANSFER_ENCODING in request.headers:
        refused = problem(ProtocolError("bad_request", "Upgrade with HTTP/1.1, and without a body."))
        refused.force_close()  # what comes next may be meant as a body, and as a request to somebody else's ears
        return refused
    sockets = request.app[SOCKETS]
    allowance = enter(request, sockets.services.quotas)  # first: who has had his share takes no other's place
    try:
        sockets.services.admission.admit(time.monotonic())
        transport, unread = await take_over(request)
    except BaseException as error:
        allowance.close(time.monotonic())
        if isinstance(error, ConnectionError):
            return web.Response(status=400)  # for nobody
        raise
    sockets.let_in(
        transport,
        key=request.headers[hdrs.SEC_WEBSOCKET_KEY],
        visitor=Visitor(bearer(request.headers), request[CLIENT].address),
        allowance=allowance,
        unread=unread,
    )
    return Taken()
