"""The aiohttp application: routes, and what every request passes on its way."""

from __future__ import annotations

from aiohttp import web

from gateway.http import guard, ingest, ops, tasks, tickets, upgrade
from gateway.http.entry import rations
from gateway.http.problems import problems
from gateway.http.proxies import Proxies, clients
from gateway.protocol.codec import FRAME_BYTES
from gateway.services import Services
from gateway.transports.websocket import WebSockets


def build(
    services: Services,
    sockets: WebSockets,
    health: ops.Health,
    figures: ops.Figures,
    *,
    rules: guard.Rules,
    proxies: Proxies,
) -> web.Application:
    """The application, ready to be run."""
    app = web.Application(
        middlewares=[
            clients(proxies),
            problems,
            guard.origin_guard(rules),
            guard.identity(services.authenticator, services.tickets),
            rations(services.quotas),
        ],
        client_max_size=FRAME_BYTES,
    )
    app[tasks.SERVICES] = services
    app[upgrade.SOCKETS] = sockets
    app[ops.HEALTH] = health
    app[ops.FIGURES] = figures
    app[ingest.INTAKES] = set()
    app.on_response_prepare.append(guard.add_headers)
    app.on_response_prepare.append(ops.hang_up)
    app.add_routes(upgrade.routes)
    app.add_routes(tasks.routes)
    app.add_routes(ingest.routes)
    app.add_routes(tickets.routes)
    app.add_routes(ops.routes)
    return app
