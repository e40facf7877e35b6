"""Each scenario on every client at once: all are shown exactly the ledger's stream, or told in words that it jumped."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.e2e.platforms import TENTH, Chromium, MiniProgram, Node, Platform, Python
from tests.e2e.scenarios import GATEWAY, SCENARIOS, Step
from tests.support.gateway import Gateway, GatewayProcess, in_process
from tests.support.javascript import built
from tests.support.postgres import Cluster, temporary_database
from tests.support.streams import assert_stream
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

PING_SECONDS: Final = 1.0
ENVIRONMENT: Final = {"LEDGERWIRE_DRAIN_SECONDS": "0.5", "LEDGERWIRE_PING_INTERVAL_SECONDS": str(PING_SECONDS)}


@pytest.fixture(scope="module", autouse=True)
def package() -> None:
    """The JavaScript client, built before anything waits for it."""
    built()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cluster: Cluster) -> AsyncIterator[Gateway]:
    """A gateway that stays."""
    async with temporary_database(cluster) as dsn, in_process(dsn, ping_interval_seconds=PING_SECONDS) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def processes(cluster: Cluster) -> AsyncIterator[GatewayProcess]:
    """A gateway of two processes, to be killed."""
    async with temporary_database(cluster) as dsn:
        async with GatewayProcess(dsn, "--workers", "2", environment=ENVIRONMENT) as running:
            yield running


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_client_is_shown_the_ledger(name: str, gateway: Gateway, browser: Browser, tmp_path: Path) -> None:
    """Whatever happens to it, its link and its device."""
    async with clients(gateway, browser, tmp_path) as those:
        await Stage(name, gateway, those).play(SCENARIOS[name])


@pytest.mark.parametrize("name", GATEWAY)
async def test_every_client_survives_its_gateway(
    name: str, processes: GatewayProcess, browser: Browser, tmp_path: Path
) -> None:
    """Killed, or replaced process by process."""
    async with clients(processes, browser, tmp_path) as those:
        await Stage(name, processes, those).play(GATEWAY[name])


@asynccontextmanager
async def clients(gateway: Gateway, browser: Browser, folder: Path) -> AsyncIterator[list[Platform]]:
    """One of each kind."""
    port = gateway.port
    async with AsyncExitStack() as stack:
        made: list[Platform] = [MiniProgram(port), Chromium(port, browser), Node(port, folder), Python(port, folder)]
        yield [await stack.enter_async_context(platform) for platform in made]


class Stage:
    """A task, its worker, and those who watch it."""

    def __init__(self, name: str, gateway: Gateway, platforms: list[Platform]) -> None:
        self.task_id = "".join(letter if letter.isalnum() else "-" for letter in name)
        self.gateway = gateway
        self.platforms = platforms
        self.seq = 0
        self._marks = {platform.name: 0 for platform in platforms}

    async def play(self, steps: list[Step]) -> None:
        await self.each(lambda platform: platform.watch(self.task_id))
        for do, value in steps:
            await self.step(do, value)
        await self.each(self.verdict)

    async def each(self, act: Callable[[Platform], Awaitable[Any]]) -> None:
        """All of them at once."""
        async with asyncio.TaskGroup() as group:
            for platform in self.platforms:
                group.create_task(_awaited(act(platform)), name=platform.name)

    async def step(self, do: str, value: Any) -> None:  # noqa: PLR0912 - one line for each word of a scenario
        match do:
            case "report":
                for _ in range(value):
                    await self.report(progress=self.seq % 100)
            case "end":
                await self.report(status="completed", progress=100)
                await self.each(self.sees)
            case "seen":
                await self.each(self.sees)
            case "polled":
                await self.each(lambda platform: self.sees(platform) if platform.polls else _nothing())
            case "state":
                await self.each(lambda platform: self.is_in(platform, value))
            case "background":
                await asyncio.sleep(value * TENTH)
            case "break":
                for platform in self.platforms:
                    platform.door.break_link()
            case "strand":
                for platform in self.platforms:
                    platform.door.link.strand()
            case "shut" | "open":
                for platform in self.platforms:
                    platform.door.shut = do == "shut"
            case "gateway":
                await self.gateway_is(value)
            case "network" | "faults" | "occupy":
                await self.each(lambda platform: getattr(platform, do)(value))
            case _:
                await self.each(lambda platform: getattr(platform, do)())

    async def report(self, **members: Any) -> None:
        """One transition, sent until it is committed."""
        url, headers = (
            f"{self.gateway.http}/v1/tasks/{self.task_id}/transitions",
            {"Idempotency-Key": f"k{self.seq + 1}"},
        )

        async def committed() -> bool:
            try:
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
                    session.post(url, json=members, headers=headers) as answer,
                ):
                    content = await answer.json()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise OSError("the gateway is away") from error
            if answer.status == 503:
                return False
            assert answer.status == 200, content
            self.seq = content["seq"]
            return True

        await eventually(committed, what="a commit")

    async def sees(self, platform: Platform) -> None:
        """It has been shown the newest transition."""
        wanted = self.seq
        await platform.heard.until(lambda event: event.get("seq", 0) >= wanted, f"sequence {wanted}")

    async def is_in(self, platform: Platform, state: str) -> None:
        """It has told this state since the last one that was asked for."""
        if not platform.polls:
            return
        heard, since = platform.heard, self._marks[platform.name]
        event = await heard.until(lambda event: event.get("state") == state, f"the state {state}", since=since)
        self._marks[platform.name] = next(at for at in itertools.count(since) if heard.events[at] is event)

    async def gateway_is(self, what: str) -> None:
        assert isinstance(self.gateway, GatewayProcess)
        gateway = self.gateway
        if what == "kill":
            await gateway.stop(signal.SIGKILL)
        elif what == "start":
            await gateway.start()
        else:
            before = reloads(gateway)
            gateway.signal(signal.SIGHUP)
            await eventually(lambda: reloads(gateway) > before, what="a reload")

    async def verdict(self, platform: Platform) -> None:
        """What it was shown is the ledger's stream."""
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            async with session.get(f"{self.gateway.http}/v1/tasks/{self.task_id}/transitions") as answer:
                ledger = (await answer.json())["transitions"]
        assert len(ledger) == self.seq
        print(platform.name, assert_stream(platform.heard.events, ledger, platform.runs).kinds)  # noqa: T201
        await platform.check()


def reloads(gateway: GatewayProcess) -> int:
    """How often all processes were replaced."""
    return sum(entry["event"] == "reloaded" for entry in gateway.log)


async def _awaited(what: Awaitable[Any]) -> None:
    await what


async def _nothing() -> None:
    pass
