"""What a connection has to wait for: a task that nobody awaits, so whatever becomes of it is told here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import structlog

log = structlog.get_logger(__name__)


def errand(
    what: Callable[[], Coroutine[None, None, None]], name: str, give_up: Callable[[], None]
) -> asyncio.Task[None]:
    """Begin it. `give_up` is called when it has failed: because the peer is gone, or by a fault."""
    return asyncio.create_task(_done(what, name, give_up), name=name)


async def _done(what: Callable[[], Coroutine[None, None, None]], name: str, give_up: Callable[[], None]) -> None:
    try:
        await what()
    except ConnectionError as error:
        log.debug("peer_gone", errand=name, reason=type(error).__name__)
    except Exception:
        log.exception("connection_fault", errand=name)
    else:
        return
    give_up()
