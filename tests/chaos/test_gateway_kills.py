"""The gateway is killed with SIGKILL, again and again, under load: nothing acknowledged is lost, no stream is wrong.

The workers and subscribers here speak the protocol by hand, so that no fault of a client library can hide one of the
server, or the other way round.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from typing import Any

import asyncpg
from websockets.exceptions import ConnectionClosed, InvalidMessage

from tests.support.gateway import GatewayProcess, Peer
from tests.support.postgres import read_ledger
from tests.support.waiting import WAIT_SECONDS, pace

KILLS = 20
WORKERS = 8
SUBSCRIBERS = 12
TASKS_PER_WORKER = 3
WINDOW = 16  # reports in flight per worker
LOST_CONNECTION = (ConnectionClosed, InvalidMessage, OSError, TimeoutError)


class Count:
    """What has happened so far, for tests that wait for it."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = asyncio.Condition()

    async def add(self) -> None:
        async with self._changed:
            self.value += 1
            self._changed.notify_all()

    async def reach(self, value: int) -> None:
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: self.value >= value)


class Worker:
    """Reports on its tasks, numbered; what was not acknowledged is sent again after a break, in order."""

    def __init__(self, gateway: GatewayProcess, number: int, rng: random.Random, acks: Count) -> None:
        self._gateway = gateway
        self._rng = rng
        self._acks = acks
        self.tasks = [f"task-{number}-{i}" for i in range(TASKS_PER_WORKER)]
        self._n = dict.fromkeys(self.tasks, 0)
        self._unacknowledged: dict[int, dict[str, Any]] = {}
        self._id = 0
        self.acknowledged: dict[tuple[str, int], int] = {}
        self.resent = 0
        self.stopping = False

    async def run(self) -> None:
        while not self.stopping or self._unacknowledged:
            try:
                async with self._gateway.client(open_timeout=5, close_timeout=1) as peer:
                    await self._converse(peer)
            except LOST_CONNECTION:
                await asyncio.sleep(self._rng.uniform(0.01, 0.1))  # a client's back-off, not a wait for luck

    async def finish(self) -> None:
        """End the tasks, after `run` has ended."""
        async with self._gateway.client() as peer:
            for task_id in self.tasks:
                self._new_report(task_id, status="completed", progress=100)
            await self._resend(peer)
            while self._unacknowledged:
                await self._hear(await peer.receive())

    async def _converse(self, peer: Peer) -> None:
        await self._resend(peer)
        while not self.stopping or self._unacknowledged:
            while not self.stopping and len(self._unacknowledged) < WINDOW:
                task_id = self._rng.choice(self.tasks)
                await peer.send(**self._new_report(task_id, progress=self._rng.randrange(100)))
            await self._hear(await peer.receive())

    def _new_report(self, task_id: str, **members: Any) -> dict[str, Any]:
        self._n[task_id] += 1
        self._id += 1
        report = {"type": "report", "id": self._id, "task_id": task_id, "attempt": 1, "n": self._n[task_id], **members}
        self._unacknowledged[self._id] = report
        return report

    async def _resend(self, peer: Peer) -> None:
        for report in list(self._unacknowledged.values()):
            self.resent += 1
            await peer.send(**report)

    async def _hear(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "notice":
            return
        assert frame["type"] == "reply", frame
        if not frame["ok"]:
            # While one is answered "retry", a later one may have been accepted: begin again from the first.
            assert frame["error"]["retryable"], f"a report was refused: {frame}"
            raise ConnectionResetError("send all again")
        report = self._unacknowledged.pop(frame["id"], None)
        if report is not None:
            known = self.acknowledged.setdefault((report["task_id"], report["n"]), frame["seq"])
            assert known == frame["seq"], "the same report was given two places"
            await self._acks.add()


class Subscriber:
    """Watches some tasks; goes on from its cursor after every break; a gap, a repeat or a disorder is a failure."""

    def __init__(self, gateway: GatewayProcess, tasks: list[str]) -> None:
        self._gateway = gateway
        self.seen: dict[str, list[tuple[int, str, float | None]]] = {task_id: [] for task_id in tasks}
        self._epoch = ""
        self.wrong: list[str] = []
        self.resumed = 0
        self.ended = asyncio.Event()

    async def run(self) -> None:
        while not self.ended.is_set():
            try:
                async with self._gateway.client(open_timeout=5, close_timeout=1) as peer:
                    await self._converse(peer)
            except LOST_CONNECTION:
                await pace(self.ended, 0.02)  # its back-off

    async def _converse(self, peer: Peer) -> None:
        self._epoch = peer.epoch
        tasks: list[dict[str, Any]] = [
            {"task_id": task_id, "after": {"epoch": self._epoch, "seq": len(seen)}}
            for task_id, seen in self.seen.items()
        ]
        await peer.send(type="subscribe", id=1, tasks=tasks, wait_ms=60_000)
        while not self.ended.is_set():
            frame = await peer.receive(seconds=60)
            match frame["type"]:
                case "transition":
                    self._note(frame)
                case "subscribed":
                    self.resumed += frame["recovered"] and bool(self.seen[frame["task_id"]])
                    if not frame["recovered"]:
                        self.wrong.append(f"not recovered: {frame}")
                case "snapshot" | "notice":
                    if frame.get("kind") not in {"degraded", "restored"}:
                        self.wrong.append(f"not asked for: {frame}")

    def _note(self, frame: dict[str, Any]) -> None:
        seen = self.seen[frame["task_id"]]
        if frame["seq"] != len(seen) + 1:
            self.wrong.append(f"{frame['task_id']}: {frame['seq']} after {len(seen)}")
        seen.append((frame["seq"], frame["status"], frame["progress"]))
        if all(seen and seen[-1][1] == "completed" for seen in self.seen.values()):
            self.ended.set()


def agree(
    ledger: dict[str, list[asyncpg.Record]], acknowledged: dict[tuple[str, int], int], subscribers: Sequence[Subscriber]
) -> None:
    """No hole, nothing twice, all that was acknowledged, and every stream is the ledger's."""
    for subscriber in subscribers:
        assert subscriber.wrong == []
    for task_id, rows in ledger.items():
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1)), f"{task_id} has a hole"
        numbers = [row["n"] for row in rows]
        assert len(set(numbers)) == len(numbers), f"{task_id} has a report twice"
    for (task_id, n), seq in acknowledged.items():
        assert ledger[task_id][seq - 1]["n"] == n, f"{task_id} n={n} was acknowledged at {seq} and is not there"
    for subscriber in subscribers:
        for task_id, seen in subscriber.seen.items():
            assert seen == [(row["seq"], row["status"], row["progress"]) for row in ledger[task_id]]


async def test_sigkill_under_load_loses_nothing(database: str, seed: int) -> None:
    """After 20 SIGKILLs at random points, ledger, acknowledgements and every subscriber's stream agree."""
    rng = random.Random(seed)
    acks = Count()
    async with GatewayProcess(database) as gateway:
        workers = [Worker(gateway, number, random.Random(rng.random()), acks) for number in range(WORKERS)]
        tasks = [task_id for worker in workers for task_id in worker.tasks]
        subscribers = [Subscriber(gateway, rng.sample(tasks, k=8)) for _ in range(SUBSCRIBERS)]
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(worker.run()) for worker in workers]
            watching = [group.create_task(subscriber.run()) for subscriber in subscribers]
            for _ in range(KILLS):
                await acks.reach(acks.value + rng.randrange(1, 400))
                await gateway.stop(signal.SIGKILL)
                await gateway.start()
            await acks.reach(acks.value + 100)
            for worker in workers:
                worker.stopping = True
            await asyncio.gather(*running)
            await asyncio.gather(*(worker.finish() for worker in workers))
            last_ack = time.monotonic()
            async with asyncio.timeout(WAIT_SECONDS):
                await asyncio.gather(*(subscriber.ended.wait() for subscriber in subscribers))
            converged = time.monotonic() - last_ack
            await asyncio.gather(*watching)

    acknowledged = {key: seq for worker in workers for key, seq in worker.acknowledged.items()}
    resent, resumed = sum(worker.resent for worker in workers), sum(subscriber.resumed for subscriber in subscribers)
    print(  # noqa: T201 - shown with -s and on failure
        f"kills={KILLS} acknowledged={len(acknowledged)} resent={resent} resumed={resumed} converged={converged:.3f}s"
    )
    assert gateway.starts == KILLS + 1
    assert len(acknowledged) >= 1_000
    assert resent >= KILLS
    assert resumed >= KILLS
    agree(await read_ledger(database), acknowledged, subscribers)
