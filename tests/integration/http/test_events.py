"""Server-sent events: a task's stream, from a cursor and to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from tests.support.http import Http
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


# Errors


async def test_events_take_any_bytes_for_a_cursor(http: Http, task_id: str) -> None:
    """A `Last-Event-ID` that is no text is as if it had not been sent."""
    await http.report(task_id, status="completed")
    head = f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
    got = await http.raw(head + b"Last-Event-ID: \xff:1\r\n\r\n")
    assert b"event: snapshot" in got
    assert b"event: bye" not in got


@pytest.mark.parametrize("path", ["/v1/tasks/{task_id}/events", "/v1/ws"])
async def test_what_has_no_end_is_not_asked_for_its_head(http: Http, task_id: str, path: str) -> None:
    """Whatever followed the head would be taken for the next answer on the line, perhaps by somebody else."""
    await http.report(task_id)
    heads = [f"{line} HTTP/1.1\r\nHost: localhost\r\n" for line in (f"HEAD {path.format(task_id=task_id)}", "GET /")]
    upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    got = await http.raw(f"{heads[0]}Connection: upgrade\r\n{upgrade}\r\n{heads[1]}Connection: close\r\n\r\n".encode())
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET\r\n" in head
    assert rest.startswith(b"HTTP/1.1 200 ")
