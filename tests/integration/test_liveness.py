"""A worker that falls silent: its watchers are told without asking, and told when it is back."""

from __future__ import annotations

from typing import Any

import asyncpg
from aiohttp import ClientSession, hdrs

from tests.support.gateway import Peer, in_process
from tests.support.limits import generous
from tests.support.waiting import eventually

SILENT_MS = 70_000
"""Longer than the lease of 60 s, shorter than it takes to be lost."""


async def fall_silent(dsn: str, task_id: str) -> None:
    """As if nothing had been heard of the worker for so long."""
    connection = await asyncpg.connect(dsn)
    try:
        moved = await connection.execute(
            "update ledger.task set beat_at = now() - $2 * interval '1 ms' where task_id = $1", task_id, SILENT_MS
        )
        await connection.execute(
            "update ledger.transition set at = now() - $2 * interval '1 ms'"
            " where key = (select key from ledger.task where task_id = $1)",
            task_id,
            SILENT_MS,
        )
    finally:
        await connection.close()
    assert moved == "UPDATE 1"


async def subscribe(client: Peer, task_id: str, **wish: Any) -> dict[str, Any]:
    """The `subscribed` of a task; with a cursor, when `seq` is given."""
    seq, mode = wish.get("seq"), wish.get("mode", "all")
    wanted: dict[str, Any] = {"task_id": task_id}
    if seq is not None:
        wanted["after"] = {"epoch": client.epoch, "seq": seq}
    await client.ask(type="subscribe", tasks=[wanted], mode=mode)
    return await client.expect("subscribed", task_id=task_id)


async def test_watchers_are_told_when_a_worker_is_late_and_when_it_is_back(database: str) -> None:
    """In both modes, once; a beat is no transition, so only a word can tell that it came."""
    async with in_process(database) as gateway, gateway.client() as worker, gateway.client() as other:
        await worker.ask(type="report", task_id="a", attempt=1, n=1)
        await worker.ask(type="attend", task_ids=["a"])
        for client, mode in ((worker, "all"), (other, "latest")):
            await subscribe(client, "a", mode=mode)
            await client.expect("snapshot")
        await fall_silent(database, "a")
        for client in (worker, other):
            late = await client.expect("liveness", task_id="a", liveness="late")
            assert late["beat_age_ms"] >= SILENT_MS
        await worker.send(type="beat", task_ids=[{"task_id": "a", "attempt": 1}])
        for client in (worker, other):
            back = await client.expect("liveness", task_id="a", liveness="live")
            assert 0 <= back["beat_age_ms"] < SILENT_MS
        assert (await worker.ask(id=2, type="unsubscribe", task_ids=["a"]))["ok"]
        await worker.ask(id=3, type="attend", task_ids=["a"])
        await fall_silent(database, "a")
        await other.expect("liveness", liveness="late")
        # Whoever only attends is the worker, and hears nothing of it; a report says by itself that it is back.
        await worker.send(id=4, type="report", task_id="a", attempt=1, n=2)
        await worker.expect("reply", id=4)
        assert (await other.expect("snapshot"))["task"]["liveness"] == "live"


async def test_who_comes_later_is_told_too(database: str) -> None:
    """By the snapshot, or by a word behind what was missed; also on another node."""
    async with in_process(database) as gateway, in_process(database) as elsewhere:
        async with gateway.client() as worker, elsewhere.client() as client:
            await worker.ask(type="report", task_id="b")
            await worker.ask(type="report", task_id="b", progress=1)
            await fall_silent(database, "b")
            await subscribe(client, "b")
            shown = (await client.expect("snapshot"))["task"]
            assert (shown["liveness"], shown["status"]) == ("late", "running")
            assert shown["beat_age_ms"] >= SILENT_MS
            for seq in (2, 1):
                assert (await subscribe(client, "b", seq=seq))["recovered"]
                if seq == 1:
                    await client.expect("transition", seq=2)
                await client.expect("liveness", task_id="b", liveness="late")
            # A cancel request is a client's, and says nothing of the worker.
            await client.send(id=9, type="cancel", task_id="b")
            frames = [await client.receive(), await client.receive()]
            assert {frame["type"] for frame in frames} == {"reply", "transition"}
            await worker.ask(type="report", task_id="b", progress=2)
            await client.expect("transition", seq=4)


async def test_an_event_stream_tells_of_silence(database: str) -> None:
    """As an event without an id: it is nothing to resume from."""
    async with in_process(database) as gateway, gateway.client() as worker, ClientSession() as session:
        await worker.ask(type="report", task_id="c")
        await fall_silent(database, "c")
        headers = {"Last-Event-ID": f"{worker.epoch}:1"}
        async with session.get(f"{gateway.http}/v1/tasks/c/events", headers=headers) as stream:
            event: list[str] = []
            while not (event and event[-1] == "" and "event: liveness" in event):
                event = [] if event and event[-1] == "" else event
                event.append((await stream.content.readline()).decode().rstrip("\n"))
        assert event[0] == "event: liveness"
        assert event[1].startswith('data: {"type":"liveness","task_id":"c","liveness":"late","beat_age_ms":7')


async def test_a_task_read_over_http_has_another_etag_when_its_worker_is_late(database: str) -> None:
    """There is no new sequence, and still something to see."""
    async with in_process(database) as gateway, gateway.client() as worker, ClientSession() as session:
        await worker.ask(type="report", task_id="d")
        url = f"{gateway.http}/v1/tasks/d"
        async with session.get(url) as answer:
            live = answer.headers[hdrs.ETAG]
        await fall_silent(database, "d")
        async with session.get(url, headers={hdrs.IF_NONE_MATCH: live}) as answer:
            assert (answer.status, (await answer.json())["liveness"]) == (200, "late")
            late = answer.headers[hdrs.ETAG]
        async with session.get(url, headers={hdrs.IF_NONE_MATCH: late}) as answer:
            assert answer.status == 304
        assert (live, late) == (f'"{worker.epoch}:1"', f'"{worker.epoch}:1:late"')


async def test_a_worker_can_beat_over_http(database: str) -> None:
    """With its attempt or without; a replaced attempt keeps nothing alive, and an unknown task is no error."""
    async with in_process(database) as gateway, gateway.client() as worker, ClientSession() as session:
        await worker.ask(type="report", task_id="e", attempt=2, n=1)

        async def beat(task_id: str, **request: Any) -> int:
            async with session.post(f"{gateway.http}/v1/tasks/{task_id}/beat", **request) as answer:
                assert await answer.read() == b"" or answer.status >= 400
                return answer.status

        async def alive() -> bool:
            async with session.get(f"{gateway.http}/v1/tasks/e") as answer:
                return bool((await answer.json())["liveness"] == "live")

        requests: list[dict[str, Any]] = [{"json": {"attempt": 2}}, {}, {"json": {}}]
        for request in requests:
            await fall_silent(database, "e")
            assert not await alive()
            assert await beat("nobody-knows", **request) == 202
            assert await beat("e", json={"attempt": 1}) == 202
            assert await beat("e", **request) == 202
            await eventually(alive)
        mistakes: list[dict[str, Any]] = [
            {"json": {"attempt": 0}},
            {"json": {"attempt": "new"}},
            {"json": []},
            {"data": b"{"},
        ]
        for wrong in mistakes:
            assert await beat("e", **wrong) == 400
        assert await beat("no spaces") == 400


async def test_a_beat_of_a_replaced_attempt_keeps_nothing_alive(database: str) -> None:
    """Written after it, the beat of the attempt in force shows that the other one was looked at and passed over."""
    async with in_process(database) as gateway, gateway.client() as worker, ClientSession() as session:
        for task_id in ("f", "g"):
            await worker.ask(type="report", task_id=task_id, attempt=2, n=1)
            await fall_silent(database, task_id)

        async def liveness(task_id: str) -> str:
            async with session.get(f"{gateway.http}/v1/tasks/{task_id}") as answer:
                return str((await answer.json())["liveness"])

        async def g_is_back() -> bool:
            return await liveness("g") == "live"

        held = [{"task_id": "f", "attempt": 1}, {"task_id": "g", "attempt": 2}]
        await worker.send(type="beat", task_ids=held)
        await eventually(g_is_back)
        assert await liveness("f") == "late"


async def test_a_lease_and_a_deadline_are_kept_as_they_were_asked_for(database: str) -> None:
    """A repeat with another lease is another content; the deadline is counted from the commit."""
    async with in_process(database) as gateway, gateway.client() as worker, ClientSession() as session:
        created = await worker.ask(type="create", task_id="h", deadline_ms=86_400_000)
        opened: dict[str, Any] = {"type": "report", "task_id": "h", "attempt": 1, "n": 1, "lease_ms": 120_000}
        assert (await worker.ask(**opened))["seq"] == created["seq"] + 1
        assert (await worker.ask(**opened))["repeat"]
        refused = await worker.ask(**{**opened, "lease_ms": 119_999})
        assert refused["error"]["code"] == "key_reused"
        refused = await worker.ask(type="create", task_id="h", deadline_ms=86_400_001)
        assert refused["error"]["code"] == "task_exists"
        await fall_silent(database, "h")  # for less than its own lease
        async with session.get(f"{gateway.http}/v1/tasks/h") as answer:
            shown = await answer.json()
        assert (shown["liveness"], shown["deadline_at"] > shown["created_at"]) == ("live", True)


async def test_a_cancel_that_nobody_answers_is_forced_and_says_so(database: str) -> None:
    """In the transition and in the snapshot; a cancel that a worker has honoured was not."""
    settings = generous(database_url=database, cancel_grace_seconds=0.1)
    async with in_process(database, ledger=settings) as gateway, gateway.client() as client:
        await client.ask(type="report", task_id="i")
        await client.ask(type="cancel", task_id="i", reason="why")
        await subscribe(client, "i", seq=1)
        await client.expect("transition", seq=2, status="cancelling", forced=None)
        forced = await client.expect("transition", seq=3, status="cancelled", forced=True)
        assert forced["cancel"]["stage"] == "forced"
        await subscribe(client, "i")
        shown = (await client.expect("snapshot"))["task"]
        assert (shown["status"], shown["forced"], shown["cancel"]["stage"]) == ("cancelled", True, "forced")
        assert (shown["liveness"], shown["beat_age_ms"]) == (None, None)
