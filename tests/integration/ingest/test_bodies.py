"""What a batch may be made of, and what becomes of one that cannot be read."""

from __future__ import annotations

import asyncio
import gzip
import time

import aiohttp
import pytest

from gateway.http.intake import LINES, REQUEST_BYTES
from tests.support.batches import accepted, broken_off, get, in_the_module, ndjson, none_left, post
from tests.support.gateway import Gateway
from tests.support.waiting import WAIT_SECONDS


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
