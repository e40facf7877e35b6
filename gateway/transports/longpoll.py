"""Waiting for a task over plain HTTP: answer as soon as it has passed a sequence, or when the time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.hub import Hub
from gateway.protocol.burst import Burst
from gateway.topics import BEGUN_ANEW, STOPPING
from ledger.machine import TERMINAL
from ledger.model import Head, Key, Task, task_key
from ledger.reader import Reader


class _Bell:
    """Watches a task and only rings: when it has passed a sequence or ended, or to wait longer is of no use."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.rung = asyncio.Event()
        self.over = False

    def deliver(self, burst: Burst) -> None:
        if burst.last > self._after or burst.ended:
            self.rung.set()

    def see(self, key: Key, head: Head) -> None:
        pass  # no reason to answer

    def notice(self, kind: str) -> None:
        if kind in {STOPPING, BEGUN_ANEW}:
            self.give_up()

    def give_up(self) -> None:
        self.over = True
        self.rung.set()


async def wait_for(
    hub: Hub,
    reader: Reader,
    tenant: str,
    task_id: str,
    *,
    after: int,
    seconds: float,
    granted: Callable[[Task | None], Task | None],
) -> Task | None:
    """The task once its sequence is beyond `after` or it has ended, or as it is after `seconds`; None: unknown still.

    `granted` gives None for a task that is not: it is waited for like one that is not there.
    The hub rings first, then the ledger is read, so nothing falls in between. Raises `Unavailable`.
    """
    key = task_key(tenant, task_id)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    bell = _Bell(after)
    hub.join(bell)
    hub.watch(key, bell)
    try:
        while True:
            bell.rung.clear()
            task = await reader.task(tenant, task_id)
            hub.seen(key, None if task is None else task.head)
            task = granted(task)
            if (task is not None and (task.seq > after or task.status in TERMINAL)) or bell.over:
                return task
            if loop.time() >= deadline:
                return task
            try:
                async with asyncio.timeout_at(deadline):
                    await bell.rung.wait()
            except TimeoutError:
                pass
    finally:
        hub.unwatch(key, bell)
        hub.leave(bell)
