"""50 workers are killed with SIGKILL beside 50 that live on: each of theirs is late and then lost, once; no other is.

The workers that are killed are processes of their own that report over plain HTTP with the standard library alone: any
program can be such a worker. All times are the ledger's own.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from tests.support.gateway import GatewayProcess, Peer
from tests.support.postgres import read_ledger
from tests.support.waiting import WAIT_SECONDS, eventually, pace

KILLED = 50
REPORTING = 25  # live on, with reports
BEATING = 25  # live on, with beats alone
LEASE_SECONDS = 2.0
GRACE_SECONDS = 4.0
INTERVAL_SECONDS = 0.4
PROMISED_SECONDS = 2.0  # after lease and grace, on a machine that is not short of breath
GENEROUS_SECONDS = 10.0
LEASES = {
    "LEDGERWIRE_LEASE_SECONDS": str(LEASE_SECONDS),
    "LEDGERWIRE_LEASE_GRACE_SECONDS": str(GRACE_SECONDS),
}


class Victim:
    """A worker process, and the numbers that were acknowledged to it."""

    def __init__(self, task_id: str, process: asyncio.subprocess.Process) -> None:
        self.task_id = task_id
        self.acknowledged = 0
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, port: int, task_id: str) -> Victim:
        program = Path(__file__).with_name("plain_worker.py")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            program,
            str(port),
            task_id,
            str(INTERVAL_SECONDS),
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(task_id, process)

    async def kill(self) -> int:
        """SIGKILL; the exit status, when all it had printed is read."""
        if self._process.returncode is None:
            self._process.kill()
        async with asyncio.timeout(WAIT_SECONDS):
            await self._reading
            return await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.acknowledged = int(line)


@asynccontextmanager
async def victims(port: int, names: Iterable[str]) -> AsyncIterator[list[Victim]]:
    """So many worker processes, none of which outlives the block."""
    started: list[Victim] = []
    try:
        for name in names:
            started.append(await Victim.start(port, name))  # noqa: PERF401 - what has started is ended in any case
        yield started
    finally:
        await asyncio.gather(*(victim.kill() for victim in started))


class Watcher:
    """Watches all tasks and notes what is said of the workers: late or live, and how a task ended."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self.said: dict[str, list[str]] = defaultdict(list)

    async def run(self, peer: Peer) -> None:
        await peer.send(type="subscribe", id=1, tasks=[{"task_id": name} for name in self._names], wait_ms=60_000)
        while True:
            frame = await peer.receive(seconds=60)
            match frame["type"]:
                case "liveness":
                    self.said[frame["task_id"]].append(frame["liveness"])
                case "transition" if frame["status"] != "running":
                    self.said[frame["task_id"]].append(frame["status"])

    def ended(self, names: Iterable[str]) -> int:
        return sum(self.said[name][-1:] == ["lost"] for name in names)


async def report_on(session: ClientSession, gateway: GatewayProcess, name: str, stop: asyncio.Event) -> None:
    """A worker that lives on by reports, to its end."""
    for n in itertools.count(1):
        over = stop.is_set()
        body: dict[str, Any] = {"attempt": 1, "n": n, "status": "completed" if over else "running", "progress": n % 100}
        async with session.post(f"{gateway.http}/v1/tasks/{name}/transitions", json=body) as answer:
            assert answer.status == 200, await answer.text()
        if over:
            return
        await pace(stop, INTERVAL_SECONDS)


async def beat_on(peer: Peer, names: list[str], stop: asyncio.Event) -> None:
    """A worker that lives on by beats alone, to its end."""

    async def say_of_all(**members: Any) -> None:
        await peer.send_many(
            [{"type": "report", "id": name, "task_id": name, "attempt": 1, **members} for name in names]
        )
        for _ in names:
            await peer.expect("reply", ok=True)

    await say_of_all(n=1)
    while not stop.is_set():
        await peer.send(type="beat", task_ids=names)
        await pace(stop, INTERVAL_SECONDS)
    await say_of_all(n=2, status="completed")


async def test_killed_workers_are_late_and_lost_once_and_nobody_else_is(database: str, seed: int) -> None:
    """Late, then lost, once each, within lease and grace; what they had reported is kept; the living end well."""
    dice = random.Random(seed)
    killed = [f"killed-{number}" for number in range(KILLED)]
    reporting = [f"reporting-{number}" for number in range(REPORTING)]
    beating = [f"beating-{number}" for number in range(BEATING)]
    watcher, stop = Watcher([*killed, *reporting, *beating]), asyncio.Event()
    async with (
        GatewayProcess(database, environment=LEASES) as gateway,
        gateway.client() as eyes,
        gateway.client() as hands,
        ClientSession() as session,
        asyncio.TaskGroup() as group,
    ):
        watching = group.create_task(watcher.run(eyes))
        living = [group.create_task(report_on(session, gateway, name, stop)) for name in reporting]
        living.append(group.create_task(beat_on(hands, beating, stop)))
        async with victims(gateway.port, killed) as workers:
            await eventually(lambda: min(worker.acknowledged for worker in workers) >= 3)
            dice.shuffle(workers)
            for worker in workers:
                await asyncio.sleep(dice.uniform(0, 0.02))  # at any point of a report
                assert await worker.kill() == -signal.SIGKILL
            await eventually(lambda: watcher.ended(killed) == KILLED)
        stop.set()
        await asyncio.gather(*living)
        watching.cancel()

    rows = await read_ledger(database)
    silent = {name: rows[name][-1]["at"] - rows[name][-2]["at"] for name in killed}
    over = [seconds.total_seconds() - LEASE_SECONDS - GRACE_SECONDS for seconds in silent.values()]
    within = sum(seconds <= PROMISED_SECONDS for seconds in over)
    acknowledged = sum(worker.acknowledged for worker in workers)
    print(  # noqa: T201 - shown with -s and on failure
        f"killed={KILLED} acknowledged={acknowledged} lost {min(over):.3f} to {max(over):.3f} s after lease and grace,"
        f" {within} of {KILLED} within {PROMISED_SECONDS:g} s"
    )
    assert acknowledged >= 3 * KILLED
    for worker in workers:
        steps = rows[worker.task_id]
        assert [step["seq"] for step in steps] == list(range(1, len(steps) + 1))
        assert Counter(step["status"] for step in steps) == {"running": len(steps) - 1, "lost": 1}
        assert steps[-1]["status"] == "lost"
        assert worker.acknowledged <= steps[-2]["n"] <= worker.acknowledged + 1, "what was acknowledged is kept"
        assert watcher.said[worker.task_id][-2:] == ["late", "lost"]
        assert watcher.said[worker.task_id].count("lost") == 1
    assert min(over) >= 0
    assert max(over) <= GENEROUS_SECONDS
    for name in (*reporting, *beating):
        assert rows[name][-1]["status"] == "completed"
        assert "lost" not in watcher.said[name]
