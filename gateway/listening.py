"""Where clients come in: the application behind its door, on an address, in plain text or over TLS."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack

from aiohttp import web

from gateway.http import app as http_app
from gateway.http.door import Doors
from gateway.http.guard import Rules
from gateway.http.ops import Figures, Health
from gateway.http.proxies import Proxies
from gateway.http.unreadable import without_bytes
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.tls import Certificate
from gateway.transports.websocket import WebSockets
from gateway.transports.wire import Site

KEEPALIVE_SECONDS = 75.0
"""An idle HTTP connection, and one that dribbles its headers, is closed after this."""
BACKLOG = 1_024
"""Connections that the system completes and keeps until they are accepted; one beyond it waits a second or more."""


class CannotServe(Exception):
    """The address cannot be listened on, or the database of its own has ended; the sentence says what to do."""


def certificate(settings: GatewaySettings) -> Certificate | None:
    """What is shown to clients over TLS. Raises `SettingsError` when it cannot be used."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


async def listen(
    stack: AsyncExitStack,
    settings: GatewaySettings,
    shown: Certificate | None,
    services: Services,
    health: Health,
    figures: Figures,
    *,
    shared: bool,
) -> tuple[web.AppRunner, int]:
    """Serve on the address of the settings until the stack unwinds; gives the runner and the port.

    `shared`: other processes listen on the same port. Raises `CannotServe`.
    """
    rules = Rules(allowed_origins=settings.allowed_origins, loopback_only=settings.loopback_only)
    proxies = Proxies(settings.trusted_proxies)
    sockets = WebSockets(services)
    app = http_app.build(services, sockets, health, figures, rules=rules, proxies=proxies)
    logging.getLogger("aiohttp.server").addFilter(without_bytes)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=1.0,
        # By itself aiohttp would inflate all of a bomb, even after the answer, and take half a gzip for a whole.
        auto_decompress=False,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    doors = Doors(sockets, rules, proxies, runner)
    stack.push_async_callback(doors.close)
    port = await _bound(runner, doors, settings, shown, shared=shared)
    if shown is not None and not shared:  # else the supervisor replaces this process
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, shown.renew)
        stack.callback(asyncio.get_running_loop().remove_signal_handler, signal.SIGHUP)
    return runner, port


async def _bound(
    runner: web.AppRunner, doors: Doors, settings: GatewaySettings, shown: Certificate | None, *, shared: bool
) -> int:
    """Listen; `shared`: other processes do so on the same port."""
    site = Site(
        runner,
        doors,
        settings.host,
        settings.port,
        backlog=BACKLOG,
        shared=shared,
        ssl_context=None if shown is None else shown.context,
    )
    try:
        await site.start()
    except OSError as error:
        raise cannot_listen(settings.host, settings.port, error) from error
    return int(runner.addresses[0][1])


def cannot_listen(host: str, port: int, error: OSError) -> CannotServe:
    """Why an address cannot be listened on, and what to do."""
    return CannotServe(
        f"Cannot listen on {host}:{port} ({error.strerror}). Another program may be using the port; stop it or choose"
        " another one with --port."
    )
