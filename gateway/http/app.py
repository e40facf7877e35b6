"""The aiohttp application: routes, and what every request passes on its way."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from gateway.http import guard, ingest, ops, tasks, tickets
from gateway.http.problems import problems
from gateway.protocol.codec import FRAME_BYTES
from gateway.services import Services


def build(
    services: Services,
    health: ops.Health,
    figures: ops.Figures,
    *,
    allowed_origins: Collection[str],
    loopback_only: bool,
) -> web.Application:
    """The application, ready to be run. `loopback_only`: there is no authentication."""
    app = web.Application(
        middlewares=[
            problems,
            guard.origin_guard(allowed_origins, loopback_only=loopback_only),
            guard.identity(services.authenticator, services.tickets),
        ],
        client_max_size=FRAME_BYTES,
    )
    app[tasks.SERVICES] = services
    app[ops.HEALTH] = health
    app[ops.FIGURES] = figures
    app[ingest.INTAKES] = set()
    app.on_response_prepare.append(guard.add_headers)
    app.on_response_prepare.append(ops.hang_up)
    app.add_routes(tasks.routes)
    app.add_routes(ingest.routes)
    app.add_routes(tickets.routes)
    app.add_routes(ops.routes)
    return app
