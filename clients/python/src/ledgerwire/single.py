"""For one task, over a connection of its own: to watch it, and to cancel it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator
from typing import Final

from ledgerwire.feed import OnLiveness
from ledgerwire.model import CancelState, Change, Cursor, Receipt
from ledgerwire.settings import Timing
from ledgerwire.token import Token
from ledgerwire.watcher import REQUEST_SECONDS, UNKNOWN_ANSWERS, Watcher
from ledgerwire.watching import Mode

OPEN_STAGES: Final = frozenset({"recorded", "delivered"})
"""Of a cancel that is not answered yet."""


async def watch(
    task_id: str,
    *,
    url: str,
    token: Token = None,
    after: Cursor | None = None,
    wait_seconds: float | None = None,
    unknown_answers: int = UNKNOWN_ANSWERS,
    mode: Mode = "all",
    on_liveness: OnLiveness | None = None,
    timing: Timing | None = None,
) -> AsyncGenerator[Change, None]:
    """Watch one task over a connection of its own. Arguments and errors are those of `Watcher.subscribe`.

    Whoever leaves the loop early closes the connection at once with
    `contextlib.aclosing(ledgerwire.watch(...))`.
    """
    async with Watcher(url, token=token, timing=timing) as watcher:
        changes = watcher.subscribe(
            task_id,
            after=after,
            wait_seconds=wait_seconds,
            unknown_answers=unknown_answers,
            mode=mode,
            on_liveness=on_liveness,
        )
        async with contextlib.aclosing(changes):
            async for change in changes:
                yield change


async def cancel(
    task_id: str,
    *,
    url: str,
    token: Token = None,
    reason: str | None = None,
    timeout_seconds: float = REQUEST_SECONDS,
) -> Receipt:
    """Ask that a task be cancelled, over a connection of its own. Errors are those of `Watcher.cancel`."""
    async with Watcher(url, token=token) as watcher:
        return await watcher.cancel(task_id, reason=reason, timeout_seconds=timeout_seconds)


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
