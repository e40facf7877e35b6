"""Signs of life: a beat moves `beat_at` and nothing else."""

from __future__ import annotations

from typing import Any

from aiohttp import ClientSession

from ledger.leases import BEATS_HELD
from ledger.model import Report, task_key
from tests.support.gateway import Gateway, in_process
from tests.support.node import TENANT, node
from tests.support.waiting import eventually


async def snapshot(session: ClientSession, gateway: Gateway, task_id: str) -> dict[str, Any]:
    async with session.get(f"{gateway.http}/v1/tasks/{task_id}") as answer:
        assert answer.status == 200
        body: dict[str, Any] = await answer.json()
        return body


async def test_a_beat_is_seen_in_the_snapshot_and_makes_no_transition(database: str) -> None:
    """Beats of running tasks are written; those of ended and unknown tasks are no harm."""
    async with in_process(database) as gateway, gateway.client() as worker, ClientSession() as session:
        await worker.ask(type="report", task_id="at-work")
        await worker.ask(type="report", task_id="done", status="completed")
        before = await snapshot(session, gateway, "at-work")
        done = await snapshot(session, gateway, "done")
        assert before["beat_at"] == before["updated_at"]
        await worker.send(type="beat", task_ids=["at-work", "done", "never-heard-of"])

        async def beaten() -> dict[str, Any] | None:
            now = await snapshot(session, gateway, "at-work")
            return now if now["beat_at"] > before["beat_at"] else None

        after = await eventually(beaten)
        assert {**after, "beat_at": before["beat_at"], "beat_age_ms": before["beat_age_ms"]} == before
        assert await snapshot(session, gateway, "done") == done
        # A report that comes after a beat finds its task as it left it.
        assert (await worker.ask(id=2, type="report", task_id="at-work", progress=2))["seq"] == 2


async def test_a_beat_with_a_wrong_id_is_told(database: str) -> None:
    """A beat has no reply, but a mistake in it does."""
    async with in_process(database) as gateway, gateway.client() as worker:
        await worker.send(type="beat", task_ids=["no spaces"])
        refused = await worker.expect("reply", id=None, ok=False)
        assert refused["error"]["code"] == "bad_task_id"


async def test_a_flood_of_beats_costs_nobody_else_the_sign_of_life(database: str) -> None:
    """More tasks than are held at once, all unknown, from one connection: the beats of another one are written."""
    async with node(database) as it:
        await it.receipt(Report(tenant=TENANT, task_id="a"))
        before = (await it.row())["beat_at"]
        it.beats.add([(task_key("flood", str(number)), None, None) for number in range(BEATS_HELD + 1)], "a flood")
        it.beats.add([(task_key(TENANT, "a"), None, None)], "a worker")

        async def beaten() -> bool:
            return bool((await it.row())["beat_at"] > before)

        await eventually(beaten)
