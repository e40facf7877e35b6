"""Clients under test: each a process (or a page) of its own that is told what to do and tells what it is shown.

They all take the same commands and tell the same events; tests/vectors/README.md names them.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import orjson

from tests.support.gateway import ROOT
from tests.support.javascript import built, node
from tests.support.waiting import WAIT_SECONDS

Event: TypeAlias = dict[str, Any]
LINE_BYTES: Final = 1 << 20
SCENARIOS: Final = ROOT / "clients" / "js" / "test" / "scenarios"


class Heard:
    """What an agent has told, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        self.ended: str | None = None
        self._news = asyncio.Event()
        self._taken = 0

    def add(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def end(self, why: str) -> None:
        """It will tell nothing more."""
        self.ended = why
        self._news.set()

    async def until(self, wanted: Callable[[Event], bool], what: str = "", *, since: int = 0) -> Event:
        """The first such event, told already or told now."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                for at in itertools.count(since):
                    while at >= len(self.events):
                        assert self.ended is None, f"{self.name} ended: {self.ended}; it told {self.events[-12:]}"
                        self._news.clear()
                        await self._news.wait()
                    if wanted(self.events[at]):
                        return self.events[at]
        except TimeoutError:
            raise AssertionError(f"{self.name} never told {what}; it told {self.events[-30:]}") from None
        raise AssertionError("unreachable")

    async def next(self, kinds: frozenset[str]) -> Event:
        """The next event that has one of these members; those before it are passed over."""
        event = await self.until(lambda event: bool(kinds & event.keys()), f"one of {sorted(kinds)}", since=self._taken)
        self._taken = next(at for at in range(self._taken, len(self.events)) if self.events[at] is event) + 1
        return event

    def rest(self, kinds: frozenset[str]) -> list[Event]:
        """What `next` has not given yet."""
        return [event for event in self.events[self._taken :] if kinds & event.keys()]


class Host:
    """A process that speaks JSON lines, with one agent in it or many (`who`)."""

    def __init__(self, *command: str) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._heard: dict[int, Heard] = {}
        self._answers: dict[int, asyncio.Future[Event]] = {}
        self._asks = itertools.count(1)
        self._last_words = ""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=ROOT,
            limit=LINE_BYTES,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.signal(signal.SIGKILL)
        assert self._reading is not None
        await asyncio.wait_for(self._reading, WAIT_SECONDS)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def heard(self, who: int = 0) -> Heard:
        """What this agent has told."""
        if who not in self._heard:
            self._heard[who] = Heard(f"{self._command[-1].rpartition('/')[2]} {who}")
        return self._heard[who]

    def listen(self, heard: Heard, who: int = 0) -> None:
        """What this agent tells goes there."""
        self._heard[who] = heard

    async def end(self) -> None:
        """As its system would end it: at once, and without a word."""
        assert self._process is not None
        self._heard.clear()
        self.signal(signal.SIGKILL)
        await asyncio.wait_for(self._process.wait(), WAIT_SECONDS)

    def forget(self, who: int = 0) -> None:
        """Another agent will be called that."""
        self._heard.pop(who, None)

    def signal(self, signum: signal.Signals) -> None:
        """To the process, if it is still there."""
        if self.running:
            assert self._process is not None
            self._process.send_signal(signum)

    async def say(self, **command: Any) -> None:
        """A command."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(command) + b"\n")
        await self._process.stdin.drain()

    async def ask(self, **command: Any) -> Event:
        """A command that is answered when it is done."""
        number = next(self._asks)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self.say(ask=number, **command)
        return await asyncio.wait_for(answer, WAIT_SECONDS)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        errors = asyncio.create_task(self._process.stderr.read())
        async for line in self._process.stdout:
            event = orjson.loads(line)
            if "answer" in event:
                self._answers.pop(event["answer"]).set_result(event)
            else:
                self.heard(event.pop("who", 0)).add(event)
        status = await self._process.wait()
        why = f"status {status}, {(await errors).decode(errors='replace')[-2_000:]}"
        for heard in self._heard.values():
            heard.end(why)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AssertionError(why))


def node_host() -> Host:
    """One agent in Node."""
    built()
    return Host(node(), str(SCENARIOS / "node-host.mjs"))


def shim_host() -> Host:
    """Many agents, each in a mini-program on a device of its own."""
    built()
    return Host(node(), str(SCENARIOS / "shim-host.mjs"))


def python_host() -> Host:
    """One agent of the Python client."""
    return Host(sys.executable, "-m", "tests.support.python_agent")


HOSTS: Final[dict[str, Callable[[], AbstractAsyncContextManager[Host]]]] = {
    "python": python_host,
    "node": node_host,
    "mini-program": shim_host,
}
