"""Every route of docs/protocol.md over real sockets: tasks, events, polls, health, and who may knock.

Two gateways serve the whole file: `gateway` without authentication, `guarded` with a token file of two tenants. Each
test has task ids of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio
from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.protocol.errors import ERRORS
from ledger.model import TASK_ID
from tests.support.gateway import Gateway, Peer, in_process
from tests.support.postgres import Cluster, temporary_database, temporary_folder
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOONER_SECONDS = 40.0  # than the 60 that the request may wait
LISTED = "https://app.example"
TOKENS = {tenant: hashlib.sha256(tenant.encode()).hexdigest() for tenant in ("acme", "beta")}  # tests are named by them


class Answer(Struct, frozen=True):
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)

    def is_problem(self, code: str) -> Any:
        """The body, which must be the RFC 9457 answer for this code, as the table of errors has it."""
        body = self.json
        assert self.headers["content-type"] == "application/problem+json", self
        assert body.keys() >= {"type", "title", "status", "detail", "code", "retryable", "retry_after_ms"}
        assert body["code"] == code, body
        assert self.status == body["status"] == ERRORS[code].http
        assert body["retryable"] is ERRORS[code].retryable
        assert len(body["detail"]) >= 10
        return body


class Http:
    """A client of one gateway."""

    def __init__(self, session: aiohttp.ClientSession, gateway: Gateway) -> None:
        self.session = session
        self.gateway = gateway

    async def __call__(self, request: str, content: Any = None, **headers: str) -> Answer:
        """`GET /path` or `POST /path`; `content` becomes JSON, a str goes as it is. Header names are written with _."""
        method, path = request.split(" ", 1)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = content if content is None or isinstance(content, str) else orjson.dumps(content).decode()
        url = self.gateway.http + path
        async with self.session.request(method, url, data=body, headers=sent, allow_redirects=False) as answer:
            got = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, got, await answer.text())

    async def report(self, task_id: str, **members: Any) -> Any:
        answer = await self(f"POST /v1/tasks/{task_id}/transitions", members)
        assert answer.status == 200, answer
        return answer.json

    async def raw(self, head: bytes) -> bytes:
        """Send bytes that no client library would send; everything that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        writer.write(head)
        async with asyncio.timeout(WAIT_SECONDS):
            got = await reader.read()
        writer.close()
        return got


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cluster: Cluster) -> AsyncIterator[Gateway]:
    """Without authentication; its pings are frequent, so that a test can see one."""
    async with temporary_database(cluster) as dsn, in_process(dsn, ping_interval_seconds=1.0) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(cluster: Cluster) -> AsyncIterator[Gateway]:
    """With a token for a worker of each tenant, and one page that may connect."""
    with temporary_folder() as folder:
        tokens = folder / "tokens"
        tokens.write_text("".join(f"{tenant} worker {token}  # test\n" for tenant, token in TOKENS.items()))
        tokens.chmod(0o600)
        async with (
            temporary_database(cluster) as dsn,
            in_process(dsn, token_file=tokens, allowed_origins=(LISTED,)) as running,
        ):
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS)) as running:
        yield running


@pytest.fixture
def http(session: aiohttp.ClientSession, gateway: Gateway) -> Http:
    return Http(session, gateway)


@pytest.fixture
def door(session: aiohttp.ClientSession, guarded: Gateway) -> Http:
    return Http(session, guarded)


@pytest.fixture
def task_id() -> str:
    return f"task-{secrets.token_hex(6)}"


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


# Server-sent events


class Events:
    """A stream of events as they are on the wire: comments, and fields by name."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.comments: list[str] = []

    async def next(self) -> dict[str, str] | None:
        """The next event, past comments and `retry`; None at the end of the stream."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                block = b""
                while not block.endswith(b"\n\n"):
                    line = await self.answer.content.readline()
                    if not line:
                        assert not block
                        return None
                    block += line
                fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if line)
                if "" in fields or block.startswith(b":"):
                    self.comments.append(block.decode().strip(": \n"))
                elif "event" in fields:
                    return fields
                else:
                    assert int(fields["retry"]) > 0

    async def expect(self, event: str, **members: Any) -> dict[str, str]:
        got = await self.next()
        assert got is not None, f"the stream ended before {event}"
        assert got["event"] == event, got
        data = orjson.loads(got["data"])
        assert data["type"] == event
        state = data["task"] if event == "snapshot" else data
        assert {name: state.get(name) for name in members} == members, data
        return got


@asynccontextmanager
async def events(http: Http, task_id: str, **headers: str) -> AsyncIterator[Events]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.session.get(f"{http.gateway.http}/v1/tasks/{task_id}/events", headers=sent) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        yield Events(answer)


async def test_events_stream_a_task_to_its_end(http: Http, task_id: str) -> None:
    """Snapshot, then every transition with its id, pings as comments; the stream ends with the task."""
    await http.report(task_id, progress=1, data=[1])
    epoch = (await http(f"GET /v1/tasks/{task_id}")).json["epoch"]
    async with events(http, task_id) as stream:
        subscribed = await stream.expect("subscribed", task_id=task_id, verdict="live", seq=1, recovered=False)
        assert "id" not in subscribed
        snapshot = await stream.expect("snapshot", seq=1, data=[1])
        assert snapshot["id"] == f"{epoch}:1"
        for progress in (2, 3):
            await http.report(task_id, progress=progress)
            step = await stream.expect("transition", seq=progress, progress=progress)
            assert step["id"] == f"{epoch}:{progress}"
        following = asyncio.create_task(stream.next())
        while "ping" not in stream.comments:
            await asyncio.wait([following], timeout=0.05)
            assert not following.done(), following
        await http.report(task_id, status="completed", result={"rows": 3})
        ended = await following
        assert ended is not None
        assert (ended["event"], ended["id"]) == ("transition", f"{epoch}:4")
        assert orjson.loads(ended["data"])["result"] == {"rows": 3}
        assert await stream.next() is None


async def test_events_resume_exactly_where_the_browser_was(http: Http, task_id: str) -> None:
    """`Last-Event-ID` gives what was missed and no snapshot; from the end it gives 204, and the browser stops."""
    for progress in range(1, 6):
        await http.report(task_id, progress=progress)
    epoch = (await http(f"GET /v1/tasks/{task_id}")).json["epoch"]
    async with events(http, task_id, Last_Event_ID=f"{epoch}:2") as stream:
        await stream.expect("subscribed", verdict="live", seq=5, recovered=True)
        for seq in (3, 4, 5):
            await stream.expect("transition", seq=seq)
        await http.report(task_id, status="failed")
        await stream.expect("transition", seq=6, status="failed")
        assert await stream.next() is None
    async with events(http, task_id, Last_Event_ID=f"{epoch}:5") as stream:
        await stream.expect("subscribed", verdict="ended", seq=6, recovered=True)
        await stream.expect("transition", seq=6)
        assert await stream.next() is None
    nothing_more = await http(f"GET /v1/tasks/{task_id}/events", Last_Event_ID=f"{epoch}:6")
    assert (nothing_more.status, nothing_more.text) == (204, "")


@pytest.mark.parametrize("cursor", ["e-older:3", "$epoch:99"])
async def test_events_say_when_they_cannot_go_on_at_the_cursor(http: Http, task_id: str, cursor: str) -> None:
    """A cursor of another history, or beyond this one, gets a notice and a snapshot."""
    await http.report(task_id, status="completed")
    epoch = (await http(f"GET /v1/tasks/{task_id}")).json["epoch"]
    async with events(http, task_id, Last_Event_ID=cursor.replace("$epoch", epoch)) as stream:
        await stream.expect("subscribed", verdict="ended", seq=1, recovered=False)
        await stream.expect("notice", kind="jumped", to={"epoch": epoch, "seq": 1})
        await stream.expect("snapshot", seq=1, status="completed")
        assert await stream.next() is None


@pytest.mark.parametrize("cursor", ["", "nonsense", "e:", ":5", "e:-1", "e:1e3", "e:99999999999999999999"])
async def test_events_begin_anew_for_a_cursor_that_is_none(http: Http, task_id: str, cursor: str) -> None:
    """What cannot be read as `epoch:seq` is as if it had not been sent."""
    await http.report(task_id, status="completed")
    async with events(http, task_id, Last_Event_ID=cursor) as stream:
        await stream.expect("subscribed", verdict="ended", seq=1, recovered=False)
        await stream.expect("snapshot", seq=1)
        assert await stream.next() is None


async def test_a_browser_that_leaves_a_stream_leaves_nothing_behind(http: Http, task_id: str) -> None:
    """Many streams cut in the middle, then the task goes on, and a new stream has all of it."""
    await http.report(task_id, progress=0)
    for _ in range(10):
        async with events(http, task_id) as stream:
            await stream.expect("subscribed")
    for progress in range(1, 10):
        await http.report(task_id, progress=progress)
    async with events(http, task_id) as stream:
        await stream.expect("subscribed", seq=10)
        await stream.expect("snapshot", progress=9)


# Polling, health, and the rest


async def test_poll_tells_of_many_tasks_at_once(http: Http, task_id: str) -> None:
    """Each id gets a verdict in its place; a task that is not newer than `after` comes without its content."""
    live, ended, unknown = (f"{task_id}-{name}" for name in ("live", "ended", "unknown"))
    await http.report(live, progress=10)
    await http.report(ended, status="completed")
    ids = f"ids={live},{ended},{unknown}"
    first = (await http(f"GET /v1/poll?{ids}")).json
    assert [(one["task_id"], one["verdict"]) for one in first["tasks"]] == [
        (live, "live"), (ended, "ended"), (unknown, "unknown"),
    ]  # fmt: skip
    assert ["task" in one for one in first["tasks"]] == [True, True, False]
    assert first["tasks"][0]["task"]["progress"] == 10
    unchanged = (await http(f"GET /v1/poll?{ids}&after=1,1,0&epoch={first['epoch']}")).json
    assert ["task" in one for one in unchanged["tasks"]] == [False, False, False]
    await http.report(live, progress=20)
    changed = (await http(f"GET /v1/poll?{ids}&after=1,1,0&epoch={first['epoch']}")).json
    assert ["task" in one for one in changed["tasks"]] == [True, False, False]
    rewound = (await http(f"GET /v1/poll?{ids}&after=9,9,9&epoch=e-older")).json
    assert ["task" in one for one in rewound["tasks"]] == [True, True, False], (
        "sequences of another history say nothing"
    )


async def test_health_and_index_need_no_token(door: Http) -> None:
    """Live, ready, the pools in figures, and where things are; none of them tells of any task."""
    assert (await door("GET /health/live")).json == {"status": "live"}
    ready = await door("GET /health/ready")
    assert (ready.status, ready.json) == (200, {"status": "ready"})
    db = await door("GET /health/db")
    figures = db.json
    assert db.headers["cache-control"] == "no-store"
    assert figures.keys() >= {"pool_size", "checked_in", "checked_out", "overflow", "waiting", "lanes"}
    assert figures["lanes"].keys() == {"write", "read", "control"}
    assert figures["pool_size"] == sum(lane["pool_size"] for lane in figures["lanes"].values()) >= 3
    assert figures["degraded"] is False
    index = (await door("GET /")).json
    assert index["name"] == "ledgerwire"
    assert index["websocket"] == "/v1/ws"


# Who may knock: pages


def own_origin(http: Http) -> str:
    return http.gateway.http


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),  # a program, or a page's own GET
        (own_origin, True),
        (LISTED, True),
        (LISTED + ":444", False),
        (LISTED.replace("https", "http"), False),
        ("https://evil.example", False),
        (LISTED + ".evil.example", False),
        ("null", False),
        ("http://[::1", False),
        ("http://localhost", False),
    ],
)
async def test_pages_of_other_origins_are_refused(
    door: Http, origin: str | Callable[[Http], str] | None, allowed: bool
) -> None:
    """The server's own pages and listed ones may connect, over HTTP and by WebSocket; programs send no Origin."""
    value = origin(door) if callable(origin) else origin
    headers = {"Authorization": f"Bearer {TOKENS['acme']}", **({"Origin": value} if value else {})}
    answer = await door("GET /v1/tasks", **headers)
    upgrade = connect(door.gateway.ws, origin=value, compression=None)  # type: ignore[arg-type] # a NewType of str
    if allowed:
        assert answer.status == 200
        assert answer.headers.get("access-control-allow-origin") == value
        async with upgrade as socket:
            peer = Peer(socket)
            await peer.send(type="hello", v=1, token=TOKENS["acme"])
            await peer.expect("welcome")
        return
    body = answer.is_problem("forbidden")
    assert "access-control-allow-origin" not in answer.headers
    if value in {"https://evil.example", LISTED + ":444"}:
        assert f"--allow-origin {value}" in body["detail"], "the cure"
    with pytest.raises(InvalidStatus) as refused:
        async with upgrade:
            pass
    assert refused.value.response.status_code == 403
    assert orjson.loads(refused.value.response.body or b"")["code"] == "forbidden"


async def test_a_listed_page_may_ask_beforehand_and_read_errors(door: Http) -> None:
    """A preflight is answered without a token; errors carry the headers too, or the page could not read them."""
    preflight = await door("OPTIONS /v1/tasks", Origin=LISTED, Access_Control_Request_Method="POST")
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == LISTED
    assert "POST" in preflight.headers["access-control-allow-methods"]
    asked = {"authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id", "prefer"}
    assert asked <= set(preflight.headers["access-control-allow-headers"].lower().split(", "))
    for request in ("GET /v1/tasks", "GET /nowhere", "DELETE /v1/tasks"):
        answer = await door(request, Origin=LISTED)
        assert answer.status in {401, 404, 405}
        assert answer.headers["access-control-allow-origin"] == LISTED
        assert "ETag" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::1", "", "a b"])
async def test_without_authentication_only_this_machine_is_a_host(http: Http, host: str) -> None:
    """A page whose name was made to point at 127.0.0.1 is its own origin, but not this machine's name."""
    head = f"GET /v1/tasks HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: close\r\n\r\n"
    got = await http.raw(head.encode())
    assert got.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")), got
    if host == "evil.example":
        body = orjson.loads(got.partition(b"\r\n\r\n")[2])
        assert body["code"] == "forbidden"
        assert "--token-file" in body["detail"], "the cure"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_the_names_of_this_machine_are_hosts(http: Http, host: str) -> None:
    """With any port, as behind a forwarded one."""
    for name in (host, f"{host}:{http.gateway.port}", f"{host}:1"):
        assert (await http("GET /v1/tasks?limit=1", Host=name)).status == 200


async def test_with_authentication_any_host_is_served(door: Http) -> None:
    """Behind a proxy the server is called by its public name."""
    answer = await door("GET /v1/tasks", Host="tasks.example", Authorization=f"Bearer {TOKENS['acme']}")
    assert answer.status == 200


# Who may knock: tokens


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer " + "x" * 43,
        f"Basic {TOKENS['acme']}",
        TOKENS["acme"],
        f"Bearer {TOKENS['acme']}x",
        f"Bearer {TOKENS['acme'][:-1]}",
        f"Bearer {TOKENS['acme']} {TOKENS['beta']}",
        "Bearer \u00e9",
    ],
)
async def test_every_task_route_needs_a_valid_token(door: Http, authorization: str | None) -> None:
    """401 with what to send; the same for every wrong token, and before the path is looked at."""
    headers = {} if authorization is None else {"Authorization": authorization}
    bodies = set()
    for request in (
        "GET /v1/tasks",
        "GET /v1/tasks/a",
        "POST /v1/tasks",
        "GET /v1/tasks/a/events",
        "GET /v1/poll?ids=a",
    ):
        answer = await door(request, **headers)
        answer.is_problem("unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "acme" not in answer.text
        bodies.add(answer.text)
    assert len(bodies) == 1


async def test_a_websocket_takes_the_token_in_hello_or_in_the_header(door: Http) -> None:
    """Without a valid one it is told `bye` and not to come back; a refresh must belong to the same principal."""
    for token in (None, "x" * 43, ""):
        async with door.gateway.client(hello=False) as peer:
            await peer.send(type="hello", v=1, token=token)
            await peer.expect("bye", code=4501, retry=False, reason="unauthenticated")
            if token is None:
                assert await peer.closed() == 4501
    async with door.gateway.client(additional_headers={"Authorization": f"Bearer {TOKENS['acme']}"}) as peer:
        assert (await peer.ask(type="refresh", token=TOKENS["acme"]))["ok"] is True
        for token, code in ((TOKENS["beta"], "forbidden"), ("y" * 43, "unauthenticated")):
            assert (await peer.ask(type="refresh", token=token))["error"]["code"] == code
        assert (await peer.ask(type="report", task_id="after-refusals"))["ok"] is True, "as it was before"


async def test_another_tenants_task_looks_exactly_like_none(door: Http, task_id: str) -> None:
    """For every way to look, the bytes are the same whether the id exists at the other tenant or nowhere."""
    acme, beta = ({"Authorization": f"Bearer {TOKENS[tenant]}"} for tenant in ("acme", "beta"))
    there, nowhere = f"{task_id}-a", f"{task_id}-b"
    for members in ({"progress": 1, "owner": task_id}, {"status": "completed", "result": "secret"}):
        made = await door(f"POST /v1/tasks/{there}/transitions", members, **acme)
        assert made.status == 200
    token = TOKENS["beta"]

    async def look(request: str, id_: str) -> bytes:
        method, path = request.replace("$id", id_).split(" ")
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
        got = await door.raw(f"{head}Prefer: wait=0\r\nLast-Event-ID: e-1:2\r\nContent-Length: 0\r\n\r\n".encode())
        return re.sub(rb"(?m)^Date: .*\r\n", b"", got).replace(id_.encode(), b"ID")

    for request in (
        "GET /v1/tasks/$id",
        "GET /v1/tasks/$id?after=1",
        "GET /v1/tasks/$id/transitions",
        "GET /v1/tasks/$id/events",
        "GET /v1/poll?ids=$id",
        "GET /v1/poll?ids=$id&after=2",
    ):
        assert await look(request, there) == await look(request, nowhere), request
    assert (await door(f"GET /v1/tasks?owner={task_id}", **beta)).json == {"tasks": [], "next": None}

    async with door.gateway.client(additional_headers=beta) as peer:
        streams = []
        for id_ in (there, nowhere):
            frames = [
                await peer.ask(type="subscribe", tasks=[{"task_id": id_, "after": {"epoch": peer.epoch, "seq": 1}}])
            ]
            frames += [await peer.expect("subscribed"), await peer.expect("notice")]
            streams.append(orjson.dumps(frames).replace(id_.encode(), b"ID"))
        assert streams[0] == streams[1]
    # What it writes under the id is a task of its own, and leaves the other's alone.
    for wish in (
        ("POST /v1/tasks/$id/cancel", {"reason": "mine"}),
        ("POST /v1/tasks/$id/transitions", {"cancel": "refused"}),
        ("POST /v1/tasks", {"task_id": "$id", "kind": "k"}),
        ("POST /v1/tasks/$id/transitions", {"attempt": 1, "n": 1, "status": "completed"}),
    ):
        answers = []
        for id_ in (there, nowhere):
            content = {name: id_ if value == "$id" else value for name, value in wish[1].items()}
            answer = await door(wish[0].replace("$id", id_), content, **beta)
            answers.append((answer.status, answer.text.replace(id_, "ID")))
        assert answers[0] == answers[1]
        assert answers[0][0] in {200, 201}
    theirs = (await door(f"GET /v1/tasks/{there}", **acme)).json
    assert (theirs["seq"], theirs["status"], theirs["result"], theirs["cancel"]) == (2, "completed", "secret", None)


# Errors

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


async def test_events_take_any_bytes_for_a_cursor(http: Http, task_id: str) -> None:
    """A `Last-Event-ID` that is no text is as if it had not been sent."""
    await http.report(task_id, status="completed")
    head = f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
    got = await http.raw(head + b"Last-Event-ID: \xff:1\r\n\r\n")
    assert b"event: snapshot" in got
    assert b"event: bye" not in got
