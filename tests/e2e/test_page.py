"""The example's page in a real browser, in front of a real gateway that is really killed."""

from __future__ import annotations

import re

import aiohttp
import pytest
from playwright.async_api import Page, expect

from scripts.stage.rehearsal import read_ledger
from scripts.stage.supervisor import Stage
from tests.e2e.conftest import WAIT_MS, Visitor

pytestmark = pytest.mark.asyncio(loop_scope="module")

expect.set_options(timeout=WAIT_MS)

OFFLINE_MS = 5_000


async def start(page: Page) -> str:
    """Press Start; the id of the task that the page follows then."""
    await page.locator("#start").click()
    await page.locator("#rows li").first.wait_for(state="attached")
    return await page.locator("#task-id").inner_text()


async def cancel(page: Page) -> None:
    """Press Cancel and wait for the end."""
    await page.locator("#cancel").click()
    await expect(page.locator("#status")).to_have_text("Cancelled")


async def test_a_job_is_followed_to_its_end_across_a_killed_gateway(visitor: Visitor, stage: Stage) -> None:
    """SIGKILL in the middle: the page says so, returns by itself, and shows 1..n as the ledger holds it."""
    page = visitor.page
    task_id = await start(page)
    await visitor.seq_arrives(10)
    await expect(page.locator("#connection")).to_have_text("Connected")
    early = await progress(page)
    await visitor.seq_arrives(25)
    assert 0 < early < await progress(page) < 100

    stage.kill_gateway()
    await expect(page.locator("#connection")).to_have_text("Reconnecting")
    await expect(page.locator("#notice")).to_contain_text("The connection to the gateway is gone.")
    await expect(page.locator("#message")).to_contain_text("As of ")
    await expect(page.locator("#connection")).to_have_text("Connected")
    await expect(page.locator("#notice")).to_have_text(
        re.compile(
            r"^Connection was away for \d+\.\d s; (\d+ transitions? caught up, nothing|no transition had been) miss"
        )
    )

    await expect(page.locator("#status")).to_have_text("Completed")
    await expect(page.locator("#connection")).to_have_text("Finished")
    await expect(page.locator("#largest tr")).to_have_count(10)
    seqs = await visitor.seqs()
    assert seqs == list(range(1, len(seqs) + 1))
    await expect(page.locator("#continuity")).to_have_text(f"1 – {len(seqs)} · no hole · no repeat")
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        stored = await read_ledger(session, stage, task_id)
    assert [row.seq for row in stored] == seqs


async def test_a_cancel_shows_each_receipt_until_it_is_honoured(visitor: Visitor) -> None:
    """Recorded, delivered and honoured are three transitions in this order, and the last ones of the job."""
    page = visitor.page
    await start(page)
    await visitor.seq_arrives(6)
    box = await page.locator("#cancel").bounding_box()
    assert box is not None
    await cancel(page)
    middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    under = await page.evaluate("point => document.elementFromPoint(...point).id", middle)
    assert under == "cancel", "another button has come under the pointer"
    await expect(page.locator("#cancel")).to_be_disabled()
    for stage_name in ("recorded", "delivered", "honoured"):
        await expect(page.locator(f'#receipts li[data-stage="{stage_name}"]')).to_have_attribute("data-reached", "true")
    await expect(page.locator("#cancel-sentence")).to_have_text("The worker has stopped.")
    shown = await page.locator("#rows li[data-seq] .what").all_inner_texts()
    newest = [text for text in shown if text.startswith("Cancel ")]
    assert newest == ["Cancel honoured", "Cancel delivered", "Cancel recorded"]
    assert shown[0] == "Cancel honoured"
    seqs = await visitor.seqs()
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_cancel_pressed_while_the_gateway_is_away_is_kept_and_honoured(visitor: Visitor, stage: Stage) -> None:
    """The wish is not lost with the connection: it is sent as soon as there is one again."""
    page = visitor.page
    await start(page)
    await visitor.seq_arrives(6)
    stage.kill_gateway()
    await expect(page.locator("#connection")).to_have_text("Reconnecting")
    await page.locator("#cancel").click()
    await expect(page.locator("#cancel")).to_have_text("Cancelling …")
    await expect(page.locator("#status")).to_have_text("Cancelled")
    await expect(page.locator('#receipts li[data-stage="honoured"]')).to_have_attribute("data-reached", "true")


async def test_a_job_that_waits_says_so_and_can_be_cancelled_while_it_waits(visitor: Visitor) -> None:
    """One job runs at a time here: the second is pending, and its cancel does not wait for the first to end."""
    page = visitor.page
    await start(page)
    other = await page.context.new_page()
    await other.goto(page.url.split("#")[0])
    await start(other)
    await expect(other.locator("#status")).to_have_text("Waiting for its turn")
    await expect(other.locator("#message")).to_have_text("1 job ahead of it.")
    await cancel(other)
    await expect(page.locator("#status")).to_have_text("Running")
    await other.close()
    await cancel(page)


async def abandon(stage: Stage, task_id: str, **members: object) -> None:
    """A task whose worker is gone after one report; a second without a word is late."""
    task = {"status": "running", "progress": 17, "stage": "parse", "lease_ms": 1_000, **members}
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        await session.post(f"{stage.plan.http_url}/v1/tasks/{task_id}/transitions", json=task)


async def test_a_job_whose_worker_is_silent_leaves_room_for_another(visitor: Visitor, stage: Stage) -> None:
    """The gateway says that it is late; a word of the worker makes it a running job again."""
    page = visitor.page
    await abandon(stage, "orphan-1", lease_ms=60_000)
    await page.goto(f"{stage.plan.page_url}#task=orphan-1")
    await expect(page.locator("#status")).to_have_text("Running")
    await expect(page.locator("#start")).to_be_hidden()
    await abandon(stage, "orphan-1", progress=18)
    await expect(page.locator("#status")).to_have_text("Late")
    await expect(page.locator("#message")).to_have_text(
        re.compile(r"^Its worker has been silent for \d+ s and may be gone\. You can start another job\.$")
    )
    await abandon(stage, "orphan-1", lease_ms=60_000)
    await expect(page.locator("#status")).to_have_text("Running")
    await expect(page.locator("#start")).to_be_hidden()
    await abandon(stage, "orphan-1")
    await page.locator("#start").get_by_text("Start another").click()
    await expect(page.locator("#task-id")).to_have_text(re.compile("^index-"))
    await cancel(page)


async def test_a_late_job_stays_late_while_the_page_reconnects(visitor: Visitor, stage: Stage) -> None:
    """Without a connection nobody has said that the worker is back; with one, it is told again that it is late."""
    page = visitor.page
    await abandon(stage, "orphan-3")
    await page.goto(f"{stage.plan.page_url}#task=orphan-3")
    await expect(page.locator("#status")).to_have_text("Late")
    await page.context.set_offline(True)
    await expect(page.locator("#connection")).to_have_text("Reconnecting", timeout=OFFLINE_MS)
    await expect(page.locator("#status")).to_have_text("Late", timeout=100)
    await page.context.set_offline(False)
    await expect(page.locator("#connection")).to_have_text("Connected")
    await expect(page.locator("#status")).to_have_text("Late")


async def test_a_job_that_was_given_up_says_so(visitor: Visitor, stage: Stage) -> None:
    """Late first, also for a page that is opened only then; lost in the end, with the reason and a new start."""
    page = visitor.page
    await abandon(stage, "orphan-2")
    await page.goto(f"{stage.plan.page_url}#task=orphan-2")
    await expect(page.locator("#status")).to_have_text("Late")
    await page.reload()
    await expect(page.locator("#status")).to_have_text("Late")
    await expect(page.locator("#status")).to_have_text("Lost")
    await expect(page.locator("#message")).to_have_text("The worker fell silent, and the gateway has given up on it.")
    await expect(page.locator("#failure")).to_have_text("Nothing was heard of the worker for too long.")
    await expect(page.locator("#start")).to_have_text("Start again")


async def test_a_folder_that_is_not_there_fails_with_a_sentence_that_names_it(visitor: Visitor) -> None:
    """A failure is shown as one, in words, and the page is ready for another job."""
    page = visitor.page
    await page.locator("#start-missing").click()
    await expect(page.locator("#status")).to_have_text("Failed")
    await expect(page.locator("#failure")).to_have_text(
        re.compile(r"^The folder /\S+/a-folder-that-is-not-there is not there\.$")
    )
    await expect(page.locator("#start")).to_be_enabled()


async def test_a_reload_in_the_middle_carries_on_where_it_was(visitor: Visitor) -> None:
    """The task, what was seen and the cursor outlive the reload of the tab."""
    page = visitor.page
    task_id = await start(page)
    await visitor.seq_arrives(12)
    await page.reload()
    await expect(page.locator("#task-id")).to_have_text(task_id)
    await expect(page.locator("#notice")).to_contain_text("The page was reloaded and went on after sequence")
    await visitor.seq_arrives(24)
    await cancel(page)
    seqs = await visitor.seqs()
    assert seqs == list(range(1, len(seqs) + 1))
    await expect(page.locator('#rows li[data-kind="snapshot"]')).to_have_count(0)


async def test_offline_is_told_in_seconds_and_mended_by_itself(visitor: Visitor) -> None:
    """The browser loses its network without a word from the gateway: no "Connected" stands for long."""
    page = visitor.page
    await start(page)
    await visitor.seq_arrives(6)
    await page.context.set_offline(True)
    await expect(page.locator("#connection")).to_have_text("Reconnecting", timeout=OFFLINE_MS)
    await page.context.set_offline(False)
    await expect(page.locator("#connection")).to_have_text("Connected")
    await expect(page.locator("#notice")).to_contain_text("Connection was away for")
    await cancel(page)
    seqs = await visitor.seqs()
    assert seqs == list(range(1, len(seqs) + 1))


async def test_the_address_alone_is_enough_to_see_a_job_that_has_ended(visitor: Visitor) -> None:
    """Somebody else's tab, which has stored nothing, reads the whole history from the ledger."""
    page = visitor.page
    await page.locator("#start-missing").click()
    await expect(page.locator("#status")).to_have_text("Failed")
    other = await page.context.new_page()
    await other.goto(page.url)
    await expect(other.locator("#status")).to_have_text("Failed")
    await expect(other.locator("#rows li[data-seq]")).to_have_count(3)
    await other.close()


async def test_a_task_that_nobody_knows_is_told_in_words(visitor: Visitor, stage: Stage) -> None:
    """A wrong id gets a verdict and an end, not a connection that is tried for ever."""
    page = visitor.page
    await page.goto(f"{stage.plan.page_url}#task=nobody-knows-this")
    await expect(page.locator("#status")).to_have_text("Unknown task")
    await expect(page.locator("#notice")).to_contain_text("The ledger knows no task with this id.")
    await expect(page.locator("#connection")).to_have_text("Finished")


async def test_a_cursor_of_another_history_is_told_as_a_jump(visitor: Visitor) -> None:
    """After the ledger was rewound, the page says from where to where it jumped, and goes on from there."""
    page = visitor.page
    await page.locator("#start-missing").click()
    await expect(page.locator("#status")).to_have_text("Failed")
    await page.evaluate(
        """() => {
            window.addEventListener("pagehide", () => {
                const key = Object.keys(sessionStorage)[0];
                const kept = JSON.parse(sessionStorage.getItem(key));
                kept.cursor = {epoch: "e-older", seq: 40};
                sessionStorage.setItem(key, JSON.stringify(kept));
            });
        }"""
    )
    await page.reload()
    await expect(page.locator('#rows li[data-kind="jumped"]')).to_have_text(
        "Jumped from sequence 40 to 3: the ledger's history was rewound to an older backup."
    )
    await expect(page.locator("#status")).to_have_text("Failed")


async def progress(page: Page) -> int:
    """The bar, as a screen reader is told."""
    return int(await page.locator("#bar").get_attribute("aria-valuenow") or -1)
