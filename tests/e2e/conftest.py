"""For the tests in a real browser: Chromium, the demo's stage, and pages whose complaints are collected.

One stage and one browser serve a whole file; every test has a page and storage of its own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from scripts.demo import free_ports
from scripts.stage.lines import readable
from scripts.stage.supervisor import Plan, Stage

WAIT_MS = 60_000
# A process that is being killed may close what it serves before the door: who comes back at once is let in and reset.
AWAY = ("net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET", "net::ERR_INTERNET_DISCONNECTED")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Some ten seconds of work in some eighty steps; one job at a time, so that a second one has to wait.
JOB = ("--packages=modules,asyncio,email,http,json,logging,urllib,xml", "--pace=steady", "--jobs=1")


@dataclass
class Visitor:
    """A page, and what the browser complained about on it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def hear(self, message: ConsoleMessage) -> None:
        """Keep errors and warnings. What a browser notes by itself while the gateway is away is none."""
        if message.type in {"error", "warning"} and not any(note in message.text for note in AWAY):
            self.complaints.append(f"{message.type}: {message.text}")

    async def seqs(self) -> list[int]:
        """The numbers in the list of transitions, oldest first."""
        items = self.page.locator("#rows li[data-seq]")
        newest_first = await items.evaluate_all("items => items.map(item => Number(item.dataset.seq))")
        return [int(seq) for seq in reversed(newest_first)]

    async def seq_arrives(self, seq: int) -> None:
        """Wait until the list holds this number."""
        await self.page.locator(f'#rows li[data-seq="{seq}"]').wait_for(state="attached", timeout=WAIT_MS)


def chromium() -> str:
    """Where the browser is. Skips the test when there is none; fails it where CI=true promises one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
    if Path(found).exists():
        return found
    reason = "Chromium is not on PATH nor at /usr/bin/chromium; on Debian: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    print(reason)  # noqa: T201 - the reason is shown with -s too
    pytest.skip(reason)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Chromium as the distribution ships it."""
    path = chromium()
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield running
        await running.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(browser: Browser) -> AsyncIterator[Stage]:
    """A gateway with a database of its own, and the example; the gateway is started again when a test kills it."""
    port, page_port = free_ports(2)
    scratch = tempfile.TemporaryDirectory(prefix="ledgerwire-e2e-", ignore_cleanup_errors=True)
    with scratch as folder, pytest.MonkeyPatch.context() as patch:
        plan = Plan(port=port, page_port=page_port, data_dir=Path(folder), job_options=JOB)
        lines = []
        try:
            patch.setenv("LEDGERWIRE_LEASE_GRACE_SECONDS", "8")  # long enough to see that a worker is late
            async with Stage(plan, lambda name, line: lines.append(readable(name, line, colour=False))) as running:
                yield running
        finally:
            print(*lines[-100:], sep="\n")  # noqa: T201 - pytest shows it with a failure


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(browser: Browser, stage: Stage) -> AsyncIterator[Visitor]:
    """A fresh page of the example, already open. Whatever the browser complained about fails the test at its end."""
    context = await browser.new_context(viewport={"width": 1280, "height": 860})
    page = await context.new_page()
    page.set_default_timeout(WAIT_MS)
    guest = Visitor(page)
    page.on("console", guest.hear)
    page.on("pageerror", lambda error: guest.complaints.append(f"uncaught: {error}"))
    await page.goto(stage.plan.page_url)
    yield guest
    await context.close()
    assert guest.complaints == []
