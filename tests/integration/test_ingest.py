"""Batches of reports over real sockets: every line has its outcome, in its place; every bound holds.

`gateway` serves the whole file; tests that stop it, or stand between it and the database, have one of their own.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson
import pytest
import pytest_asyncio
from msgspec import Struct

from gateway.http.ingest import INTAKES_AT_ONCE
from gateway.http.intake import LINES, OUTSTANDING_LINES, REQUEST_BYTES, UNTOLD_BYTES, Intake
from gateway.protocol.codec import FRAME_BYTES
from gateway.protocol.errors import ERRORS
from tests.support.gateway import Gateway, in_process
from tests.support.limits import QUICK, generous
from tests.support.postgres import Cluster, address_of, temporary_database, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import WAIT_SECONDS, eventually

in_the_module = pytest.mark.asyncio(loop_scope="module")
NDJSON: Final = {"Content-Type": "application/x-ndjson"}
GZIP: Final = {**NDJSON, "Content-Encoding": "gzip"}


class Answer(Struct, frozen=True):
    """The answer to a batch, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The outcomes."""
        assert self.status == 200, self
        assert self.headers["content-type"] == "application/x-ndjson"
        assert not self.body or self.body.endswith(b"\n")
        return [orjson.loads(line) for line in self.body.splitlines()]

    def is_problem(self, code: str) -> Any:
        """The body, which must be the RFC 9457 answer for this code, as the table of errors has it."""
        body = orjson.loads(self.body)
        assert self.headers["content-type"] == "application/problem+json", self
        assert (body["code"], body["retryable"]) == (code, ERRORS[code].retryable), body
        assert self.status == body["status"] == ERRORS[code].http
        return body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cluster: Cluster) -> AsyncIterator[Gateway]:
    async with temporary_database(cluster) as dsn, in_process(dsn) as running:
        yield running


@pytest.fixture
def task_id() -> str:
    return f"task-{secrets.token_hex(6)}"


async def post(
    gateway: Gateway, body: bytes | AsyncIterator[bytes], path: str = "/v1/transitions", **headers: str
) -> Answer:
    """Send a batch as it stands, and read the answer meanwhile. Header names are written with _."""
    sent = {**NDJSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.post(gateway.http + path, data=body, headers=sent) as answer,
    ):
        got = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, got, await answer.read())


async def get(gateway: Gateway, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(gateway.http + path) as answer:
        return orjson.loads(await answer.read())


def ndjson(*reports: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(report) + b"\n" for report in reports)


def accepted(line: int, task_id: str, seq: int, **members: Any) -> dict[str, Any]:
    """The outcome of a report that is in the ledger."""
    at = {"ok": True, "task_id": task_id, "seq": seq, "status": "running", "attempt": 0, "repeat": False}
    return {"line": line, **at, **members}


def refused(line: dict[str, Any]) -> tuple[int, str]:
    """A refusing outcome, which must say what to do: its line and code."""
    assert line.keys() - {"id"} == {"line", "ok", "error"}
    assert line["ok"] is False
    error = line["error"]
    assert error["retryable"] is ERRORS[error["code"]].retryable
    assert len(error["message"]) >= 10
    return line["line"], error["code"]


def broken_off(line: dict[str, Any]) -> tuple[int, str]:
    """The last line of an answer to a batch that was not read to its end."""
    assert line.keys() == {"from_line", "ok", "error"}
    assert line["ok"] is False
    return line["from_line"], line["error"]["code"]


def intakes() -> list[Intake]:
    """The batches that this process is taking in."""
    return [each for each in gc.get_objects() if type(each) is Intake and not each._over]


class Sender:
    """A client that sends and reads as the test says, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """One chunk of the body."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def outcome(self) -> dict[str, Any]:
        """The next outcome."""
        async with asyncio.timeout(WAIT_SECONDS):
            line = await self.reader.readline()
            while not line.startswith(b"{"):
                assert line, "the answer ended"
                line = await self.reader.readline()
        got: dict[str, Any] = orjson.loads(line)
        return got

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.reader.read()


@asynccontextmanager
async def sender(gateway: Gateway, *, limit: int = 2**16) -> AsyncIterator[Sender]:
    """A connection with the head of a batch on its way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=limit)
    try:
        head = "POST /v1/transitions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        yield Sender(reader, writer)
    finally:
        writer.transport.abort()


async def none_left(gateway: Gateway) -> None:
    """The server has forgotten all batches."""
    await eventually(lambda: not intakes(), what="no batch is left")


# Outcomes


@in_the_module
async def test_ten_thousand_lines_are_committed_in_order(gateway: Gateway, task_id: str) -> None:
    """In one request, over twenty tasks: each line has its own outcome in its place, and the ledger has all of them."""
    tasks, each = 20, 500
    wanted = [(f"{task_id}-{number % tasks}", number // tasks + 1) for number in range(tasks * each)]
    reports = ({"id": f"{name}/{n}", "task_id": name, "attempt": 1, "n": n, "data": [n]} for name, n in wanted)
    answer = await post(gateway, ndjson(*reports))
    assert answer.lines == [
        accepted(line, name, n, id=f"{name}/{n}", attempt=1) for line, (name, n) in enumerate(wanted, 1)
    ]
    for number in range(tasks):
        page = await get(gateway, f"/v1/tasks/{task_id}-{number}/transitions?limit=500")
        assert [(step["seq"], step["data"]) for step in page["transitions"]] == [(n, [n]) for n in range(1, each + 1)]
        assert page["more"] is False
    await none_left(gateway)


@in_the_module
@pytest.mark.parametrize("numbered", [True, False], ids=["by number", "by key"])
async def test_a_batch_sent_twice_has_one_effect(gateway: Gateway, task_id: str, numbered: bool) -> None:
    """Every line of the second is a repeat with the first one's place; other content under the same name is refused."""
    names: list[dict[str, Any]] = [{"attempt": 1, "n": n} if numbered else {"key": f"k{n}"} for n in range(1, 301)]
    reports = [{"task_id": task_id, "message": str(n), **name} for n, name in enumerate(names, 1)]
    attempt = 1 if numbered else 0
    first = await post(gateway, ndjson(*reports))
    assert first.lines == [accepted(n, task_id, n, attempt=attempt) for n in range(1, 301)]
    reports[6]["message"] = "another"
    again = (await post(gateway, ndjson(*reports, {"task_id": task_id, "status": "completed"}))).lines
    assert refused(again.pop(6)) == (7, "key_reused")
    assert again.pop() == accepted(301, task_id, 301, status="completed", attempt=attempt)
    assert again == [accepted(n, task_id, n, attempt=attempt, repeat=True) for n in range(1, 301) if n != 7]
    assert (await get(gateway, f"/v1/tasks/{task_id}"))["seq"] == 301


@in_the_module
async def test_a_bad_line_harms_no_other(gateway: Gateway, task_id: str) -> None:
    """It is refused in its place, with its id where it has one; blank lines are counted and not answered."""
    good = orjson.dumps({"task_id": task_id, "id": 1, "type": "report"})
    body = [
        (good, None),
        (b'{"task_id":', "bad_json"),
        (b"", "blank"),
        (b" \t\r", "blank"),
        (good + b"\r", None),
        (b'{"id":1,"task_id":"no spaces"}', "bad_task_id"),
        (b'{"id":1}', "bad_request"),
        (b'{"id":1,"task_id":"a","n":1}', "bad_request"),
        (b'{"id":1,"type":"dance"}', "unknown_type"),
        (b'{"id":1,"type":"create","task_id":"a"}', "bad_request"),
        (b"\xff\xfe", "bad_json"),
        (b"[%b]" % good, "bad_request"),
        (b'{"task_id":"a","data":"' + b"x" * FRAME_BYTES + b'"}', "frame_too_large"),
        (b"{" * FRAME_BYTES, "bad_json"),
        (b"[" * 20 * FRAME_BYTES, "frame_too_large"),
        (b'{"id":1,"task_id":"a","data":"' + b"x" * 17_000 + b'"}', "bad_request"),
        (b'{"id":1,"task_id":"a","stage":"\\u0000"}', "bad_request"),
        (b'{"id":1,"task_id":"%b","status":"pending"}' % task_id.encode(), "illegal_transition"),
        (good, None),
    ]
    lines = (await post(gateway, b"\n".join(line for line, _ in body))).lines
    ok = [line for line in lines if line["ok"]]
    assert ok == [accepted(line, task_id, seq, id=1) for seq, line in ((1, 1), (2, 5), (3, len(body)))]
    wrong = [(number, code) for number, (_, code) in enumerate(body, 1) if code not in {None, "blank"}]
    assert [refused(line) for line in lines if not line["ok"]] == wrong
    assert [line["line"] for line in lines] == sorted(line["line"] for line in lines)
    assert all(line["id"] == 1 for line in lines if body[line["line"] - 1][0].startswith(b'{"id":1'))


@in_the_module
async def test_outcomes_come_while_the_batch_is_sent(gateway: Gateway, task_id: str) -> None:
    """Each is told as soon as it is committed; a line may come in any number of pieces."""
    async with sender(gateway) as client:
        for number in range(1, 4):
            for byte in ndjson({"task_id": task_id, "progress": number}):
                await client.send(bytes([byte]))
            assert await client.outcome() == accepted(number, task_id, number)
        await client.send(orjson.dumps({"task_id": task_id, "status": "completed"}))  # no LF
        await client.end()
        assert await client.outcome() == accepted(4, task_id, 4, status="completed")


@in_the_module
async def test_an_empty_batch_is_a_batch(gateway: Gateway) -> None:
    """Nothing sent, nothing to tell; the same for blank lines."""
    for body in (b"", b"\n", b"\r\n \n\n"):
        assert (await post(gateway, body)).lines == []
    assert (await post(gateway, gzip.compress(b""), Content_Encoding="gzip")).lines == []


# What may come in


@in_the_module
@pytest.mark.parametrize(
    ("headers", "body", "code", "word"),
    [
        ({"Content_Type": "application/json"}, b"{}", "unsupported_media_type", "x-ndjson"),
        ({"Content_Type": "application/x-www-form-urlencoded"}, b"{}", "unsupported_media_type", "x-ndjson"),
        ({"Content_Type": "text/plain"}, b"{}", "unsupported_media_type", "x-ndjson"),
        ({"Content_Encoding": "br"}, b"{}", "unsupported_media_type", "gzip"),
        ({"Content_Encoding": "gzip, gzip"}, b"{}", "unsupported_media_type", "gzip"),
        ({"Content_Encoding": "deflate"}, b"{}", "unsupported_media_type", "gzip"),
        ({"Idempotency_Key": "k"}, b"{}", "bad_request", "key"),
        ({"Content_Length": str(REQUEST_BYTES + 1)}, b"", "request_too_large", str(REQUEST_BYTES)),
        ({}, b"\n" * (LINES + 1), "request_too_large", str(LINES)),
        ({"Content_Encoding": "gzip"}, b"", "bad_request", "empty"),
        ({"Content_Encoding": "gzip"}, b'{"task_id":"a"}\n', "bad_request", "gzip"),
        ({"Content_Encoding": "gzip"}, gzip.compress(b"")[:-1], "bad_request", "breaks off"),
        ({"Content_Encoding": "gzip"}, gzip.compress(b"\n" * 20_000_000), "request_too_large", "100"),
    ],
    ids=range(13),
)
async def test_what_cannot_be_read_at_all_is_a_problem(
    gateway: Gateway, headers: dict[str, str], body: bytes, code: str, word: str
) -> None:
    """Before the first outcome an error has its own status, as on every other route."""
    answer = await post(gateway, body, **headers)
    assert word in answer.is_problem(code)["detail"]
    if code == "unsupported_media_type":
        assert answer.headers.keys() & {"accept-post", "accept-encoding"}


@in_the_module
async def test_only_batches_may_be_packed(gateway: Gateway, task_id: str) -> None:
    """On every other route it is said clearly, and nothing is inflated; the method is looked at too."""
    member = gzip.compress(bytes(10_000_000))
    began = time.process_time()
    gzip.decompress(member * 10)
    inflating_seconds = time.process_time() - began
    for path in ("/v1/tasks", f"/v1/tasks/{task_id}/transitions", f"/v1/tasks/{task_id}/cancel"):
        began = time.process_time()
        answer = await post(gateway, member * 300, path, Content_Encoding="gzip")
        assert time.process_time() - began < 3 * inflating_seconds, "a tenth of what it would take"
        assert "/v1/transitions" in answer.is_problem("unsupported_media_type")["detail"]
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.http}/v1/transitions") as refused_:
        assert (refused_.status, refused_.headers["Allow"]) == (405, "POST")


@in_the_module
async def test_a_packed_batch_is_a_batch(gateway: Gateway, task_id: str) -> None:
    """In one gzip file or in several one after the other, which may part a line; the type may have other names."""
    body = ndjson(*({"task_id": task_id, "attempt": 1, "n": n} for n in range(1, 5_001)))
    packed = gzip.compress(body[:1_000]) + gzip.compress(b"") + gzip.compress(body[1_000:])
    for repeat, (data, coding) in enumerate([(packed, "gzip"), (gzip.compress(body), "X-GZIP"), (body, "identity")]):
        answer = await post(gateway, data, Content_Encoding=coding, Content_Type="application/jsonl; charset=utf-8")
        assert answer.lines == [accepted(n, task_id, n, attempt=1, repeat=repeat > 0) for n in range(1, 5_001)]


@in_the_module
async def test_damage_in_the_middle_ends_the_answer_in_words(gateway: Gateway, task_id: str) -> None:
    """What came before it is done and told; the last line says from where on nothing was looked at."""
    body = ndjson(*({"task_id": task_id, "attempt": 1, "n": n} for n in range(1, 2_001)))
    whole = gzip.compress(body)
    damages: list[tuple[bytes, dict[str, str], str, int | None]] = [
        (whole[:-1], {}, "bad_request", 2_001),
        (whole[: len(whole) // 2], {}, "bad_request", None),
        (whole + b"garbage", {}, "bad_request", 2_001),
        (whole + gzip.compress(bytes(10_000_000)) * 1_000, {}, "request_too_large", 2_002),
        (whole + gzip.compress(b"\n" * 10_000_000), {}, "request_too_large", LINES + 1),
        (whole + gzip.compress(b"") * 1_000, {}, "request_too_large", 2_001),
        (body + b"\n" * LINES, {"Content_Encoding": "identity"}, "request_too_large", LINES + 1),
    ]
    for data, headers, code, from_line in damages:
        async with asyncio.timeout(WAIT_SECONDS):
            *lines, last = (await post(gateway, data, **{"Content_Encoding": "gzip", **headers})).lines
        got, told = broken_off(last)
        assert told == code, last
        assert got == (from_line or len(lines) + 1)
        done = [line for line in lines if line["ok"]]
        assert len(done) == 2_000 or (from_line is None and 500 < len(done) < 2_000)
        assert [line["seq"] for line in done] == list(range(1, len(done) + 1))
    assert (await get(gateway, f"/v1/tasks/{task_id}"))["seq"] == 2_000
    await none_left(gateway)


@in_the_module
async def test_an_array_in_a_frame_has_an_outcome_for_each(gateway: Gateway, task_id: str) -> None:
    """Over the WebSocket: as many as a frame may have, in their order; a bad one harms no other, one too many does."""
    async with gateway.client() as peer:
        frame = [{"type": "report", "id": n, "task_id": f"{task_id}-{n % 3}", "key": f"k{n}"} for n in range(500)]
        frame[7] = {"type": "report", "id": 7, "task_id": "no spaces"}
        frame[11] = {"type": "dance", "id": 11}
        for repeat in (False, True):
            await peer.send_many(frame)
            replies = {reply["id"]: reply for reply in [await peer.expect("reply") for _ in frame]}
            assert replies.pop(7)["error"]["code"] == "bad_task_id"
            assert replies.pop(11)["error"]["code"] == "unknown_type"
            sequences = dict.fromkeys(range(3), 0)
            for n, reply in sorted(replies.items()):
                sequences[n % 3] += 1
                assert (reply["ok"], reply["seq"], reply["repeat"]) == (True, sequences[n % 3], repeat)
            assert sum(sequences.values()) == 498
        await peer.send_many([*frame, {"type": "ping"}])
        assert (await peer.expect("reply", id=None, ok=False))["error"]["code"] == "bad_request"
        await peer.send(type="ping")
        await peer.expect("pong")


# Bounds


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


# The database and the end


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
