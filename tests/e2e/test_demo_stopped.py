"""What becomes of jobs when the demo is stopped under them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from scripts.demo import free_ports
from scripts.stage.supervisor import Plan, Stage
from tests.e2e.conftest import JOB

pytestmark = pytest.mark.asyncio

LIMIT_SECONDS = 120


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that the database's account can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="ledgerwire-e2e-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def test_jobs_of_a_stopped_demo_end_as_failed_with_the_reason(data_dir: Path) -> None:
    """One runs and one waits for its turn; the ledger holds the end of both when the demo is started again."""
    port, page_port = free_ports(2)
    plan = Plan(port=port, page_port=page_port, data_dir=data_dir, job_options=JOB)
    async with asyncio.timeout(LIMIT_SECONDS), aiohttp.ClientSession(raise_for_status=True) as session:
        async with Stage(plan, ignore):
            task_ids = [await start(session, plan) for _ in range(2)]
            await at_work(session, plan, task_ids[0])
        async with Stage(plan, ignore):
            tasks = [await task(session, plan, task_id) for task_id in task_ids]
    assert [found["status"] for found in tasks] == ["failed", "failed"]
    assert {found["error"]["message"] for found in tasks} == {"The demo was stopped before the job ended."}
    assert tasks[0]["seq"] > tasks[1]["seq"]


def ignore(name: str, line: str) -> None:
    """What the children say is not looked at."""


async def start(session: aiohttp.ClientSession, plan: Plan) -> str:
    """The id of a new job."""
    async with session.post(f"{plan.page_url}jobs", json={}) as response:
        return str((await response.json())["task_id"])


async def at_work(session: aiohttp.ClientSession, plan: Plan, task_id: str) -> None:
    """Return when the task has made its sixth transition."""
    found = await task(session, plan, task_id)
    while found["seq"] < 6:
        found = await task(session, plan, task_id, after=found["seq"])


async def task(session: aiohttp.ClientSession, plan: Plan, task_id: str, after: int | None = None) -> dict[str, Any]:
    """The task as the ledger has it; with `after` as soon as it is newer than that."""
    query, headers = ("", {}) if after is None else (f"?after={after}", {"Prefer": "wait=20"})
    async with session.get(f"{plan.http_url}/v1/tasks/{task_id}{query}", headers=headers) as response:
        return dict(await response.json())
