"""Every error of the HTTP routes says what is wrong, and whose fault it is."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.support.http import Http

pytestmark = pytest.mark.asyncio(loop_scope="module")


LONG = "x" * 129


WRONG: list[tuple[str, Any, str, str]] = [
    # request, content, code, and a word that the sentence must have
    ("POST /v1/tasks", "{", "bad_json", "JSON"),
    ("POST /v1/tasks", "", "bad_json", "JSON"),
    ("POST /v1/tasks", "[" * 100_000, "frame_too_large", "65536"),
    ("POST /v1/tasks", "[" * 60_000, "bad_json", "JSON"),
    ("POST /v1/tasks", "[]", "bad_request", "object"),
    ("POST /v1/tasks", {"data": "x" * 70_000}, "frame_too_large", "65536"),
    ("POST /v1/tasks", {"data": "x" * 17_000}, "bad_request", "data"),
    ("POST /v1/tasks", {"kind": 5}, "bad_request", "kind"),
    ("POST /v1/tasks", {"kind": LONG}, "bad_request", "kind"),
    ("POST /v1/tasks", {"kind": "a\0b"}, "bad_request", "kind"),
    ("POST /v1/tasks", f'{{"data": {2**70}}}', "bad_request", "data"),
    ("POST /v1/tasks", '{"data": "\\ud800"}', "bad_json", "JSON"),
    ("POST /v1/tasks", {"task_id": 5}, "bad_request", "task_id"),
    ("POST /v1/tasks", {"task_id": "no spaces"}, "bad_task_id", "128"),
    ("POST /v1/tasks", {"task_id": ""}, "bad_task_id", "128"),
    ("GET /v1/tasks/no%20spaces", None, "bad_task_id", "128"),
    ("GET /v1/tasks/-a", None, "bad_task_id", "128"),
    ("GET /v1/tasks/%FF", None, "bad_task_id", "128"),
    (f"GET /v1/tasks/{LONG}", None, "bad_task_id", "128"),
    (f"GET /v1/tasks/{LONG}/transitions", None, "bad_task_id", "128"),
    (f"GET /v1/tasks/{LONG}/events", None, "bad_task_id", "128"),
    (f"POST /v1/tasks/{LONG}/cancel", None, "bad_task_id", "128"),
    ("GET /v1/tasks?status=sleeping", None, "bad_request", "running"),
    ("GET /v1/tasks?cursor=!!!", None, "bad_request", "cursor"),
    ("GET /v1/tasks?cursor=AAAA", None, "bad_request", "cursor"),
    ("GET /v1/tasks?limit=-1", None, "bad_request", "limit"),
    ("GET /v1/tasks?limit=0", None, "bad_request", "limit"),
    ("GET /v1/tasks?limit=201", None, "bad_request", "limit"),
    ("GET /v1/tasks?limit=ten", None, "bad_request", "limit"),
    ("GET /v1/tasks?owner=%00", None, "bad_request", ""),
    ("GET /v1/tasks/a?after=-1", None, "bad_request", "after"),
    ("GET /v1/tasks/a?after=9223372036854775808", None, "bad_request", "after"),
    ("GET /v1/tasks/a/transitions?limit=0", None, "bad_request", "limit"),
    ("GET /v1/tasks/a/transitions?limit=501", None, "bad_request", "limit"),
    ("POST /v1/tasks/a/transitions", {"progress": 101}, "bad_request", "progress"),
    ("POST /v1/tasks/a/transitions", {"status": "lost"}, "bad_request", "status"),
    ("POST /v1/tasks/a/transitions", {"attempt": 2**31}, "bad_request", "attempt"),
    ("POST /v1/tasks/a/transitions", {"n": 1}, "bad_request", "attempt"),
    ("POST /v1/tasks/a/transitions", {"attempt": 1, "n": 1, "key": "k"}, "bad_request", "key"),
    ("POST /v1/tasks/a/transitions", {"result": "x" * 33_000}, "bad_request", "result"),
    ("POST /v1/tasks/a/cancel", {"reason": "x" * 3_000}, "bad_request", "reason"),
    ("POST /v1/tasks/a/cancel", "no json", "bad_json", "JSON"),
    (
        "POST /v1/tasks/x/transitions",
        {"task_id": "y"},
        "bad_request",
        "`task_id` in the body is y, but the path says x.",
    ),
    ("POST /v1/tasks/x/transitions", {"task_id": 5}, "bad_request", "path says x"),
    ("POST /v1/tasks/x/cancel", {"task_id": "y"}, "bad_request", "path says x"),
    ("POST /v1/tasks/x/beat", {"task_id": "y"}, "bad_request", "path says x"),
    ("GET /v1/poll", None, "bad_request", "Name 1 to 100 task ids: ?ids=a,b"),
    ("GET /v1/poll?ids=", None, "bad_request", "?ids=a,b"),
    ("GET /v1/poll?ids=a,,b", None, "bad_task_id", "128"),
    ("GET /v1/poll?ids=a,b&after=1", None, "bad_request", "after"),
    ("GET /v1/poll?ids=a&after=x", None, "bad_request", "after"),
    ("GET /v1/poll?ids=" + ",".join(["a"] * 101), None, "bad_request", "100"),
    ("GET /v1/ws", None, "bad_request", "WebSocket"),
    ("GET /v2/tasks", None, "unknown_path", "/v1/tasks"),
    ("GET /v1/tasks/a/b", None, "unknown_path", "/v1/tasks"),
    ("GET /%FF%00", None, "unknown_path", "/v1/tasks"),
    ("DELETE /v1/tasks/a", None, "method_not_allowed", "GET"),
    ("PUT /v1/tasks", "{}", "method_not_allowed", "POST"),
    ("POST /health/live", "{}", "method_not_allowed", "GET"),
]


@pytest.mark.parametrize(("request_", "content", "code", "word"), WRONG, ids=range(len(WRONG)))
async def test_every_error_says_what_is_wrong(http: Http, request_: str, content: Any, code: str, word: str) -> None:
    """Problem details with the code of the table, and a sentence that names what to change."""
    answer = await http(request_, content)
    body = answer.is_problem(code)
    assert word in body["detail"]
    if code == "method_not_allowed":
        assert word in answer.headers["allow"].split(", ")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"Idempotency-Key: " + b"k" * 129, "bad_request"),
        (b"Idempotency-Key: \xff\xfe", "bad_request"),
        (b"Idempotency-Key: caf\xc3\xa9", None),
        (b"Content-Type: application/json; charset=no-such", None),  # a body is UTF-8 whatever it claims
        (b"Content-Type: application/json; charset=punycode", None),
        (b"Upgrade: websocket", None),
        (b"Origin: http://[::1", "forbidden"),
        (b"Origin: \xff", "forbidden"),
    ],
)
async def test_strange_headers_are_the_clients_fault(http: Http, header: bytes, code: str | None) -> None:
    """Whatever bytes a header has, the answer is never a fault of the server."""
    head = b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n" + header
    got = await http.raw(head + b"\r\n\r\n{}")
    status = int(got.split(b" ", 2)[1])
    assert status < 500, got
    if code is None:
        assert status == 201
    else:
        assert orjson.loads(got.partition(b"\r\n\r\n")[2])["code"] == code


async def test_a_broken_upgrade_is_a_problem_too(http: Http) -> None:
    """A WebSocket handshake without its key is answered like any other wrong request."""
    head = b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
    got = await http.raw(head + b"Sec-WebSocket-Version: 13\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 400 ")
    assert orjson.loads(got.partition(b"\r\n\r\n")[2])["code"] == "bad_request"
