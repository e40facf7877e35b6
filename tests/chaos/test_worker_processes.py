"""Worker processes are killed, replaced and stopped under load: nothing acknowledged is lost, no stream is wrong."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import Any

from tests.chaos.test_gateway_kills import Count, Subscriber, Worker, agree
from tests.support.gateway import GatewayProcess
from tests.support.postgres import read_ledger
from tests.support.waiting import eventually

PROCESSES = 3
WORKERS = 6
SUBSCRIBERS = 6
KILLS = 6
RELOADS = 2
STOPS = 2
DRAIN_SECONDS = 10


class PoliteWorker(Worker):
    """Goes where it is told to: a `bye` ends the connection, and what has no answer is sent again on the next one."""

    def __init__(self, gateway: GatewayProcess, number: int, rng: random.Random, acks: Count) -> None:
        super().__init__(gateway, number, rng, acks)
        self.hints: list[int] = []
        self.put_off = 0

    async def _hear(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "bye":
            assert frame["reason"] == "shutting_down", frame
            self.hints.append(frame["retry_after_ms"])
            raise ConnectionResetError("come again")
        if frame["type"] == "reply" and not frame["ok"] and frame["error"]["code"] == "unavailable":
            self.put_off += 1
            return  # the process goes: its `bye` is on the way
        await super()._hear(frame)


def happened(gateway: GatewayProcess, event: str) -> int:
    """How often the log holds this event."""
    return sum(entry["event"] == event for entry in gateway.log)


def newest(gateway: GatewayProcess) -> dict[int, int]:
    """The pid of each place's newest process."""
    return {entry["process"]: entry["pid"] for entry in gateway.log if entry["event"] == "process_ready"}


async def test_processes_come_and_go_under_load(database: str, seed: int) -> None:
    """After kills of single processes, rolling reloads and whole stops, ledger, acknowledgements and streams agree."""
    rng = random.Random(seed)
    acks = Count()
    environment = {"LEDGERWIRE_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    async with GatewayProcess(database, "--workers", str(PROCESSES), environment=environment) as gateway:
        workers = [PoliteWorker(gateway, number, random.Random(rng.random()), acks) for number in range(WORKERS)]
        tasks = [task_id for worker in workers for task_id in worker.tasks]
        subscribers = [Subscriber(gateway, rng.sample(tasks, k=6)) for _ in range(SUBSCRIBERS)]
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(worker.run()) for worker in workers]
            watching = [group.create_task(subscriber.run()) for subscriber in subscribers]
            for event in rng.sample(
                ["kill"] * KILLS + ["reload"] * RELOADS + ["stop"] * STOPS, k=KILLS + RELOADS + STOPS
            ):
                await acks.reach(acks.value + rng.randrange(1, 200))
                if event == "kill":
                    number, before = rng.choice(list(newest(gateway).items()))
                    os.kill(before, signal.SIGKILL)
                    await eventually(lambda n=number, was=before: newest(gateway)[n] != was, within_seconds=30)  # type: ignore[misc]
                elif event == "reload":
                    before = happened(gateway, "reloaded")
                    gateway.signal(signal.SIGHUP)
                    await eventually(lambda was=before: happened(gateway, "reloaded") > was, within_seconds=60)  # type: ignore[misc]
                else:
                    assert await gateway.stop() == 0
                    await gateway.start()
            await acks.reach(acks.value + 100)
            for worker in workers:
                worker.stopping = True
            await asyncio.gather(*running)
            await asyncio.gather(*(worker.finish() for worker in workers))
            async with asyncio.timeout(30):
                await asyncio.gather(*(subscriber.ended.wait() for subscriber in subscribers))
            await asyncio.gather(*watching)

    acknowledged = {key: seq for worker in workers for key, seq in worker.acknowledged.items()}
    hints = [hint for worker in workers for hint in worker.hints]
    print(  # noqa: T201 - shown with -s and on failure
        f"kills={KILLS} reloads={RELOADS} stops={STOPS} acknowledged={len(acknowledged)} byes={len(hints)}"
        f" put_off={sum(worker.put_off for worker in workers)} resent={sum(worker.resent for worker in workers)}"
        f" resumed={sum(subscriber.resumed for subscriber in subscribers)}"
    )
    assert happened(gateway, "process_ended") >= KILLS
    assert happened(gateway, "process_killed") == 0
    assert len(acknowledged) >= 500
    assert len(hints) >= WORKERS * STOPS / 2
    assert all(0 <= hint <= 1000 * DRAIN_SECONDS for hint in hints)
    assert len(set(hints)) > 1
    agree(await read_ledger(database), acknowledged, subscribers)
