"""`GET /metrics`: what happened is in the figures, of all processes, and nothing of anybody's tasks."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gateway import ROOT, Gateway, GatewayProcess, in_process
from tests.support.waiting import eventually

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def page(http: aiohttp.ClientSession, gateway: Gateway) -> str:
    async with http.get(f"{gateway.http}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        return await answer.text()


def figures_of(text: str) -> Figures:
    """All samples by name and labels."""
    return {
        (sample.name.removeprefix("ledgerwire_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(http: aiohttp.ClientSession, gateway: Gateway) -> Figures:
    return figures_of(await page(http, gateway))


def of(figures: Figures, name: str, **labels: str) -> float:
    """The one figure of this name and labels."""
    return figures[name, frozenset(labels.items())]


def over(figures: Figures, name: str) -> float:
    """The sum over all processes."""
    return sum(value for (each, _), value in figures.items() if each == name)


async def test_what_happens_is_counted(database: str, http: aiohttp.ClientSession) -> None:
    """Commits, deliveries, refusals, connections and reads, each by its exact number."""
    reports, watchers = 50, 3
    async with in_process(database) as gateway, AsyncExitStack() as stack:
        before = await scrape(http, gateway)
        worker = await stack.enter_async_context(gateway.client())
        watching = [await stack.enter_async_context(gateway.client()) for _ in range(watchers)]
        for peer in watching:
            await peer.ask(type="subscribe", tasks=[{"task_id": "secret-task"}], wait_ms=60_000)
            await peer.expect("subscribed", waiting=True)
        await worker.send_many(
            [
                {"type": "report", "id": n, "task_id": "secret-task", "attempt": 1, "n": n, "kind": "secret-kind"}
                for n in range(1, reports + 1)
            ]
        )
        for _ in range(reports):
            await worker.expect("reply", ok=True)
        for peer in watching:
            for _ in range(reports):
                await peer.receive()
        during = await scrape(http, gateway)
        assert (of(during, "topics"), of(during, "subscriptions")) == (1, watchers)
        await worker.ask(id=1, type="report", task_id="secret-task", attempt=1, n=reports + 1, status="completed")
        for peer in watching:
            await peer.expect("transition", status="completed")
        refused = await worker.ask(id=2, type="report", task_id="secret-task", attempt=1, n=reports + 2)
        text = await page(http, gateway)
        now = figures_of(text)

        assert of(now, "transitions_committed_total") == reports + 1
        assert of(now, "commit_transitions_sum") == reports + 1
        batches = of(now, "commit_transitions_count")
        assert 2 <= batches <= reports + 1
        assert of(now, "commit_seconds_count") >= batches
        assert of(now, "commit_seconds_sum") > 0
        assert of(now, "commit_seconds_bucket", le="+Inf") == of(now, "commit_seconds_count")
        assert of(now, "reports_refused_total", code=refused["error"]["code"]) == 1
        assert of(now, "deliveries_total") == watchers * (reports + 1)
        assert of(now, "sent_bytes_total") > watchers * reports * 100
        assert of(now, "connections", kind="websocket") == watchers + 1
        assert of(now, "connections_admitted_total") == watchers + 1
        assert of(now, "connections_opening") == of(now, "connections_refused_total") == 0
        assert of(now, "topics") == of(now, "subscriptions") == 0
        assert of(now, "session_reads_total") >= watchers
        assert of(now, "writer_waiting_reports") == 0
        assert of(now, "pool_connections_max", lane="read") == 4
        assert of(now, "pool_connections_idle", lane="write") + of(now, "pool_connections_in_use", lane="write") >= 1
        assert of(now, "pool_timeouts_total", lane="read") == 0
        assert of(now, "draining") == of(now, "ledger_degraded") == of(now, "epoch_changes_total") == 0
        assert before["process_cpu_seconds_total", frozenset()] <= now["process_cpu_seconds_total", frozenset()]
        await eventually(lambda: beyond(http, gateway, "hub_rereads_total", of(now, "hub_rereads_total")))
        await eventually(lambda: beyond(http, gateway, "reaper_holder", 0))
        assert "secret" not in text
        assert "default" not in text  # nor the tenant

    for name in {name for name, _ in now} - {"info"}:
        if not name.startswith("process_"):
            family = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert re.search(rf"^# HELP ledgerwire_{family}(_total)? [A-Z0-9].*\.$", text, re.MULTILINE), name


async def beyond(http: aiohttp.ClientSession, gateway: Gateway, name: str, least: float) -> bool:
    return of(await scrape(http, gateway), name) > least


async def test_bytes_of_those_who_have_gone_still_count(database: str, http: aiohttp.ClientSession) -> None:
    """A counter never goes back."""
    async with in_process(database) as gateway:
        async with gateway.client():
            during = of(await scrape(http, gateway), "sent_bytes_total")
            assert during > 100
        await eventually(lambda: connections_are(http, gateway, 0))
        assert of(await scrape(http, gateway), "sent_bytes_total") >= during


async def connections_are(http: aiohttp.ClientSession, gateway: Gateway, number: int) -> bool:
    return of(await scrape(http, gateway), "connections", kind="websocket") == number


async def test_one_endpoint_shows_all_processes(database: str, http: aiohttp.ClientSession) -> None:
    """Whichever process answers; also after one was killed, which is counted, and after a reload."""
    processes, reports = 3, 40
    environment = {"LEDGERWIRE_DRAIN_SECONDS": "2"}
    async with GatewayProcess(database, "--workers", str(processes), environment=environment) as gateway:
        for n in range(1, reports + 1):
            async with gateway.client() as worker:
                assert (await worker.ask(id=n, type="report", task_id="spread", attempt=1, n=n))["ok"]
        for _ in range(5):  # each on a connection of its own, so that several processes answer
            async with aiohttp.ClientSession() as session:
                now = await scrape(session, gateway)
            assert of(now, "workers") == of(now, "workers_ready") == over(now, "process_up") == processes
            assert over(now, "transitions_committed_total") == reports
            assert over(now, "connections_admitted_total") == reports
            assert of(now, "transitions_committed_total", process="1") < reports, "the kernel chose one process for all"
            assert of(now, "worker_restarts_total") == 0
        assert over(await until(gateway, "reaper_holder", 1), "reaper_holder") == 1

        victim = next(entry for entry in gateway.log if entry["event"] == "process_ready" and entry["process"] == 2)
        os.kill(victim["pid"], signal.SIGKILL)
        now = await until(gateway, "worker_restarts_total", 1)
        now = await until(gateway, "workers_ready", processes)
        assert over(now, "process_up") == processes
        assert of(now, "transitions_committed_total", process="2") == 0

        gateway.signal(signal.SIGHUP)
        now = await until(gateway, "reloads_total", 1)
        assert over(now, "process_up") == processes
        assert over(now, "transitions_committed_total") == 0
        assert await gateway.stop() == 0


async def until(gateway: Gateway, name: str, value: float) -> Figures:
    """The figures as soon as this one has come so far; each question on a connection of its own."""

    async def found() -> Figures | None:
        async with aiohttp.ClientSession() as session:
            figures = await scrape(session, gateway)
        return figures if over(figures, name) >= value else None

    figures = await eventually(found, within_seconds=60, every_seconds=0.1, what=name)
    assert figures is not None
    return figures


async def test_metrics_are_guarded_like_health(database: str, http: aiohttp.ClientSession) -> None:
    """No token, since a scraper has none; but no page of another origin, and no other host without authentication."""
    async with in_process(database) as gateway:
        for path in ("/metrics", "/health/db"):
            async with http.get(f"{gateway.http}{path}") as answer:
                assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
            async with http.get(f"{gateway.http}{path}", headers={"Origin": "https://evil.example"}) as answer:
                assert answer.status == 403
            async with http.get(f"{gateway.http}{path}", headers={"Host": "rebound.example"}) as answer:
                assert answer.status == 403


async def test_every_figure_is_documented(database: str, http: aiohttp.ClientSession) -> None:
    """docs/operations.md has a line for each family and for none that does not exist."""
    async with in_process(database) as gateway:
        families = {family.name for family in text_string_to_metric_families(await page(http, gateway))}
    known = {name for name in families if name.startswith("ledgerwire_")}
    known |= {f"ledgerwire_{name}" for name in ("workers", "workers_ready", "worker_restarts", "reloads", "process_up")}
    known |= {f"ledgerwire_{name}" for name in ("bus_healthy", "bus_hints", "bus_connects")}
    document = Path(ROOT, "docs/operations.md").read_text("utf-8")  # noqa: ASYNC240 - a test may wait for a disk
    section = document[document.index("## Metrics") :]
    section = section[: section.index("\n## ", 3)]
    told = {name.removesuffix("_total") for name in re.findall(r"`(ledgerwire_\w+)", section)}
    assert told == known
