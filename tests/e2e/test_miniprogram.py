"""The example mini-program, packed and installed as users do, in the shim against a real gateway; and an old page."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.agents import SCENARIOS, Event, Host
from tests.support.gateway import ROOT, Gateway, in_process
from tests.support.javascript import INSTALL_SECONDS, built, node
from tests.support.waiting import eventually

QUICK: Final = {"unknownMs": 20, "backoffFirstMs": 20, "backoffMostMs": 200}
DETAIL: Final = "pages/detail/index"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with the package that `npm pack` makes, built as 构建 npm builds it: its folder copied as it is."""
    client, folder = built(), tmp_path_factory.mktemp("mini-program") / "app"
    shutil.copytree(
        ROOT / "examples" / "miniprogram", folder, ignore=shutil.ignore_patterns("node_modules", "miniprogram_npm")
    )
    pack = ["npm", "pack", "--ignore-scripts", "--json", "--pack-destination", str(folder)]
    (packed,) = json.loads(npm(pack, client))
    npm(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", packed["filename"]], folder)
    package = folder / "node_modules" / "ledgerwire"
    described = json.loads((package / "package.json").read_text(encoding="utf-8"))
    shutil.copytree(package / described["miniprogram"], folder / "miniprogram_npm" / "ledgerwire")
    return folder


def npm(command: list[str], folder: Path) -> str:
    """What it prints."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
async def gateway(database: str) -> AsyncIterator[Gateway]:
    """Where the mini-program's server is."""
    async with in_process(database) as running:
        yield running


@pytest.fixture
async def phone(gateway: Gateway) -> AsyncIterator[Host]:
    """A device; when the test is over, nothing was thrown into nobody's hands on it."""
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(Host(node(), str(SCENARIOS / "miniprogram-host.mjs")))
        yield host
        if host.running:
            assert (await host.ask(do="look"))["errors"] == []


async def launch(phone: Host, example: Path, gateway: Gateway) -> None:
    """The example, with this gateway in its config.js."""
    config = {"url": gateway.ws, "timing": QUICK}
    (example / "config.js").write_text(f"module.exports = {json.dumps(config)};\n", encoding="utf-8")
    await phone.ask(do="launch", folder=str(example))


async def seen(phone: Host, wanted: Callable[[Event], Any], what: str) -> Event:
    """What the user sees when it is as it is wanted."""

    async def look() -> Event | None:
        screen = await phone.ask(do="look")
        return screen if wanted(screen) else None

    found = await eventually(look, what=what)
    assert found is not None
    return found


async def test_history_lists_the_tasks_and_detail_follows_one_to_its_end(
    phone: Host, example: Path, gateway: Gateway
) -> None:
    """Progress is shown with few `setData`, and the end with a word to the user."""
    async with gateway.client() as worker:
        await worker.ask(type="report", task_id="import-1", kind="import", progress=5)
        await launch(phone, example, gateway)
        listed = await seen(phone, lambda screen: screen["data"]["rows"], "a row")
        assert [row["id"] for row in listed["data"]["rows"]] == ["import-1"]
        await phone.ask(do="call", name="open", value={"currentTarget": {"dataset": {"id": "import-1"}}})
        shown = await seen(phone, lambda screen: screen["route"] == DETAIL and screen["data"]["task"], "the task")
        assert (shown["data"]["task"]["progress"], shown["data"]["statusText"]) == (5, "进行中")
        before = shown["counts"]["setDatas"]
        reports = [{"type": "report", "task_id": "import-1", "progress": n} for n in range(6, 96)]
        await worker.send_many(reports)
        await worker.ask(2, type="report", task_id="import-1", status="completed", progress=100)
    done = await seen(phone, lambda screen: "任务已完成" in screen["toasts"], "the end")
    assert (done["data"]["task"]["seq"], done["data"]["statusText"]) == (92, "已完成")
    assert done["counts"]["setDatas"] - before < 60, "90 transitions are not 90 messages between threads"


async def test_a_cancel_shows_each_stage_that_it_reaches(phone: Host, example: Path, gateway: Gateway) -> None:
    """Recorded by the gateway, honoured by the worker."""
    async with gateway.client() as worker:
        await worker.ask(type="attend", task_ids=["import-2"])
        await worker.ask(2, type="report", task_id="import-2", progress=5)
        await launch(phone, example, gateway)
        await phone.ask(do="open", url=f"/{DETAIL}?task_id=import-2")
        await seen(phone, lambda screen: screen["data"]["task"], "the task")
        await phone.ask(do="call", name="cancel")
        await worker.expect("cancel", task_id="import-2", reason="用户取消")
        await seen(phone, lambda screen: screen["data"]["cancelText"] == "已提交取消请求", "recorded")
        await worker.ask(3, type="report", task_id="import-2", status="cancelled")
    ended = await seen(phone, lambda screen: screen["data"]["cancelText"] == "已取消", "honoured")
    assert ended["data"]["statusText"] == "已取消"


async def test_a_task_that_nobody_knows_leads_to_the_history(phone: Host, example: Path, gateway: Gateway) -> None:
    """After five answers; the user is told, and nothing more is asked."""
    await launch(phone, example, gateway)
    await phone.ask(do="open", url=f"/{DETAIL}?task_id=3e82324d-ca93-4a23-8405-2ddac30ef43a")
    end = await seen(phone, lambda screen: screen["route"] == "pages/history/index", "the history")
    assert end["toasts"] == ["任务不存在，请查看历史记录"]
    assert sum('"subscribe"' in text for text in end["counts"]["sent"]) == 5


async def test_the_old_page_asks_for_ever_and_the_same_page_with_the_client_stops_after_five(
    phone: Host, gateway: Gateway
) -> None:
    """What a restart did to every phone in the field, and what it does now."""
    folder, packages = SCENARIOS.parent / "old-page", {"ledgerwire": str(built() / "miniprogram_dist")}
    options = {"base": gateway.http, "pollMs": 5, "client": {"url": gateway.ws, "timing": QUICK}}
    await phone.ask(do="launch", folder=str(folder), packages=packages, globals={"options": options})
    await phone.ask(do="open", url="/pages/detail/index?executionId=gone-1")
    await seen(phone, lambda screen: screen["counts"]["requests"] > 20, "more than twenty questions")
    await phone.ask(do="back")
    asked = (await phone.ask(do="open", url="/pages/watched/index?executionId=gone-1"))["counts"]["requests"]
    end = await seen(phone, lambda screen: screen["toasts"], "a word to the user")
    assert end["toasts"] == ["诊断任务不存在，请查看历史记录"]
    await seen(phone, lambda screen: screen["route"] == "pages/history/history", "the history")
    assert sum('"subscribe"' in text for text in end["counts"]["sent"]) == 5
    assert end["counts"]["requests"] == asked, "the interval went with its page"


async def test_the_same_page_with_the_client_follows_a_task_that_is_known(phone: Host, gateway: Gateway) -> None:
    """To its end."""
    folder, packages = SCENARIOS.parent / "old-page", {"ledgerwire": str(built() / "miniprogram_dist")}
    options = {"base": gateway.http, "pollMs": 5, "client": {"url": gateway.ws, "timing": QUICK}}
    async with gateway.client() as worker:
        await worker.ask(type="report", task_id="known-1", progress=40, stage="读取文件")
        await phone.ask(do="launch", folder=str(folder), packages=packages, globals={"options": options})
        await phone.ask(do="open", url="/pages/watched/index?executionId=known-1")
        await seen(phone, lambda screen: screen["data"].get("stage") == "读取文件", "the stage")
        await worker.ask(2, type="report", task_id="known-1", status="completed", progress=100)
    await seen(phone, lambda screen: screen["data"]["completed"], "the end")
