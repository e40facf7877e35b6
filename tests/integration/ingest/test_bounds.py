"""Every bound of a batch holds, for those who send and those who read."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from gateway.http.ingest import INTAKES_AT_ONCE
from gateway.http.intake import OUTSTANDING_LINES, UNTOLD_BYTES
from tests.support.batches import accepted, broken_off, in_the_module, intakes, ndjson, none_left, post, refused, sender
from tests.support.gateway import Gateway
from tests.support.waiting import WAIT_SECONDS, eventually


@in_the_module
async def test_a_client_that_does_not_read_is_not_read_from(gateway: Gateway, task_id: str) -> None:
    """The server holds a bounded number of lines and outcomes and waits; read at last, the answer is whole."""
    total, pad = 60_000, "x" * 64
    reports = [{"task_id": f"{task_id}-{n % 7}"} if n % 20 == 0 else {"id": pad} for n in range(1, total + 1)]
    body = ndjson(*({**report, "unknown": pad * 5} for report in reports))  # 24 MB: more than the kernel's buffers
    async with sender(gateway, limit=2**10) as client:

        async def send_all() -> None:
            for begin in range(0, len(body), 10_000):
                await client.send(body[begin : begin + 10_000])
            await client.end()

        client.reader._transport.pause_reading()  # type: ignore[attr-defined] # else it would read ahead
        sending = asyncio.create_task(send_all())
        (intake,) = await eventually(intakes, what="the batch has begun")
        seen: list[tuple[int, int]] = []

        def stands_still() -> bool:
            seen.append((intake.outstanding, intake.untold_bytes))
            return intake.untold_bytes >= UNTOLD_BYTES and intake.lines > 1_000

        await eventually(stands_still, what="it stops reading")
        for n in range(1, 21):  # others are served meanwhile
            assert (await post(gateway, ndjson({"task_id": task_id}))).lines == [accepted(1, task_id, n)]
            stands_still()
        assert intake.lines < total
        assert not sending.done()
        transport = intake._request.transport
        assert transport is not None
        assert 0 < transport.get_write_buffer_size() < 256 * 1024
        assert max(outstanding for outstanding, _ in seen) <= OUTSTANDING_LINES
        assert max(untold for _, untold in seen) < UNTOLD_BYTES + 1_024, "one outcome more at most"
        client.reader._transport.resume_reading()  # type: ignore[attr-defined] # see above
        sequences = dict.fromkeys(range(7), 0)
        for n in range(1, total + 1):
            got = await client.outcome()
            if n % 20:
                assert refused(got) == (n, "bad_request")
                assert got["id"] == pad
            else:
                sequences[n % 7] += 1
                assert got == accepted(n, f"{task_id}-{n % 7}", sequences[n % 7])
        await sending
    await none_left(gateway)


@in_the_module
async def test_so_many_batches_at_once(gateway: Gateway, task_id: str) -> None:
    """One more is told to come again; those that are under way go on, and a place that is left is taken."""
    async with asyncio.timeout(WAIT_SECONDS):
        clients = []
        try:
            for number in range(INTAKES_AT_ONCE):
                context = sender(gateway)
                clients.append((context, await context.__aenter__()))
                await clients[-1][1].send(ndjson({"task_id": f"{task_id}-{number}"}))
                assert await clients[-1][1].outcome() == accepted(1, f"{task_id}-{number}", 1)
            answer = await post(gateway, ndjson({"task_id": task_id}))
            assert answer.is_problem("busy")["retry_after_ms"] == 1_000
            assert answer.headers["retry-after"] == "1"
            await clients[0][1].send(ndjson({"task_id": f"{task_id}-0"}))
            assert await clients[0][1].outcome() == accepted(2, f"{task_id}-0", 2)
        finally:
            for context, _ in clients:
                await context.__aexit__(None, None, None)
    await none_left(gateway)
    assert (await post(gateway, ndjson({"task_id": task_id}))).lines == [accepted(1, task_id, 1)]


@in_the_module
async def test_those_who_keep_a_batch_waiting_are_cut(gateway: Gateway, task_id: str) -> None:
    """One that sends no more, one that sends a byte now and then, one that takes nothing of its answer."""

    async def silent() -> bytes:
        async with sender(gateway) as client:
            await client.send(ndjson({"task_id": f"{task_id}-1"}) + b'{"task_id":')
            return await client.rest()

    async def dribbling() -> bytes:
        async with sender(gateway) as client:
            rest = asyncio.create_task(client.rest())
            while not rest.done():
                await client.send(b" ")
                await asyncio.wait([rest], timeout=0.5)
            return await rest

    async def deaf() -> bytes:
        async with sender(gateway, limit=2**10) as client:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined] # else it would read ahead
            with pytest.raises(ConnectionError):
                while True:
                    await client.send(b"{}\n" * 3_000)
            return b""

    quiet, slow, _ = await asyncio.gather(silent(), dribbling(), deaf())
    first, last = (orjson.loads(line) for line in quiet.splitlines() if line.startswith(b"{"))
    assert first == accepted(1, f"{task_id}-1", 1)
    assert broken_off(last) == (2, "request_timeout")
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in slow
    await none_left(gateway)
