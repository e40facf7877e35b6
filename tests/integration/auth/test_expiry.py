"""The end of a token on an open connection: a warning, a refresh that keeps it, and a cut."""

from __future__ import annotations

import time

import pytest

from tests.support.gateway import Gateway
from tests.support.http import Http
from tests.support.tokens import SECRET, token

pytestmark = pytest.mark.asyncio(loop_scope="module")


def lasting(seconds: float, sub: str = "alice") -> str:
    return token(SECRET, "HS256", iss="acme", lasts=seconds, sub=sub, ledgerwire=["*:all"])


async def test_a_refresh_keeps_the_socket_and_its_subscriptions(gateway: Gateway) -> None:
    """Beyond the end of the first token; one of somebody else is refused, and changes nothing."""
    async with gateway.client(hello=False) as peer:
        await peer.send(type="hello", v=1, token=lasting(2))
        await peer.expect("welcome")
        await peer.ask(type="report", task_id="refreshed")
        await peer.ask(type="subscribe", tasks=[{"task_id": "refreshed"}])
        await peer.expect("subscribed")
        await peer.expect("snapshot")
        notice = await peer.expect("notice", kind="token_expiring")
        assert 0 < notice["expires_in_ms"] <= 1_100
        assert (await peer.ask(type="refresh", token=lasting(60, sub="bob")))["error"]["code"] == "forbidden"
        assert (await peer.ask(type="refresh", token=lasting(-60)))["error"]["code"] == "unauthenticated"
        assert (await peer.ask(type="refresh", token=lasting(4)))["ok"] is True
        await peer.expect("notice", kind="token_expiring")  # half-way through the second
        await peer.send(type="report", task_id="refreshed", progress=1)
        await peer.expect("transition", seq=2)


async def test_without_a_refresh_it_is_cut(gateway: Gateway) -> None:
    """At the end, and told not to come back with the same token, which would not be let in."""
    text, ends = lasting(2), time.time() + 2
    async with gateway.client(hello=False) as peer:
        await peer.send(type="hello", v=1, token=text)
        await peer.expect("welcome")
        await peer.expect("notice", kind="token_expiring")
        await peer.expect("bye", code=4505, reason="token_expired", retry=False)
        assert time.time() >= ends - 1, "tokens count in whole seconds"
        assert await peer.closed() == 4505
    async with gateway.client(hello=False) as peer:
        await peer.send(type="hello", v=1, token=text)
        await peer.expect("bye", code=4501, reason="unauthenticated")


async def test_an_event_stream_ends_with_its_token(http: Http) -> None:
    """With a warning and a word, as over the WebSocket."""
    server = {"Authorization": f"Bearer {lasting(60)}"}
    assert (await http("POST /v1/tasks/streamed/transitions", {"progress": 1}, **server)).status == 200
    answer = await http("GET /v1/tasks/streamed/events", Authorization=f"Bearer {lasting(2)}")
    assert answer.status == 200
    events = [line for line in answer.text.splitlines() if line.startswith("event: ")]
    assert events == ["event: subscribed", "event: snapshot", "event: notice", "event: bye"]
    assert '"reason":"token_expired"' in answer.text
