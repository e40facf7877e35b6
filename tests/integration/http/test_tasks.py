"""The routes of one task, as docs/protocol.md has them: creating, looking, changing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any

import pytest

from ledger.model import TASK_ID
from tests.support.http import Answer, Http

pytestmark = pytest.mark.asyncio(loop_scope="module")


SOONER_SECONDS = 40.0  # than the 60 that the request may wait


# Creating


async def test_create_makes_an_id_when_none_is_given(http: Http) -> None:
    """201, a place to look at, and the members of a reply; each time another task."""
    answers = [await http("POST /v1/tasks", {"kind": "import", "data": {"file": "a.csv"}}) for _ in range(2)]
    made = [answer.json for answer in answers]
    for answer, body in zip(answers, made, strict=True):
        assert answer.status == 201
        assert TASK_ID.fullmatch(body["task_id"])
        assert body == {
            "task_id": body["task_id"], "seq": 1, "status": "pending", "attempt": 0, "repeat": False,
        }  # fmt: skip
        assert answer.headers["location"] == f"/v1/tasks/{body['task_id']}"
        task = (await http(f"GET {answer.headers['location']}")).json
        assert (task["kind"], task["data"]) == ("import", {"file": "a.csv"})
    assert made[0]["task_id"] != made[1]["task_id"]


async def test_create_with_an_id_is_repeatable_and_then_taken(http: Http, task_id: str) -> None:
    """The same content again is a repeat; other content for the id is a conflict that says so."""
    wish = {"task_id": task_id, "kind": "import", "owner": "alice", "data": [1]}
    first, again = await http("POST /v1/tasks", wish), await http("POST /v1/tasks", wish)
    assert (first.status, again.status) == (201, 200)
    assert again.json == {**first.json, "repeat": True}
    other = await http("POST /v1/tasks", {**wish, "data": [2]})
    assert task_id in other.is_problem("task_exists")["detail"]
    assert (await http(f"GET /v1/tasks/{task_id}")).json["data"] == [1]


async def test_create_with_an_idempotency_key_makes_one_task(http: Http) -> None:
    """The key finds the same task again, also when many ask at once; with other content it is refused."""
    key = secrets.token_hex(8)
    answers = await asyncio.gather(*(http("POST /v1/tasks", {"kind": "a"}, Idempotency_Key=key) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200] * 5 + [201]
    assert len({answer.json["task_id"] for answer in answers}) == 1
    assert {answer.json["seq"] for answer in answers} == {1}
    await http.report(answers[0].json["task_id"], status="completed")
    later = await http("POST /v1/tasks", {"kind": "a"}, Idempotency_Key=key)
    assert (later.status, later.json) == (200, {**answers[0].json, "repeat": True}), "the first answer"
    reused = await http("POST /v1/tasks", {"kind": "b"}, Idempotency_Key=key)
    reused.is_problem("key_reused")
    other = await http("POST /v1/tasks", {"kind": "b"}, Idempotency_Key=key + "-2")
    assert other.status == 201
    assert other.json["task_id"] != later.json["task_id"]


# Looking


async def test_a_task_has_an_etag_that_changes_with_it(http: Http, task_id: str) -> None:
    """`epoch:seq`; 304 while nothing has happened, with no body; a running task says when to ask again."""
    await http.report(task_id, progress=40, stage="read", data={"n": 1})
    first = await http(f"GET /v1/tasks/{task_id}")
    epoch = first.json["epoch"]
    assert first.headers["etag"] == f'"{epoch}:1"'
    assert (first.status, first.json["status"], first.json["progress"], first.json["data"]) == (
        200, "running", 40, {"n": 1},
    )  # fmt: skip
    assert int(first.headers["retry-after"]) >= 1
    for known in (first.headers["etag"], "W/" + first.headers["etag"], f'"x", {first.headers["etag"]}'):
        unchanged = await http(f"GET /v1/tasks/{task_id}", If_None_Match=known)
        assert (unchanged.status, unchanged.text) == (304, "")
        assert unchanged.headers["etag"] == first.headers["etag"]
    await http.report(task_id, status="completed")
    ended = await http(f"GET /v1/tasks/{task_id}", If_None_Match=first.headers["etag"])
    assert (ended.status, ended.headers["etag"]) == (200, f'"{epoch}:2"')
    assert "retry-after" not in ended.headers


async def test_an_unknown_task_is_told_from_a_wrong_path(http: Http, task_id: str) -> None:
    """Both are 404, with different codes and sentences."""
    for path in ("", "/transitions", "/events"):
        body = (await http(f"GET /v1/tasks/{task_id}{path}")).is_problem("unknown_task")
        assert task_id in body["detail"]
        assert "path is right" in body["detail"]
    body = (await http(f"GET /v1/task/{task_id}")).is_problem("unknown_path")
    assert "/v1/tasks/{task_id}" in body["detail"]


async def begun(http: Http, wish: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
    """A request under way that the server has looked at: others that came later are answered already."""
    waiting = asyncio.create_task(wish)
    for _ in range(5):
        await http("GET /v1/tasks?limit=1")
    assert not waiting.done(), "it should wait"
    return waiting


async def test_prefer_wait_answers_when_the_task_has_passed(http: Http, task_id: str) -> None:
    """The request is held until the sequence is beyond `after`, and answered at once then."""
    await http.report(task_id, progress=1)
    waiting = await begun(http, http(f"GET /v1/tasks/{task_id}?after=2", Prefer="respond-async, wait=60"))
    await http.report(task_id, progress=2)
    assert not waiting.done(), "it has not passed yet"
    await http.report(task_id, progress=3)
    async with asyncio.timeout(SOONER_SECONDS):
        assert (await waiting).json["seq"] == 3
    at_once = await http(f"GET /v1/tasks/{task_id}?after=2", Prefer="wait=60")
    assert at_once.json["seq"] == 3


async def test_prefer_wait_waits_for_a_task_that_does_not_exist_yet(http: Http, task_id: str) -> None:
    """An unknown id is held too, and answered with the task when it appears."""
    waiting = await begun(http, http(f"GET /v1/tasks/{task_id}", Prefer="wait=60"))
    await http.report(task_id, progress=1)
    async with asyncio.timeout(SOONER_SECONDS):
        answer = await waiting
    assert (answer.status, answer.json["seq"]) == (200, 1)


async def test_prefer_wait_ends_with_its_time_and_with_the_task(http: Http, task_id: str) -> None:
    """When the time is over the task is given as it is, or is unknown still; an ended task is not waited for."""
    await http.report(task_id, progress=1)
    begin = asyncio.get_running_loop().time()
    as_it_is, unknown = await asyncio.gather(
        http(f"GET /v1/tasks/{task_id}?after=1", Prefer="wait=1"),
        http(f"GET /v1/tasks/not-{task_id}?after=1", Prefer="wait=1"),
    )
    assert 1 <= asyncio.get_running_loop().time() - begin < 5
    assert (as_it_is.status, as_it_is.json["seq"]) == (200, 1)
    unknown.is_problem("unknown_task")
    await http.report(task_id, status="failed", error="disk full")
    async with asyncio.timeout(SOONER_SECONDS):
        ended = await http(f"GET /v1/tasks/{task_id}?after=2", Prefer="wait=60")
    assert (ended.json["status"], ended.json["error"]) == ("failed", "disk full")


async def test_transitions_come_in_pages(http: Http, task_id: str) -> None:
    """In sequence, after a sequence, so many at a time; `more` says whether to ask again."""
    for number in range(7):
        await http.report(task_id, progress=number, data=[number])
    got: list[Any] = []
    more, asked = True, 0
    while more:
        after = got[-1]["seq"] if got else 0
        page = (await http(f"GET /v1/tasks/{task_id}/transitions?after={after}&limit=3")).json
        more, asked = page["more"], asked + 1
        got += page["transitions"]
    assert asked == 3
    assert [(step["seq"], step["progress"], step["data"]) for step in got] == [(n + 1, n, [n]) for n in range(7)]
    everything = (await http(f"GET /v1/tasks/{task_id}/transitions")).json
    assert (everything["transitions"], everything["more"]) == (got, False)
    beyond = (await http(f"GET /v1/tasks/{task_id}/transitions?after=99")).json
    assert (beyond["transitions"], beyond["more"]) == ([], False)


async def test_a_history_is_paged_and_filtered(http: Http, task_id: str) -> None:
    """`next` leads from page to page, newest first, through all tasks of an owner, and is null at the end."""
    owner = f"owner-{task_id}"
    for number in range(7):
        await http("POST /v1/tasks", {"task_id": f"{task_id}-{number}", "owner": owner, "kind": f"k{number % 2}"})
    await http.report(f"{task_id}-6", status="completed", result={"ok": True})
    got: list[Any] = []
    cursor: str | None = ""
    asked = 0
    while cursor is not None:
        page = (await http(f"GET /v1/tasks?owner={owner}&limit=3" + (f"&cursor={cursor}" if cursor else ""))).json
        got += page["tasks"]
        cursor, asked = page["next"], asked + 1
    assert asked == 3
    assert [task["task_id"] for task in got] == [f"{task_id}-{number}" for number in reversed(range(7))]
    assert got[0]["result"] == {"ok": True}

    async def names(filters: str) -> list[str]:
        tasks = (await http(f"GET /v1/tasks?owner={owner}&{filters}")).json["tasks"]
        return [task["task_id"].removeprefix(f"{task_id}-") for task in tasks]

    assert await names("kind=k1") == ["5", "3", "1"]
    assert await names("status=completed") == ["6"]
    assert await names("status=completed,pending&kind=k0") == ["6", "4", "2", "0"]
    assert await names("status=lost") == []


# Changing


async def test_a_report_over_http_is_a_report(http: Http, task_id: str) -> None:
    """The members of a `report`, the path says of which task; a repeat by number or by key gets the first answer."""
    path = f"POST /v1/tasks/{task_id}/transitions"
    first = await http(path, {"attempt": "new", "stage": "read"}, Idempotency_Key="one")
    assert first.json == {"task_id": task_id, "seq": 1, "status": "running", "attempt": 1, "repeat": False}
    again = await http(path, {"attempt": "new", "stage": "read"}, Idempotency_Key="one")
    assert again.json == {**first.json, "repeat": True}
    (await http(path, {"attempt": "new", "stage": "write"}, Idempotency_Key="one")).is_problem("key_reused")
    numbered = {"attempt": 1, "n": 1, "progress": 50}
    assert [(await http(path, numbered)).json["seq"] for _ in range(2)] == [2, 2]
    (await http(path, {**numbered, "progress": 51})).is_problem("key_reused")
    await http.report(task_id, attempt=2, n=1, status="completed", result=[1])
    ended = (await http(path, {"progress": 99})).is_problem("task_ended")
    assert task_id in ended["detail"]
    (await http(path, {"attempt": 1, "n": 2})).is_problem("fenced")
    assert (await http(f"GET /v1/tasks/{task_id}")).json["seq"] == 3


async def test_a_body_may_repeat_the_task_id_of_its_path(http: Http, task_id: str) -> None:
    """The same id is taken; another one is refused (see `WRONG`), and nothing is written for either task."""
    path = f"POST /v1/tasks/{task_id}/transitions"
    assert (await http(path, {"task_id": task_id, "progress": 1})).json["seq"] == 1
    (await http(path, {"task_id": f"{task_id}-2", "progress": 2})).is_problem("bad_request")
    assert (await http(f"GET /v1/tasks/{task_id}")).json["seq"] == 1
    (await http(f"GET /v1/tasks/{task_id}-2")).is_problem("unknown_task")


async def test_a_cancel_over_http_goes_through_its_stages(http: Http, task_id: str) -> None:
    """With or without a body; repeated it tells how far it has come; at an end it is too late."""
    await http.report(task_id, progress=1)
    path = f"POST /v1/tasks/{task_id}/cancel"
    recorded = await http(path, {"reason": "typo"})
    assert recorded.status == 200
    assert recorded.json["cancel"] == {"stage": "recorded", "seq": 2, "reason": "typo"}
    assert recorded.json["status"] == "cancelling"
    again = await http(path)
    assert (again.json["repeat"], again.json["cancel"]) == (True, recorded.json["cancel"])
    told = await http.report(task_id, cancel="delivered")
    assert told["cancel"]["stage"] == "delivered"
    await http.report(task_id, status="cancelled")
    honoured = (await http(path)).json
    assert (honoured["cancel"]["stage"], honoured["status"]) == ("honoured", "cancelled")
    await http.report(f"{task_id}-2", status="completed")
    late = (await http(f"POST /v1/tasks/{task_id}-2/cancel")).json
    assert (late["cancel"]["stage"], late["seq"], late["status"]) == ("too_late", 1, "completed")


async def test_a_cancel_with_a_key_is_one_cancel(http: Http, task_id: str) -> None:
    """Also when the task went on in between: the key's answer is that of its own request."""
    path = f"POST /v1/tasks/{task_id}/cancel"
    early = (await http(path, {"reason": "a"}, Idempotency_Key="k")).json
    assert (early["seq"], early["cancel"]["stage"]) == (1, "recorded")
    ended = (await http("POST /v1/tasks", {"task_id": task_id})).json
    assert (ended["status"], ended["seq"]) == ("cancelled", 2)
    again = (await http(path, {"reason": "a"}, Idempotency_Key="k")).json
    assert (again["seq"], again["repeat"], again["cancel"]["stage"]) == (1, True, "honoured")
    (await http(path, {"reason": "b"}, Idempotency_Key="k")).is_problem("key_reused")
