"""What goes wrong says what is wrong and what to do, and nobody else notices.

In every case that happens inside a running gateway there is an innocent: another connection with a live subscription,
which gets its transitions before, during and after.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.protocol.codec import FRAME_BYTES
from gateway.protocol.errors import ERRORS
from ledger.settings import LedgerSettings
from tests.integration.test_command_line import ledgerwire
from tests.support.gateway import Gateway, GatewayProcess, Peer, in_process
from tests.support.limits import QUICK, generous
from tests.support.postgres import Cluster, address_of, own_server, temporary_database, through
from tests.support.proxy import Link, Proxy
from tests.support.waiting import eventually

in_the_module = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cluster: Cluster) -> AsyncIterator[Gateway]:
    """One gateway for all that it must survive; it serves on afterwards, or the next test fails."""
    async with temporary_database(cluster) as dsn, in_process(dsn) as running:
        yield running


class Innocent:
    """A worker and a client that watches its task, whatever happens elsewhere."""

    def __init__(self, worker: Peer, watcher: Peer, task_id: str) -> None:
        self.worker = worker
        self.watcher = watcher
        self.task_id = task_id
        self.seq = 0

    async def goes_on(self, reports: int = 3) -> None:
        """The worker reports and is acknowledged; each transition arrives, in order, and nothing else does."""
        for _ in range(reports):
            self.seq += 1
            reply = await self.worker.ask(id=self.seq, type="report", task_id=self.task_id, progress=self.seq % 100)
            assert (reply["ok"], reply["seq"]) == (True, self.seq), reply
            await self.watcher.expect("transition", task_id=self.task_id, seq=self.seq)


@asynccontextmanager
async def innocent(gateway: Gateway) -> AsyncIterator[Innocent]:
    """Somebody at work, before and after the block."""
    async with gateway.client() as worker, gateway.client() as watcher:
        it = Innocent(worker, watcher, f"innocent-{worker.welcome['session']}")
        await watcher.ask(type="subscribe", tasks=[{"task_id": it.task_id}], wait_ms=60_000)
        await watcher.expect("subscribed", waiting=True)
        await it.goes_on()
        yield it
        await it.goes_on()


def is_helpful(error: dict[str, Any], code: str, *words: str) -> None:
    """The code, whether to retry as the table says, and a sentence with these words in it."""
    assert error["code"] == code, error
    assert error["retryable"] is ERRORS[code].retryable
    assert error["message"].endswith(".")
    for word in words:
        assert word in error["message"], error


# Frames

ALLOWED = "A-Z a-z 0-9 . _ : -"
FRAMES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # what is sent, the code, words of the sentence
    "malformed json": ('{"type":"report",', "bad_json", ("not valid JSON",)),
    "malformed json in an array": ('[{"type":"ping"},', "bad_json", ("not valid JSON",)),
    "json nested too deep": ('{"type":"report","id":9,"task_id":"f","data":' + "[" * 20_000, "bad_json", ("JSON",)),
    "no object": ("42", "bad_request", ("object",)),
    "an unknown type": ('{"type":"dance","id":9}', "unknown_type", ("'dance'", "docs/protocol.md")),
    "a wrong id": ('{"type":"subscribe","id":9,"tasks":[{"task_id":"a b"}]}', "bad_task_id", ("128", ALLOWED)),
    "a wrong id in a report": ('{"type":"report","id":9,"task_id":"../etc"}', "bad_task_id", ("128", ALLOWED)),
    "a missing member": ('{"type":"report","id":9}', "bad_request", ("task_id",)),
    "a wrong type": ('{"type":"report","id":9,"task_id":"f","progress":"half"}', "bad_request", ("progress",)),
    "out of range": ('{"type":"report","id":9,"task_id":"f","progress":101}', "bad_request", ("progress", "100")),
    "a number beyond": ('{"type":"report","id":9,"task_id":"f","attempt":9e99}', "bad_request", ("attempt",)),
    "a NUL": ('{"type":"report","id":9,"task_id":"f","message":"\\u0000"}', "bad_request", ("message", "NUL")),
    "too much data": (
        '{"type":"report","id":9,"task_id":"f","data":"' + "x" * 20_000 + '"}',
        "bad_request",
        ("data", "20002", "16384"),
    ),
    "a too large frame": ('{"type":"ping","pad":"' + "x" * 65 * 1024 + '"}', "frame_too_large", (str(FRAME_BYTES),)),
    "too many messages": ("[" + ",".join(['{"type":"ping"}'] * 501) + "]", "bad_request", ("500",)),
    "an illegal transition": (
        '{"type":"report","id":9,"task_id":"running","status":"pending"}',
        "illegal_transition",
        ("running", "pending"),
    ),
    "an answer to no cancel": (
        '{"type":"report","id":9,"task_id":"running","cancel":"refused"}',
        "illegal_transition",
        ("cancel",),
    ),
    "a report on an ended task": (
        '{"type":"report","id":9,"task_id":"ended","progress":1}',
        "task_ended",
        ("ended", "completed", "sequence 1", "never changes"),
    ),
    "an old attempt": ('{"type":"report","id":9,"task_id":"running","attempt":1}', "fenced", ("2", "stop")),
    "a second hello": ('{"type":"hello","v":1}', "bad_request", ("refresh",)),
}


@in_the_module
@pytest.mark.parametrize("case", FRAMES)
async def test_a_wrong_frame_is_answered_and_the_connection_goes_on(gateway: Gateway, case: str) -> None:
    """One reply that says what is wrong; the same connection then works, and so does everybody else's."""
    frame, code, words = FRAMES[case]
    async with innocent(gateway) as other, gateway.client() as peer:
        await peer.ask(id="a", type="report", task_id="ended", attempt=1, n=1, status="completed")
        await peer.ask(id="b", type="report", task_id="running", attempt=2, n=1)
        await peer.send_text(frame)
        reply = await peer.expect("reply", ok=False)
        is_helpful(reply["error"], code, *words)
        assert reply["id"] in {9, None}
        assert (reply["id"] == 9) is (code not in {"bad_json", "frame_too_large"} and '"id":9' in frame)
        await other.goes_on()
        await peer.send(type="ping")
        await peer.expect("pong")
        assert (await peer.ask(type="report", task_id="still-alive"))["ok"] is True


@in_the_module
async def test_a_binary_frame_is_answered_and_the_connection_goes_on(gateway: Gateway) -> None:
    """Frames are text; whoever sends bytes is told so."""
    async with innocent(gateway) as other, gateway.client() as peer:
        await peer.socket.send(b'{"type":"ping"}')
        reply = await peer.expect("reply", id=None, ok=False)
        is_helpful(reply["error"], "bad_json", "text", "binary")
        await other.goes_on()
        await peer.send(type="ping")
        await peer.expect("pong")


@in_the_module
async def test_an_id_that_nobody_knows_is_said_to_be_unknown(gateway: Gateway) -> None:
    """A wrong id that is well formed: the verdict says so over WebSocket, the problem over HTTP."""
    async with innocent(gateway) as other, gateway.client() as peer, aiohttp.ClientSession() as session:
        await peer.ask(type="subscribe", tasks=[{"task_id": "typo-1"}])
        await peer.expect("subscribed", task_id="typo-1", verdict="unknown", seq=0, recovered=False, waiting=False)
        async with session.get(f"{gateway.http}/v1/tasks/typo-1") as answer:
            body = await answer.json(content_type="application/problem+json")
        assert (answer.status, body["code"]) == (404, "unknown_task")
        assert "typo-1" in body["detail"]
        await other.goes_on()


@in_the_module
@pytest.mark.parametrize("path", ["/ws", "/v1/websocket", "/v2/ws", "/"])
async def test_a_wrong_path_is_told_the_right_one(gateway: Gateway, path: str) -> None:
    """Over HTTP and at a WebSocket upgrade: 404 and where the WebSocket is. The index is a page, not a socket."""
    async with innocent(gateway) as other, aiohttp.ClientSession() as session:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://127.0.0.1:{gateway.port}{path}"):
                pass
        response = refused.value.response
        body = orjson.loads(response.body or b"")
        if path == "/":
            assert (response.status_code, body["websocket"]) == (200, "/v1/ws")
        else:
            assert (response.status_code, body["code"]) == (404, "unknown_path")
            assert path in body["detail"]
            assert "/v1/ws" in body["detail"]
            async with session.get(gateway.http + path) as answer:
                assert answer.status == 404
        await other.goes_on()


@in_the_module
async def test_a_frame_far_too_large_gets_a_goodbye(gateway: Gateway) -> None:
    """Of 300 KiB nothing is kept: `bye` says why and not to come back, then the close code repeats it."""
    async with innocent(gateway) as other:
        async with gateway.client() as peer:
            await peer.send_text('{"type":"ping","pad":"' + "x" * 300 * 1024 + '"}')
            bye = await peer.expect("bye", code=4504, reason="frame_too_large", retry=False)
            assert "limits.frame_bytes" in bye["message"]
            assert await peer.closed() == 4504
        await other.goes_on()


@in_the_module
async def test_a_peer_that_speaks_another_protocol_gets_a_goodbye(gateway: Gateway) -> None:
    """Each unreadable frame is answered; after 50 of them the server says that this leads nowhere."""
    async with innocent(gateway) as other:
        async with gateway.client() as peer:
            for _ in range(50):
                await peer.send_text("GET / HTTP/1.1")
            for _ in range(50):
                is_helpful((await peer.expect("reply", ok=False))["error"], "bad_json")
            bye = await peer.expect("bye", code=4503, reason="protocol_error", retry=False)
            assert "docs/protocol.md" in bye["message"]
            assert await peer.closed() == 4503
        await other.goes_on()


@in_the_module
async def test_a_peer_that_breaks_off_in_the_middle_disturbs_nobody(gateway: Gateway) -> None:
    """Connections reset before hello, after it, with replies on their way: all gone, the others go on."""
    async with innocent(gateway) as other:
        for reports in (0, 1, 200):
            async with gateway.client(hello=reports > 0) as peer:
                if reports:
                    await peer.send_many([{"type": "report", "id": i, "task_id": f"gone-{i}"} for i in range(reports)])
                peer.socket.transport.abort()
            await other.goes_on()


# The database


def proxied(dsn: str, proxy: Proxy) -> tuple[str, LedgerSettings]:
    """The database by way of a proxy, and settings with which an outage is noticed soon."""
    dsn = through(dsn, proxy.port)
    return dsn, LedgerSettings(database_url=dsn, **QUICK)


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, Any, Any]:
    """Status, body and headers."""
    async with session.get(url) as answer:
        return answer.status, orjson.loads(await answer.read()), answer.headers


@pytest.mark.parametrize("link", [Link.RESET, Link.STALL])
async def test_a_lost_link_to_the_database_is_told_and_healed(database: str, link: Link) -> None:
    """Refused or swallowed: reports fail and say when to retry, sockets stay and are told, all resumes by itself."""
    async with Proxy(address_of(database)) as proxy, aiohttp.ClientSession() as session:
        dsn, settings = proxied(database, proxy)
        async with in_process(dsn, ledger=settings) as gateway, gateway.client() as peer, innocent(gateway) as other:
            proxy.set(link)
            for each in (peer, other.worker, other.watcher):
                await each.expect("notice", kind="degraded")
            # On a connection that seemed to be there the outcome is unknown; after that, certainly nothing is written.
            unknown = await peer.ask(type="report", task_id="lost-1", attempt=1, n=1, progress=7)
            assert unknown["error"]["code"] in {"unknown_retry", "unavailable"}
            lost = await peer.ask(type="report", task_id="lost-2", attempt=1, n=1, progress=7)
            is_helpful(lost["error"], "unavailable", "nothing was written")
            assert lost["error"]["retry_after_ms"] > 0
            status, body, headers = await get(session, f"{gateway.http}/v1/tasks/lost-1")
            assert (status, body["code"], body["retryable"]) == (503, "unavailable", True)
            assert body["retry_after_ms"] > 0
            assert int(headers["Retry-After"]) >= 1
            assert (await get(session, f"{gateway.http}/health/live"))[0] == 200
            status, body, _ = await get(session, f"{gateway.http}/health/ready")
            assert (status, body["status"]) == (503, "unavailable")
            assert body["detail"]
            assert (await get(session, f"{gateway.http}/health/db"))[1]["degraded"] is True
            # Whoever comes now is let in and told.
            async with gateway.client() as late:
                await late.expect("notice", kind="degraded")
                await late.ask(type="subscribe", tasks=[{"task_id": other.task_id}])
                proxy.set(Link.PASS)
                for each in (peer, other.worker, other.watcher):
                    await each.expect("notice", kind="restored")
                frames = [await late.receive() for _ in range(3)]
            assert sorted(frame["type"] for frame in frames) == ["notice", "snapshot", "subscribed"]
            assert next(frame["task"]["seq"] for frame in frames if frame["type"] == "snapshot") == other.seq
            again = await peer.ask(type="report", task_id="lost-1", attempt=1, n=1, progress=7)
            assert (again["ok"], again["seq"]) == (True, 1), "the same number again has the one effect"
            second = await peer.ask(type="report", task_id="lost-2", attempt=1, n=1, progress=7)
            assert (second["seq"], second["repeat"]) == (1, False), "it was true that nothing was written"
            await other.goes_on()

            async def ready() -> bool:
                return (await get(session, f"{gateway.http}/health/ready"))[0] == 200

            await eventually(ready)


async def test_a_full_queue_says_when_to_come_back(database: str) -> None:
    """What does not fit is refused at once, over both faces; what was taken is committed, and others may come again."""
    settings = generous(database_url=database, queue_limit=5)
    async with in_process(database, ledger=settings) as gateway, gateway.client() as peer:
        assert (await peer.ask(id="first", type="report", task_id="a"))["ok"]
        connection = await asyncpg.connect(database)
        try:
            async with connection.transaction(), aiohttp.ClientSession() as session:
                await connection.execute("lock ledger.transition in exclusive mode")  # nothing can be appended
                await peer.send_many([{"type": "report", "id": i, "task_id": "a"} for i in range(8)])
                for _ in range(3):
                    reply = await peer.expect("reply", ok=False)
                    is_helpful(reply["error"], "busy", "Too many")
                    assert reply["error"]["retry_after_ms"] > 0
                    assert reply["id"] in {5, 6, 7}
                async with session.post(f"{gateway.http}/v1/tasks/a/cancel") as answer:
                    body = orjson.loads(await answer.read())
                assert (answer.status, body["code"], body["retryable"]) == (503, "busy", True)
                assert int(answer.headers["Retry-After"]) >= 1
        finally:
            connection.terminate()
        assert [(await peer.expect("reply", ok=True))["seq"] for _ in range(5)] == [2, 3, 4, 5, 6]
        assert (await peer.ask(id="last", type="report", task_id="a"))["seq"] == 7


async def test_a_database_that_is_stopped_and_started_is_found_again() -> None:
    """The server itself goes and comes back: no socket is lost, no restart is needed, no receipt was wrong."""
    with own_server() as server:
        environment = {"LEDGERWIRE_QUEUE_WAIT_SECONDS": "0.5"}
        async with GatewayProcess(server.dsn, environment=environment) as gateway:
            async with gateway.client() as peer, innocent(gateway) as other, aiohttp.ClientSession() as session:
                server.now.stop()
                for each in (peer, other.worker, other.watcher):
                    await each.expect("notice", kind="degraded")
                refused = await peer.ask(type="report", task_id="a")
                is_helpful(refused["error"], "unavailable", "nothing was written")
                assert (await get(session, f"{gateway.http}/health/live"))[0] == 200
                assert (await get(session, f"{gateway.http}/health/ready"))[0] == 503
                server.start()
                for each in (peer, other.worker, other.watcher):
                    await each.expect("notice", kind="restored")
                assert (await peer.ask(type="report", task_id="a"))["seq"] == 1
                await other.goes_on()
                _, body, _ = await get(session, f"{gateway.http}/v1/tasks/{other.task_id}/transitions")
                assert [step["seq"] for step in body["transitions"]] == list(range(1, other.seq + 1))
            assert await gateway.stop() == 0
        assert gateway.starts == 1


# At the start


async def test_a_database_out_of_reach_ends_the_start_with_a_sentence() -> None:
    """After the wait, 69 and what could not be reached; the password is not shown."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        status, out, error = await ledgerwire(
            "serve", "--port", "0",
            DATABASE_URL=f"postgresql://me:hush-hush@127.0.0.1:{port}/tasks",
            LEDGERWIRE_DATABASE_WAIT_SECONDS="0.1",
        )  # fmt: skip
    assert status == 69, error
    last = error.strip().splitlines()[-1]
    assert last.startswith("ledgerwire: ")
    assert f"postgresql://me:***@127.0.0.1:{port}/tasks cannot be reached" in last
    assert "DATABASE_URL" in last
    assert "Traceback" not in error
    assert "hush-hush" not in error + out


async def test_a_taken_port_ends_the_start_with_the_cure(database: str) -> None:
    """69, the address, and which option chooses another port."""
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        status, _, error = await ledgerwire("serve", "--port", str(port), DATABASE_URL=database)
    assert status == 69, error
    last = error.strip().splitlines()[-1]
    assert f"127.0.0.1:{port}" in last
    assert "--port" in last
    assert "Traceback" not in error


async def test_listening_for_everybody_without_tokens_is_refused_with_the_cure() -> None:
    """78 before anything is touched, and both ways out."""
    status, _, error = await ledgerwire("serve", "--host", "0.0.0.0", DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert status == 78, error
    assert "0.0.0.0" in error
    assert "--token-file" in error
    assert "--host 127.0.0.1" in error
    assert "Traceback" not in error
