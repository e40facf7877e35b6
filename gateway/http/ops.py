"""Health and figures, for orchestrators and operators. Needs no token and tells nothing of any task.

`live`: the process answers; a database outage must not have it killed, since that would drop every client. `ready`: it
can serve now. `db`: the pools in figures. A bus that is away makes no node unready: all would be at once, and what it
brings comes a second later without it. `/metrics`: all figures, for Prometheus.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from msgspec import Struct
from msgspec.structs import asdict

from gateway.bus.port import BusState
from gateway.figures import CONTENT_TYPE, Family, text
from gateway.http.tasks import SERVICES
from gateway.protocol.codec import json_bytes
from ledger.errors import LedgerError
from ledger.pool import Pools


class Health(Struct, frozen=True, kw_only=True):
    """What the health paths look at."""

    pools: Pools
    draining: Callable[[], bool]
    reaps: Callable[[], bool]
    bus: Callable[[], BusState]
    version: str


Figures = Callable[[], Awaitable[Sequence[Family]]]
HEALTH: Final = web.AppKey("health", Health)
FIGURES: Final[web.AppKey[Figures]] = web.AppKey("figures")
routes = web.RouteTableDef()


@routes.get("/")
async def index(request: web.Request) -> web.Response:
    """What this is and where things are."""
    places = {
        "websocket": "/v1/ws",
        "tasks": "/v1/tasks",
        "health": ["/health/live", "/health/ready", "/health/db"],
        "metrics": "/metrics",
    }
    return _plain({"name": "ledgerwire", "version": request.app[HEALTH].version, **places})


@routes.get("/health/live")
async def live(request: web.Request) -> web.Response:
    """The process is there."""
    return _plain({"status": "live"})


@routes.get("/health/ready")
async def ready(request: web.Request) -> web.Response:
    """It can take requests; 503 says why not."""
    health = request.app[HEALTH]
    try:
        server = None if health.draining() else await health.pools.check()
    except LedgerError as error:
        return _plain({"status": "unavailable", "reason": error.reason, "detail": error.sentence}, status=503)
    if server is None or health.draining():  # perhaps since a moment ago
        return _plain({"status": "draining"}, status=503)
    if server.read_only:
        return _plain(
            {"status": "unavailable", "reason": "read_only", "detail": "PostgreSQL is read-only."}, status=503
        )
    told: dict[str, object] = {"status": "ready"}
    bus = health.bus()
    if bus.kind != "local":
        told["bus"] = {"kind": bus.kind, "healthy": bus.healthy, "reason": bus.reason}
    return _plain(told)


@routes.get("/health/db")
async def db(request: web.Request) -> web.Response:
    """Pool figures: size, in, out, overflow, and who waits; what this node does. Asks the database nothing."""
    services = request.app[SERVICES]
    figures: dict[str, object] = {**request.app[HEALTH].pools.status()}
    figures["writer_waiting"] = services.writer.waiting
    figures["degraded"] = services.hub.degraded
    figures["reaper"] = request.app[HEALTH].reaps()
    figures["bus"] = asdict(request.app[HEALTH].bus())
    return _plain(figures)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """All figures in Prometheus' text format; of all processes, where there are several."""
    body = text(await request.app[FIGURES]())
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, hdrs.CACHE_CONTROL: "no-store"})


async def hang_up(request: web.Request, response: web.StreamResponse) -> None:
    """Signal `on_response_prepare`: a process that is about to end answers on a connection once more, and no more."""
    if request.app[HEALTH].draining() and response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        response.force_close()
        response.headers[hdrs.CONNECTION] = "close"


def _plain(content: dict[str, object], *, status: int = 200) -> web.Response:
    return web.Response(
        body=json_bytes(content),
        status=status,
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )
