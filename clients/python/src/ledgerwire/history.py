"""What is asked once and ends: the tasks of an owner, page by page, and the stages of one cancel."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from ledgerwire import wire
from ledgerwire.backoff import FullJitter
from ledgerwire.errors import Refused, Unreachable
from ledgerwire.http import Http, NoAnswer, NoGateway, base_of
from ledgerwire.link import check_url
from ledgerwire.model import CancelState, Cursor, Snapshot, Status
from ledgerwire.settings import Timing
from ledgerwire.token import NoToken, Token, Tokens
from ledgerwire.watcher import CLIENT, REQUEST_SECONDS, Watcher

PAGE_TASKS: Final = 50
OPEN_STAGES: Final = frozenset({"recorded", "delivered"})
"""Of a cancel that is not answered yet."""


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


async def cancel_stages(
    task_id: str,
    *,
    url: str,
    token: Token = None,
    reason: str | None = None,
    timeout_seconds: float = REQUEST_SECONDS,
    timing: Timing | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[CancelState, None]:
    """Ask that a task be cancelled, and yield each stage that the request reaches, once, in order.

    The first is what the gateway has committed: `recorded`, or what an earlier request has come to. The last is
    `honoured`, `forced` (nobody has answered in time), `refused` (the work goes on) or `too_late` (the task ended
    first). `timeout_seconds` is for the first; the gateway sees to it that the last comes, and `asyncio.timeout`
    bounds all.

    Errors are those of `Watcher.cancel` and `Watcher.subscribe`.
    """
    async with Watcher(url, token=token, timing=timing, tls=tls) as watcher:
        receipt = await watcher.cancel(task_id, reason=reason, timeout_seconds=timeout_seconds)
        state = receipt.cancel
        if state is None:
            raise AssertionError("the gateway acknowledged a cancel without its stage")
        yield state
        if state.stage not in OPEN_STAGES or state.seq is None:
            return
        async with contextlib.aclosing(watcher.subscribe(task_id)) as head:
            epoch = (await anext(head)).cursor.epoch
        stages = watcher.subscribe(task_id, after=Cursor(epoch, state.seq))
        async with contextlib.aclosing(stages):
            async for change in stages:
                if change.cancel is None or change.cancel.stage == state.stage:
                    continue
                state = change.cancel
                yield state
                if state.stage not in OPEN_STAGES:
                    return
