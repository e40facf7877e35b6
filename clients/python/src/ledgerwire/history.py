"""The tasks of an owner, newest first, page by page over plain HTTP."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from ledgerwire import wire
from ledgerwire.backoff import FullJitter
from ledgerwire.errors import Refused, Unreachable
from ledgerwire.http import Http, NoAnswer, NoGateway, base_of
from ledgerwire.link import check_url
from ledgerwire.model import Snapshot, Status
from ledgerwire.settings import Timing
from ledgerwire.token import NoToken, Token, Tokens
from ledgerwire.watcher import CLIENT, REQUEST_SECONDS

PAGE_TASKS: Final = 50


async def history(
    *,
    url: str,
    token: Token = None,
    owner: str | None = None,
    statuses: Iterable[Status | str] = (),
    kind: str | None = None,
    page_tasks: int = PAGE_TASKS,
    timeout_seconds: float = REQUEST_SECONDS,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[Snapshot, None]:
    """Yield tasks, newest first, of one owner, of some statuses, of one kind; by default all that the token may see.

    They are fetched by plain HTTP in pages of `page_tasks` (1 to 200), the next when it is wanted, so a loop that is
    left early costs no more than it has shown. A task that is made meanwhile is not among them.

    `url` is that of the WebSocket. Raises Rejected, Refused; Unreachable when a page has not come in `timeout_seconds`;
    ValueError for an address that does not end in `/v1/ws`.
    """
    check_url(url)
    base = base_of(url)
    if base is None:
        raise ValueError("the URL of a gateway ends in /v1/ws")
    timing = Timing()
    http = Http(
        base,
        tokens=Tokens(token, timing.open_seconds),
        client=CLIENT,
        tls=tls,
        timeout_seconds=timing.reply_seconds,
    )
    query: dict[str, str | int] = {"limit": page_tasks}
    query |= {name: value for name, value in (("owner", owner), ("kind", kind)) if value is not None}
    if wanted := ",".join(statuses):
        query["status"] = wanted
    while True:
        tasks, following = await _page(http, query, timing, timeout_seconds)
        for task in tasks:
            yield task
        if following is None:
            return
        query["cursor"] = following


async def _page(
    http: Http, query: dict[str, str | int], timing: Timing, timeout_seconds: float
) -> tuple[list[Snapshot], str | None]:
    dice = random.Random()  # noqa: S311 - spreads repeats, guards nothing
    backoff, failures = FullJitter(timing.reconnect_floor_seconds, timing.reconnect_ceiling_seconds), 0
    why = "no answer"
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                try:
                    page = await http.get("/tasks", query)
                    with wire.Checked("page"):
                        return [wire.snapshot(task, str(page["epoch"])) for task in page["tasks"]], page["next"]
                except (NoAnswer, NoToken) as error:
                    failures, why = failures + 1, str(error)
                    told = error.retry_after_seconds if isinstance(error, NoAnswer) else None
                    await asyncio.sleep(max(told or 0.0, backoff.delay(failures, dice)))
    except (NoGateway, wire.Malformed) as error:
        raise Refused(0, "no_gateway", str(error)) from error
    except TimeoutError as error:
        sentence = f"no page of tasks for {timeout_seconds:g} s: {why}"
        raise Unreachable(sentence) from error
