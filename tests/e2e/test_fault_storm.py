"""Many phones through many random faults, over a gateway that is killed meanwhile: what each was shown is the ledger.

`LEDGERWIRE_STORM=200x30 python3 scripts/dev.py test tests/e2e/test_fault_storm.py` is the whole storm: 200 phones with
30 faults each. `LEDGERWIRE_TEST_SEED` repeats what a run chose, though not the moments at which it met.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from typing import Any, Final

import aiohttp

from tests.e2e.platforms import DEVICE, JS_TIMING
from tests.support.agents import Heard, Host, shim_host
from tests.support.gateway import GatewayProcess
from tests.support.streams import assert_stream
from tests.support.waiting import eventually, pace

PHONES, FAULTS = (int(number) for number in os.environ.get("LEDGERWIRE_STORM", "24x6").split("x"))
PHONES_A_TASK: Final = 10
PAUSE_SECONDS: Final = (0.02, 0.4)
REPORT_SECONDS: Final = 0.1
KILLS: Final = 2
STORM_SECONDS: Final = 300.0
RECOVERS: Final = 0.5
"""How often a phone has got over one fault before the next comes."""
HABITS: Final[dict[str, list[Any]]] = {
    "onSuspend": ["keep", "close", "silent"],
    "closeCode": ["faithful", 1000, 1005, 1006, 0],
    "failure": ["error and close", "close", "error"],
    "loseClose": [False, True],
    "lateMs": [0, 0, 25],
    "sockets": [5, 2],
    "autoPong": [True, False],
    "slowPromises": [False, True],
    "closeBeforeOpen": [False, True],
    "storageKeyBytes": [1_048_576, 100],
}
"""What a phone may be like; it changes from fault to fault."""
TROUBLES: Final = ("hide", "kill", "network", "none", "strand", "hole", "mute", "hide and kill")


class Phone:
    """One mini-program on its way through its faults."""

    def __init__(self, who: int, task_id: str, host: Host, url: str, dice: random.Random) -> None:
        self.who = who
        self.task_id = task_id
        self.heard: Heard = host.heard(who)
        self.runs: list[int] = []
        self.troubles: Counter[str] = Counter()
        self._host = host
        self._url = url
        self._dice = dice
        self._end = asyncio.Event()

    async def live(self) -> None:
        """All of its faults, and then nothing but peace."""
        await self._host.say(who=self.who, do="start", options={"url": self._url, "timing": JS_TIMING}, faults=DEVICE)
        await self._watch()
        for _ in range(FAULTS):
            if self._dice.random() < RECOVERS:
                since = len(self.heard.events)
                await self.heard.until(lambda event: "seq" in event, "anything new", since=since)
            else:
                await self._pause()
            habits = {name: self._dice.choice(choices) for name, choices in HABITS.items()}
            await self._do("fault", faults=habits)
            trouble = self._dice.choice(TROUBLES)
            self.troubles[trouble] += 1
            await self._suffer(trouble)
        await self._do("fault", faults={name: choices[0] for name, choices in HABITS.items()})

    async def counts(self) -> dict[str, Any]:
        return await self._host.ask(who=self.who, do="counts")

    async def _suffer(self, trouble: str) -> None:
        match trouble:
            case "hide":
                await self._do("hide")
                await self._pause(4)
                await self._do("show")
            case "kill" | "hide and kill":
                if trouble == "hide and kill":
                    await self._do("hide")
                await self._do("kill")
                await self._pause()
                self.runs.append(len(self.heard.events))
                await self._do("launch")
                await self._watch()
            case "network":
                await self._do("network", type=self._dice.choice(["wifi", "4g", "5g"]))
            case "none":
                await self._do("network", type="none")
                await self._pause()
                await self._do("network", type="wifi")
            case "strand":
                await self._do("strand")
            case "hole":
                await self._do("hole", on=True)
                await self._pause(3)
                await self._do("hole", on=False)
            case "mute":
                await self._do("fault", faults={"muteConnect": True})
                await self._do("network", type="4g")
                await self._pause(3)
                await self._do("fault", faults={"muteConnect": False})

    async def _watch(self) -> None:
        await self._host.say(who=self.who, do="watch", task_id=self.task_id, wait_ms=60_000)

    async def _do(self, do: str, **command: Any) -> None:
        await self._host.ask(who=self.who, do=do, **command)

    async def _pause(self, times: float = 1) -> None:
        await pace(self._end, self._dice.uniform(*PAUSE_SECONDS) * times)


async def test_all_phones_are_shown_the_ledger_whatever_happens_to_them(database: str, seed: int) -> None:
    """To its end; with one socket at most, nothing sent in the background, and nothing thrown into nobody's hands."""
    dice = random.Random(seed)
    environment = {"LEDGERWIRE_PING_INTERVAL_SECONDS": "2", "LEDGERWIRE_DRAIN_SECONDS": "0.5"}
    async with GatewayProcess(database, environment=environment) as gateway, shim_host() as host:
        tasks = [f"storm-{number}" for number in range(-(-PHONES // PHONES_A_TASK))]
        phones = [
            Phone(who, dice.choice(tasks), host, gateway.ws, random.Random(dice.random())) for who in range(PHONES)
        ]
        over = asyncio.Event()
        working = asyncio.create_task(work(gateway, tasks, over))
        living = asyncio.gather(*(phone.live() for phone in phones))
        for kill in range(KILLS):
            due = PHONES * FAULTS * (kill + 1) // (KILLS + 1)
            await eventually(lambda due=due: suffered(phones).total() >= due, within_seconds=STORM_SECONDS)  # type: ignore[misc]
            await gateway.stop(signal.SIGKILL)
            await gateway.start()
        await living
        over.set()
        await working
        ledgers = {task_id: await ledger_of(gateway, task_id) for task_id in tasks}
        kinds: Counter[str] = Counter()
        for phone in phones:
            ledger = ledgers[phone.task_id]
            what = f"sequence {len(ledger)} of {phone.task_id}"
            await phone.heard.until(lambda event, ledger=ledger: event.get("seq") == len(ledger), what)  # type: ignore[misc]
            kinds.update(assert_stream(phone.heard.events, ledger, phone.runs).kinds)
            counts = await phone.counts()
            assert counts["mostSockets"] == 1, counts
            assert counts["inBackground"] == [], counts
            assert counts["errors"] == [], counts
    troubles = suffered(phones)
    print(f"{PHONES} phones: {dict(troubles)}, shown {dict(kinds)}")  # noqa: T201 - what it did, with a failure or -s
    assert troubles.total() == PHONES * FAULTS
    assert kinds["transition"] > PHONES


def suffered(phones: list[Phone]) -> Counter[str]:
    """What all phones have gone through."""
    return sum((phone.troubles for phone in phones), Counter[str]())


async def work(gateway: GatewayProcess, tasks: list[str], over: asyncio.Event) -> None:
    """Report on all tasks in turn until it is over, then end them."""
    numbers: Counter[str] = Counter()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:

        async def report(task_id: str, **members: Any) -> None:
            numbers[task_id] += 1
            url = f"{gateway.http}/v1/tasks/{task_id}/transitions"
            body = {"attempt": 1, "n": numbers[task_id], **members}

            async def committed() -> bool:
                try:
                    async with session.post(url, json=body) as answer:
                        return answer.status == 200
                except (aiohttp.ClientError, TimeoutError) as error:
                    raise OSError("the gateway is away") from error

            await eventually(committed, what="a commit")

        while not await pace(over, REPORT_SECONDS):
            for task_id in tasks:
                await report(task_id, progress=numbers[task_id] % 100)
        for task_id in tasks:
            await report(task_id, status="completed")


async def ledger_of(gateway: GatewayProcess, task_id: str) -> list[dict[str, Any]]:
    """All transitions of a task."""
    rows: list[dict[str, Any]] = []
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        while True:
            url = f"{gateway.http}/v1/tasks/{task_id}/transitions?after={len(rows)}"
            async with session.get(url) as answer:
                page = await answer.json()
            rows += page["transitions"]
            if not page["more"]:
                return rows
