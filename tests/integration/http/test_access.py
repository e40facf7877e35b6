"""Who may knock: pages, hosts and tokens."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.support.gateway import Peer
from tests.support.http import LISTED, TOKENS, Http

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
    assert (await door(f"GET /v1/tasks?owner={task_id}", **beta)).json["tasks"] == []

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
