"""What is not granted is not there: two tenants, and users of one, over every transport."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from gateway.protocol.messages import TYPES
from tests.support.gateway import Peer
from tests.support.http import Http
from tests.support.tokens import SECRET, token
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = "GET /v1/tasks"
READS = (
    "GET /v1/tasks/$id", "GET /v1/tasks/$id?after=1", "GET /v1/tasks/$id/transitions", "GET /v1/tasks/$id/events",
    "GET /v1/poll?ids=$id", "GET /v1/poll?ids=$id&after=2", "GET /v1/tasks/$id/events?last_event_id=e:1",
    "GET /v1/tasks?owner=$owner", "GET /v1/tasks?kind=$owner", PAGE,
)  # fmt: skip
WRITES: tuple[tuple[str, Any], ...] = (
    ("POST /v1/tasks/$id/cancel", {"reason": "mine", "key": "c"}),
    ("POST /v1/tasks/$id/transitions", {"cancel": "refused"}),
    ("POST /v1/tasks/$id/transitions", {"attempt": 1, "n": 1, "progress": 5}),
    ("POST /v1/tasks/$id/beat", {}),
)


def bearer(who: str, subject: str = "alice", *grants: str) -> str:
    return token(SECRET, "HS256", iss=who, sub=subject, ledgerwire=list(grants) or None)


class Visitor:
    """Somebody who tries everything with one id, and writes down all bytes that come back, but for the id."""

    def __init__(self, http: Http, bearer: str) -> None:
        self.http = http
        self.token = bearer
        self.heard: list[tuple[str, bytes]] = []

    def _note(self, what: str, said: bytes, id_: str) -> None:
        said = re.sub(rb"(?m)^Date: .*\r\n", b"", said)
        said = re.sub(rb'"(at|created_at|updated_at|beat_at)":"[^"]*"', b"", said)
        self.heard.append((what, said.replace(id_.encode(), b"ID")))

    async def read(self, id_: str, owner: str) -> None:
        for request in READS:
            await self._request(request, id_, owner, None)

    async def write(self, id_: str, owner: str) -> None:
        for request, body in WRITES:
            await self._request(request, id_, owner, orjson.dumps(body))
        lines = [{"task_id": id_, "key": "n", "progress": 1}, {"task_id": id_, "n": 1, "attempt": 1}, {"task_id": id_}]
        body = b"\n".join(orjson.dumps(line) for line in lines)
        await self._request("POST /v1/transitions", id_, owner, body, media="application/x-ndjson")

    async def _request(
        self, request: str, id_: str, owner: str, body: bytes | None, *, media: str = "application/json"
    ) -> None:
        method, path = request.replace("$id", id_).replace("$owner", owner).split(" ")
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\nConnection: close\r\n"
        head += f"Prefer: wait=0\r\nContent-Type: {media}\r\nContent-Length: {len(body or b'')}\r\n\r\n"
        self._note(request, await self.http.raw(head.encode() + (body or b"")), id_)

    async def over_websocket(self, id_: str, *, many: bool) -> None:
        """One message after the other, or all in one frame."""
        async with self.http.gateway.client(additional_headers={"Authorization": f"Bearer {self.token}"}) as peer:
            cursor = {"epoch": peer.epoch, "seq": 1}
            messages: list[dict[str, Any]] = [
                {"type": "subscribe", "tasks": [{"task_id": id_}]},
                {"type": "subscribe", "tasks": [{"task_id": id_, "after": cursor}]},
                {"type": "subscribe", "tasks": [{"task_id": id_, "wait_ms": 600_000}]},
                {"type": "subscribe", "tasks": [{"task_id": id_}], "mode": "latest"},
                {"type": "unsubscribe", "task_ids": [id_]},
                {"type": "attend", "task_ids": [id_]},
                {"type": "beat", "task_ids": [id_]},
                {"type": "cancel", "task_id": id_, "key": "w"},
                {"type": "report", "task_id": id_, "attempt": 1, "n": 2},
                {"type": "report", "task_id": id_, "cancel": "refused"},
            ]
            assert {message["type"] for message in messages} == TYPES - {"hello", "refresh", "ping", "pong", "create"}
            numbered = [{"id": number, **message} for number, message in enumerate(messages)]
            if many:
                await peer.send_many(numbered)
                self._note("many", await _settled(peer, numbered), id_)
                return
            for message in numbered:
                await peer.send(**message)
                self._note(message["type"], await _settled(peer, [message]), id_)


async def _settled(peer: Peer, asked: Sequence[dict[str, Any]]) -> bytes:
    """All that comes until each message has its reply and was looked at: a subscription to nothing says so then."""
    replies = {message["id"] for message in asked if message["type"] != "beat"} | {"last"}
    looked_at = False
    await peer.send(type="subscribe", id="last", tasks=[{"task_id": "there-is-no-such-task"}])
    said: list[bytes] = []
    while True:
        frame = await peer.receive()
        if frame["type"] == "reply":
            replies.discard(frame["id"])
        if frame.get("task_id") == "there-is-no-such-task":
            looked_at = True
        elif frame.get("id") != "last":
            said.append(orjson.dumps(frame))
        if looked_at and not replies:
            return b"\n".join(sorted(said))


async def everything(http: Http, bearer: str, ids: Sequence[str], owner: str) -> list[list[tuple[str, bytes]]]:
    """What a visitor hears of each of these ids."""
    heard = []
    for id_ in ids:
        visitor = Visitor(http, bearer)
        await visitor.read(id_, owner)  # first: what one writes is a task of one's own
        await visitor.over_websocket(id_, many=False)
        await visitor.over_websocket(id_, many=True)
        await visitor.write(id_, owner)
        heard.append(visitor.heard)
    return heard


async def made(http: Http, who: str, id_: str, owner: str) -> str:
    """A task of this owner with something to steal, which it returns."""
    mark = f"steal-{secrets.token_hex(8)}"
    server = {"Authorization": f"Bearer {bearer(who, 'server', '*:all')}"}
    created = await http("POST /v1/tasks", {"task_id": id_, "owner": owner, "kind": mark, "data": mark}, **server)
    assert created.status == 201, created
    for members in ({"progress": 1, "message": mark}, {"stage": mark, "data": {"m": mark}}):
        assert (await http(f"POST /v1/tasks/{id_}/transitions", members, **server)).status == 200
    return mark


@pytest.mark.parametrize(
    "grants", [("*:all",), (), ("watch,report,cancel:own",), ("watch,report,cancel,list:kind=k",), ("*:id=other",)]
)
async def test_of_another_tenants_task_there_is_not_a_byte(http: Http, grants: tuple[str, ...]) -> None:
    """Whatever one may in one's own tenant: over every transport the answers are those to an id that never was."""
    there, nowhere = (f"t-{secrets.token_hex(8)}" for _ in range(2))
    mark = await made(http, "acme", there, "alice")
    visitor = bearer("beta", "alice", *grants)
    foreign, missing = await everything(http, visitor, (there, nowhere), "alice")
    if grants != ("*:all",):
        assert foreign == missing
    else:  # a page shows what the visitor has made itself of the id before
        assert [each for each in foreign if each[0] != PAGE] == [each for each in missing if each[0] != PAGE]
    assert len(foreign) >= 24
    assert mark.encode() not in b"".join(said for _, said in foreign)
    owner = {"Authorization": f"Bearer {bearer('acme', 'alice')}"}
    assert (await http(f"GET /v1/tasks/{there}", **owner)).json["seq"] == 3, "nothing has happened to it"


@pytest.mark.parametrize("grants", [(), ("watch,report,cancel,list:own",), ("watch,report,cancel:kind=mine",)])
async def test_of_another_users_task_there_is_not_a_byte(http: Http, grants: tuple[str, ...]) -> None:
    """The same inside one tenant: what is not granted is as unknown as what is not there."""
    there, nowhere = (f"t-{secrets.token_hex(8)}" for _ in range(2))
    subject = f"eve-{secrets.token_hex(4)}"
    mark = await made(http, "acme", there, "bob")
    foreign, missing = await everything(http, bearer("acme", subject, *grants), (there, nowhere), "bob")
    assert foreign == missing
    assert mark.encode() not in b"".join(said for _, said in foreign)
    owner = {"Authorization": f"Bearer {bearer('acme', 'bob')}"}
    assert (await http(f"GET /v1/tasks/{there}", **owner)).json["seq"] == 3, "nothing has happened to it"


async def test_a_user_has_its_own_tasks(http: Http) -> None:
    """Without a word in the token: watch, cancel and list them, over every transport; report nothing."""
    mine = f"t-{secrets.token_hex(8)}"
    subject = f"ann-{secrets.token_hex(4)}"
    mark = await made(http, "acme", mine, subject)
    user = {"Authorization": f"Bearer {bearer('acme', subject)}"}
    assert [task["task_id"] for task in (await http("GET /v1/tasks", **user)).json["tasks"]] == [mine]
    for request in ("GET /v1/tasks/$id", "GET /v1/tasks/$id/transitions", "GET /v1/poll?ids=$id"):
        assert mark in (await http(request.replace("$id", mine), **user)).text
    answer = await http(f"POST /v1/tasks/{mine}/transitions", {"progress": 2}, **user)
    answer.is_problem("forbidden")
    (await http("POST /v1/tasks", {"task_id": "x", "owner": subject}, **user)).is_problem("forbidden")
    async with http.gateway.client(additional_headers=user) as peer:
        await peer.ask(type="subscribe", tasks=[{"task_id": mine}])
        await peer.expect("subscribed", verdict="live")
        await peer.expect("snapshot")
        assert (await peer.ask(id=2, type="report", task_id=mine))["error"]["code"] == "forbidden"
        assert (await http(f"POST /v1/tasks/{mine}/cancel", **user)).status == 200
        await peer.expect("transition", status="cancelling")


async def test_who_waits_for_its_task_sees_it_from_the_first_transition(http: Http) -> None:
    """And who waits for the same id and is not its owner sees nothing, over WebSocket and long poll alike."""
    id_ = f"t-{secrets.token_hex(8)}"
    ann, eve = ({"Authorization": f"Bearer {bearer('acme', who)}"} for who in ("ann", "eve"))
    async with http.gateway.client(additional_headers=ann) as a, http.gateway.client(additional_headers=eve) as e:
        for peer in (a, e):
            await peer.ask(type="subscribe", tasks=[{"task_id": id_}], wait_ms=2_000)
            await peer.expect("subscribed", verdict="unknown", waiting=True)
        polls = [
            asyncio.create_task(http(f"GET /v1/tasks/{id_}", Prefer="wait=2", Authorization=who["Authorization"]))
            for who in (ann, eve)
        ]
        await made(http, "acme", id_, "ann")
        for seq in (1, 2, 3):
            await a.expect("transition", seq=seq)
        mine, other = [await poll for poll in polls]
        assert (mine.status, other.status) == (200, 404)
        await e.expect("subscribed", verdict="unknown", waiting=False)
        await e.send(type="ping")
        await e.expect("pong")


async def test_a_worker_of_a_kind_does_its_work(http: Http) -> None:
    """Reports, beats, attends, and batches of reports; of another kind nothing."""
    mine, other = (f"t-{secrets.token_hex(8)}" for _ in range(2))
    worker = {"Authorization": f"Bearer {bearer('acme', 'worker', 'report,create:kind=import')}"}
    server = {"Authorization": f"Bearer {bearer('acme', 'server', '*:all')}"}
    assert (await http("POST /v1/tasks", {"task_id": mine, "kind": "import"}, **worker)).status == 201
    assert (await http("POST /v1/tasks", {"task_id": other, "kind": "export"}, **server)).status == 201
    lines = "".join(f'{{"task_id":"{id_}","progress":1}}\n' for id_ in (mine, other, mine, "never-was"))
    answer = await http("POST /v1/transitions", lines, Content_Type="application/x-ndjson", **worker)
    outcomes = [orjson.loads(line) for line in answer.text.splitlines()]
    assert [one["ok"] for one in outcomes] == [True, False, True, False]
    assert {one["error"]["code"] for one in outcomes if not one["ok"]} == {"unknown_task"}
    async with http.gateway.client(additional_headers=worker) as peer:
        assert (await peer.ask(type="attend", task_ids=[mine, other]))["ok"] is True
        await peer.send(type="beat", task_ids=[mine, other])
        for id_ in (other, mine):
            assert (await http(f"POST /v1/tasks/{id_}/cancel", **server)).status == 200
        await peer.expect("cancel", task_id=mine)


async def test_a_grant_that_the_ledger_cannot_hold_costs_nobody_a_beat(http: Http) -> None:
    """Beats of all tenants are written together, with the grants that they depend on: one issuer must not spoil it."""
    task_id = f"t-{secrets.token_hex(8)}"
    worker = {"Authorization": f"Bearer {bearer('acme', 'worker', '*:all')}"}
    spoilt = "report:kind=a\0b"
    spoiler = {"Authorization": f"Bearer {bearer('beta', 'worker', spoilt)}"}
    assert (await http(f"POST /v1/tasks/{task_id}/transitions", {}, **worker)).status == 200
    reported_at = (await http(f"GET /v1/tasks/{task_id}", **worker)).json["beat_at"]

    async def beaten() -> bool:
        await http("POST /v1/tasks/spoilt/beat", **spoiler)
        await http(f"POST /v1/tasks/{task_id}/beat", **worker)
        return bool((await http(f"GET /v1/tasks/{task_id}", **worker)).json["beat_at"] > reported_at)

    await eventually(beaten, within_seconds=20, every_seconds=0.2)
