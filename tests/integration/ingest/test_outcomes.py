"""Batches of reports over real sockets: every line has its outcome, in its place."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import pytest

from gateway.protocol.codec import FRAME_BYTES
from tests.support.batches import accepted, get, in_the_module, ndjson, none_left, post, refused, sender
from tests.support.gateway import Gateway


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
        steps: list[dict[str, Any]] = []
        more = True
        while more:
            page = await get(gateway, f"/v1/tasks/{task_id}-{number}/transitions?after={len(steps)}&limit=500")
            steps += page["transitions"]
            more = page["more"]
        assert [(step["seq"], step["data"]) for step in steps] == [(n, [n]) for n in range(1, each + 1)]
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
