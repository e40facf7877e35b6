"""The demo without a person: one real job, a gateway killed in the middle, the stream held against the ledger.

Uses what any user has: `POST /jobs` of the example, the Python client, the gateway's HTTP side. Bounded in
time by its caller.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

import ledgerwire
from scripts.stage.agreement import Row, disagreements
from scripts.stage.supervisor import Stage, StageError

KILL_AT_PERCENT = 45.0
PAGE_TRANSITIONS = 50  # small, so that the ledger is read in several pages


@dataclass(slots=True)
class Seen:
    """What the watcher was shown."""

    rows: list[Row] = field(default_factory=list)
    before_kill: int = 0
    silent_seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    jumps: list[str] = field(default_factory=list)

    @property
    def after_kill(self) -> int:
        """Transitions that came after the gateway was killed."""
        return len(self.rows) - self.before_kill


async def rehearse(stage: Stage, say: Callable[[str], None]) -> list[str]:
    """Play it once: what differed, in sentences, none when all is as promised. Raises StageError."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with session.post(f"{stage.plan.page_url}jobs", json={}) as response:
            task_id = (await response.json())["task_id"]
        say(f"job {task_id} was started over POST /jobs")
        seen = await watch(stage, task_id, await epoch_of(session, stage, task_id), say)
        stored = await read_ledger(session, stage, task_id)
    wrong = [*seen.jumps, *disagreements(seen.rows, stored)]
    if not seen.before_kill or not seen.after_kill:
        wrong.append("The gateway was not killed in the middle of the job.")
    if seen.rows and seen.rows[-1].status != "completed":
        wrong.append(f"The job ended as {seen.rows[-1].status}.")
    say(f"{seen.before_kill} transitions before the kill, {seen.after_kill} after it")
    if stage.away_seconds is not None:
        silent = f"the stream was silent for {seen.silent_seconds:.1f} s"
        say(f"the gateway was away for {stage.away_seconds:.1f} s, {silent}")
    if seen.result:
        figures = "{files:,} files, {lines:,} lines, {functions:,} functions in {seconds:.1f} s"
        say(f"result: {figures.format(**seen.result)}")
    say(f"stream: {extent(seen.rows)}; ledger: {extent(stored)}")
    return wrong


async def watch(stage: Stage, task_id: str, epoch: str, say: Callable[[str], None]) -> Seen:
    """Follow the task from its first transition to its end, and kill the gateway about half-way."""
    seen = Seen()
    killed_at: float | None = None
    start = ledgerwire.Cursor(epoch, 0)
    async with contextlib.aclosing(ledgerwire.watch(task_id, url=stage.plan.gateway_url, after=start)) as changes:
        async for change in changes:
            if not isinstance(change, ledgerwire.Transition):
                seen.jumps.append(f"The stream jumped to sequence {change.seq} ({type(change).__name__}).")
            row = Row(seq=change.seq, status=change.status, progress=change.progress, stage=change.stage)
            seen.rows.append(row)
            if killed_at is not None and not seen.silent_seconds:
                seen.silent_seconds = time.monotonic() - killed_at
                say(f"the stream goes on at sequence {change.seq}, {change.progress or 0:.0f} %")
            if killed_at is None and (change.progress or 0) >= KILL_AT_PERCENT and not change.status.terminal:
                say(f"sequence {change.seq}, {change.progress:.0f} %: killing the gateway, pid {stage.gateway_pid}")
                stage.kill_gateway()
                killed_at = time.monotonic()
                seen.before_kill = len(seen.rows)
            if change.status is ledgerwire.Status.COMPLETED:
                seen.result = change.result
    if killed_at is not None:
        await stage.gateway_back()
    return seen


async def epoch_of(session: aiohttp.ClientSession, stage: Stage, task_id: str) -> str:
    """The epoch of the ledger, for a cursor at the beginning of the task."""
    async with session.get(f"{stage.plan.http_url}/v1/tasks/{task_id}/transitions", params={"limit": "1"}) as response:
        return str((await response.json())["epoch"])


async def read_ledger(session: aiohttp.ClientSession, stage: Stage, task_id: str) -> list[Row]:
    """Every transition that the ledger holds, page by page."""
    rows: list[Row] = []
    while True:
        after = rows[-1].seq if rows else 0
        url = f"{stage.plan.http_url}/v1/tasks/{task_id}/transitions"
        async with session.get(url, params={"after": str(after), "limit": str(PAGE_TRANSITIONS)}) as response:
            page = await response.json()
        rows += [Row.of(transition) for transition in page["transitions"]]
        if not page["more"]:
            return rows
        if not page["transitions"]:
            raise StageError("The ledger says that there are more transitions, and gives none.")


def extent(rows: list[Row]) -> str:
    """`1 – 103, 103 transitions`."""
    return f"{rows[0].seq} – {rows[-1].seq}, {len(rows)} transitions" if rows else "nothing"
