"""Batches while the database is away, while the client goes, and while the gateway stops."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.http.intake import OUTSTANDING_LINES, Intake
from tests.support.batches import NDJSON, accepted, broken_off, get, intakes, ndjson, none_left, post, refused, sender
from tests.support.gateway import in_process
from tests.support.limits import QUICK, generous
from tests.support.postgres import address_of, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import WAIT_SECONDS, eventually


def proxied(dsn: str, proxy: Proxy, **settings: Any) -> dict[str, Any]:
    """A gateway's settings by way of a proxy."""
    dsn = through(dsn, proxy.port)
    return {"dsn": dsn, "ledger": generous(database_url=dsn, **settings)}


async def test_so_many_lines_wait_for_the_database(database: str) -> None:
    """While it is away no more is read; each line gets an outcome, and those told to come again succeed then."""
    reports = [{"task_id": f"t-{n % 50}", "key": str(n)} for n in range(1, 5_001)]
    async with Proxy(address_of(database)) as proxy, in_process(**proxied(database, proxy)) as gateway:
        proxy.set(Link.STALL)
        asking = asyncio.create_task(post(gateway, ndjson(*reports)))
        (intake,) = await eventually(intakes, what="the batch has begun")
        await eventually(lambda: intake.outstanding == OUTSTANDING_LINES, what="as many as may wait do")
        assert intake.lines == OUTSTANDING_LINES
        proxy.set(Link.RESET)
        proxy.set(Link.PASS)
        first = (await asking).lines
        assert [line["line"] for line in first] == list(range(1, 5_001))
        assert all(line["ok"] or line["error"]["retryable"] for line in first)
        again = (await post(gateway, ndjson(*reports))).lines
        assert all(line["ok"] for line in again)
        assert [line["repeat"] for line, before in zip(again, first, strict=True) if before["ok"]] == [True] * sum(
            line["ok"] for line in first
        )
        tasks = (await get(gateway, "/v1/tasks?limit=200"))["tasks"]
        assert {task["seq"] for task in tasks} == {100}
        assert len(tasks) == 50


async def test_a_full_queue_is_told_line_by_line(database: str) -> None:
    """Nothing is dropped: each line that found no place says when to come again, and has not been written."""
    reports = [{"task_id": f"t-{n}"} for n in range(1, 601)]
    async with (
        Proxy(address_of(database)) as proxy,
        in_process(**proxied(database, proxy, queue_limit=100)) as gateway,
    ):
        proxy.set(Link.STALL)
        asking = asyncio.create_task(post(gateway, ndjson(*reports)))
        await eventually(lambda: any(intake.lines == 600 for intake in intakes()), what="all is read")
        proxy.set(Link.PASS)
        lines = (await asking).lines
        assert lines[:100] == [accepted(n, f"t-{n}", 1) for n in range(1, 101)]
        assert [refused(line) for line in lines[100:]] == [(n, "busy") for n in range(101, 601)]
        assert all(line["error"]["retry_after_ms"] > 0 for line in lines[100:])
        assert len((await get(gateway, "/v1/tasks?limit=200"))["tasks"]) == 100


async def test_a_client_that_goes_leaves_what_it_has_sent(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """Cut off in the middle of a line: whole lines are committed, the half one is not, and nothing is left behind."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with Proxy(address_of(database)) as proxy, in_process(**proxied(database, proxy)) as gateway:
        for away in (False, True):
            name = f"away-{away}"
            async with sender(gateway) as client:
                await client.send(ndjson({"task_id": name, "message": "first"}))
                assert await client.outcome() == accepted(1, name, 1)
                if away:
                    proxy.set(Link.STALL)  # none of its outcomes is known when it goes
                await client.send(ndjson(*({"task_id": name, "key": str(n)} for n in range(500))) + b'{"task_id":')
                await eventually(lambda: any(intake.lines == 501 for intake in intakes()), what="all is read")
            await none_left(gateway)
            if away:
                proxy.set(Link.PASS)

            async def committed(name: str = name) -> bool:
                return bool((await get(gateway, f"/v1/tasks/{name}"))["seq"] == 501)

            await eventually(committed, what="all that was whole is committed")
            assert (await get(gateway, "/health/db"))["writer_waiting"] == 0
        gc.collect()
        assert not [each for each in gc.get_objects() if type(each) is Intake], "the gateway holds on to one"
    assert (complaints, caplog.records) == ([], [])


async def test_nobody_is_left_to_hear_of_a_failure(database: str) -> None:
    """The client goes, and then the database does not come back in time: nothing complains, nothing is written."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with (
        Proxy(address_of(database)) as proxy,
        in_process(**proxied(database, proxy, **QUICK)) as gateway,
    ):
        proxy.set(Link.STALL)
        async with sender(gateway) as client:
            await client.send(ndjson(*({"task_id": "a", "key": str(n)} for n in range(500))))
            await eventually(lambda: any(intake.lines == 500 for intake in intakes()), what="all is read")
        await none_left(gateway)

        async def given_up() -> bool:
            return bool((await get(gateway, "/health/db"))["writer_waiting"] == 0)

        await eventually(given_up, what="the writer has answered all")
        gc.collect()
        assert complaints == []
        proxy.set(Link.PASS)
        sent_again = ndjson(*({"task_id": "a", "key": str(n)} for n in range(500)))

        async def accepted_now() -> bool:
            lines = (await post(gateway, sent_again)).lines
            return all(line["ok"] for line in lines) and {line["seq"] for line in lines} == set(range(1, 501))

        await eventually(accepted_now, what="the batch sent again is whole")


@pytest.mark.parametrize("begun", [True, False], ids=["between lines", "before the first"])
async def test_a_stop_in_the_middle_is_told(database: str, begun: bool) -> None:
    """Outcomes of what was submitted, then a line that says from where on to send again; before the first a problem."""
    async with asyncio.timeout(WAIT_SECONDS):
        async with in_process(database) as gateway:
            context = sender(gateway)
            client = await context.__aenter__()
            if begun:
                await client.send(ndjson(*({"task_id": "a", "attempt": 1, "n": n} for n in range(1, 301))))
                for n in range(1, 301):
                    assert await client.outcome() == accepted(n, "a", n, attempt=1)
                await client.send(b'{"task_id":"a","attempt":1')  # the half of a line
            await eventually(intakes, what="the batch has begun")
        rest = await client.rest()
        await context.__aexit__(None, None, None)
    (last,) = [orjson.loads(line) for line in rest.splitlines() if line.startswith(b"{")]
    if begun:
        assert broken_off(last) == (301, "unavailable")
        assert last["error"]["retry_after_ms"] > 0
        assert rest.endswith(b"\r\n0\r\n\r\n"), "the answer is whole"
    else:
        assert rest.startswith(b"HTTP/1.1 503 ")
        assert (last["code"], last["retryable"]) == ("unavailable", True)


async def test_a_stop_tells_what_is_on_its_way(database: str) -> None:
    """A sender that goes on sending all the time: every line up to the break has its outcome, and is in the ledger."""
    told: list[dict[str, Any]] = []
    async with asyncio.timeout(WAIT_SECONDS):
        async with in_process(database) as gateway:
            stopping = asyncio.Event()

            async def endless() -> AsyncIterator[bytes]:
                n = 0
                while n < 90_000:
                    yield ndjson(*({"task_id": "a", "attempt": 1, "n": n + more} for more in range(1, 101)))
                    n += 100

            async def take() -> None:
                async with aiohttp.ClientSession() as session:
                    url = f"{gateway.http}/v1/transitions"
                    async with session.post(url, data=endless(), headers=NDJSON) as answer:
                        async for line in answer.content:
                            told.append(orjson.loads(line))
                            if len(told) == 2_000:
                                stopping.set()

            taking = asyncio.create_task(take())
            await stopping.wait()
        await taking
    *lines, last = told
    assert lines == [accepted(n, "a", n, attempt=1) for n in range(1, len(lines) + 1)]
    assert len(lines) >= 2_000
    assert broken_off(last) == (len(lines) + 1, "unavailable")
    async with in_process(database) as gateway:
        assert (await get(gateway, "/v1/tasks/a"))["seq"] == len(lines)
