"""The clients that the scenarios run on: a mini-program, a page in Chromium, Node, and the Python client.

What is a fault of a phone is played by what comes closest elsewhere: a process that is stopped for one that is
suspended, a reset link for another network. Where there is nothing like it (`faults`, `occupy`) nothing happens.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from playwright.async_api import Browser, BrowserContext, CDPSession, Page

from tests.support.agents import SCENARIOS, Heard, Host, node_host, python_host, shim_host
from tests.support.door import Door
from tests.support.javascript import CLIENT
from tests.support.proxy import Link

TENTH: Final = 0.1
"""All times are a tenth of what they are in the field."""
JS_TIMING: Final = {
    "connectMs": 2_000, "probeMs": 300, "silenceMs": 1_000, "dyingMs": 200, "absenceMs": 500, "suspendedRetryMs": 30,
    "backoffFirstMs": 50, "backoffMostMs": 500, "socketLimitMs": 300, "stableMs": 500, "pollMs": 100, "pollMostMs": 500,
    "unknownMs": 50, "saveMs": 10,
}  # fmt: skip
PYTHON_TIMING: Final = {
    "open_seconds": 2.0, "silence_margin_seconds": 0.5, "reconnect_floor_seconds": 0.02,
    "reconnect_ceiling_seconds": 0.5, "poll_seconds": 0.2,
}  # fmt: skip
DEVICE: Final = {"suspendAfterMs": 500, "refuseAfterShowMs": 30}


class Platform:
    """One client with a way to the gateway of its own."""

    name = ""
    polls = True

    def __init__(self, port: int) -> None:
        self.door = Door(port)
        self.heard = Heard(self.name)
        self.runs: list[int] = []
        """How many events had been told when a later run of the program began."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.door)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def watch(self, task_id: str) -> None:
        """Begin; `launch` begins with the same."""
        raise NotImplementedError

    async def hide(self) -> None: ...
    async def show(self) -> None: ...
    async def kill(self) -> None: ...
    async def launch(self) -> None: ...
    async def faults(self, faults: dict[str, object]) -> None: ...
    async def occupy(self, sockets: int) -> None: ...

    async def network(self, kind: str) -> None:
        """Another one, or none."""
        self.door.link.set(Link.RESET)
        if kind != "none":
            self.door.link.set(Link.PASS)

    async def check(self) -> None:
        """What else must hold at the end."""


class Process(Platform):
    """A client in a process of its own: hidden is stopped."""

    def __init__(self, port: int, folder: Path, host: Callable[[], Host], options: dict[str, Any]) -> None:
        super().__init__(port)
        self._make = host
        self._options = options
        self._storage = str(folder / self.name)
        self._host: Host | None = None
        self._task_id = ""

    async def watch(self, task_id: str) -> None:
        self._task_id = task_id
        await self.launch()

    async def launch(self) -> None:
        if self._host is not None:
            self.runs.append(len(self.heard.events))
        self._host = host = await self._stack.enter_async_context(self._make())
        host.listen(self.heard)
        await host.say(do="start", options={"url": self.door.ws, **self._options}, storage=self._storage)
        await host.say(do="watch", task_id=self._task_id, wait_ms=60_000)

    async def hide(self) -> None:
        assert self._host is not None
        self._host.signal(signal.SIGSTOP)

    async def show(self) -> None:
        assert self._host is not None
        self._host.signal(signal.SIGCONT)

    async def kill(self) -> None:
        assert self._host is not None
        await self._host.end()


class Node(Process):
    name = "node"

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder, node_host, {"timing": JS_TIMING})


class Python(Process):
    name = "python"

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder, python_host, {"timing": PYTHON_TIMING})


class MiniProgram(Platform):
    """In the shim; the only one with a device's faults."""

    name = "mini-program"

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._gateway = f"ws://127.0.0.1:{port}/v1/ws"
        self._occupied = 0
        self._task_id = ""
        self._host = shim_host()

    async def watch(self, task_id: str) -> None:
        await self._stack.enter_async_context(self._host)
        self._host.listen(self.heard)
        self._task_id = task_id
        await self._host.say(do="start", options={"url": self.door.ws, "timing": JS_TIMING}, faults=DEVICE)
        await self._host.say(do="watch", task_id=self._task_id, wait_ms=60_000)

    async def hide(self) -> None:
        await self._host.ask(do="hide")

    async def show(self) -> None:
        await self._host.ask(do="show")

    async def kill(self) -> None:
        await self._host.ask(do="kill")

    async def launch(self) -> None:
        self.runs.append(len(self.heard.events))
        await self._host.ask(do="launch")
        await self._host.say(do="watch", task_id=self._task_id, wait_ms=60_000)

    async def faults(self, faults: dict[str, object]) -> None:
        await self._host.ask(do="fault", faults=faults)

    async def occupy(self, sockets: int) -> None:
        self._occupied = max(self._occupied, sockets)
        await self._host.ask(do="occupy", sockets=sockets, url=self._gateway)

    async def network(self, kind: str) -> None:
        await self._host.ask(do="network", type=kind)

    async def check(self) -> None:
        """Never two sockets that are wanted, nothing sent while hidden, nothing thrown into nobody's hands."""
        counts = await self._host.ask(do="counts")
        assert counts["mostSockets"] <= 1 + self._occupied
        assert counts["inBackground"] == []
        assert counts["errors"] == []


class Chromium(Platform):
    """A page in a real browser: hidden is frozen."""

    name = "chromium"

    def __init__(self, port: int, browser: Browser) -> None:
        super().__init__(port)
        self._browser = browser
        self._context: BrowserContext | None = None
        self._page: Page | None = None
        self._cdp: CDPSession | None = None
        self._task_id = ""

    async def watch(self, task_id: str) -> None:
        self._task_id = task_id
        self._context = await self._browser.new_context(bypass_csp=True)  # the gateway forbids scripts in its pages
        self._stack.push_async_callback(self._context.close)
        await self._context.expose_function("tell", self.heard.add)
        await self._open()

    async def launch(self) -> None:
        self.runs.append(len(self.heard.events))
        await self._open()

    async def hide(self) -> None:
        await self._freeze("frozen")

    async def show(self) -> None:
        await self._freeze("active")

    async def kill(self) -> None:
        assert self._page is not None
        await self._page.close()

    async def network(self, kind: str) -> None:
        assert self._context is not None
        await super().network(kind)
        await self._context.set_offline(kind == "none")

    async def _freeze(self, state: str) -> None:
        assert self._cdp is not None
        await self._cdp.send("Page.setWebLifecycleState", {"state": state})

    async def _open(self) -> None:
        assert self._context is not None
        self._page = page = await self._context.new_page()
        self._cdp = await self._context.new_cdp_session(page)
        await page.goto(f"http://127.0.0.1:{self.door.port}/blank")
        await page.add_script_tag(path=CLIENT / "dist" / "ledgerwire.global.js")
        await page.add_script_tag(path=SCENARIOS / "agent.cjs")
        options = {"url": self.door.ws, "timing": JS_TIMING}
        await page.evaluate("options => { window.agent = makeAgent(ledgerwire, options, tell); }", options)
        watch = {"do": "watch", "task_id": self._task_id, "wait_ms": 60_000}
        await page.evaluate("command => window.agent.act(command)", watch)
