"""No secret in any log: a real gateway meets every way in which one can come to it, and none comes out."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

import aiohttp
from websockets.exceptions import ConnectionClosed

from tests.support.gateway import Gateway, GatewayProcess
from tests.support.postgres import temporary_folder
from tests.support.waiting import WAIT_SECONDS, eventually

HEADS = [
    "GET /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $s\x00\r\n\r\n",
    "GET /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $s\r\nBad Header $s: 1\r\n\r\n",
    "GET /v1/tasks?token=$s HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /v1/$s HTTP/1.1\r\nHost: x\r\nCookie: token=$s\r\n\r\n",
    "$s /v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /v1/tasks HTTP/9.9$s\r\nHost: x\r\n\r\n",
    "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: $s\r\n\r\n",
    "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $t\r\nContent-Length: 45\r\n\r\n{$s",
    "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $t\r\nTransfer-Encoding: chunked\r\n\r\n$s\r\n",
    "GET /v1/ws?token=$s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nSec-WebSocket-Key: $s\r\n\r\n",
    "GET /v1/ws HTTP/1.1\r\nHost: x\r\nOrigin: https://$s.example\r\nUpgrade: websocket\r\n\r\n",
    "GET /v1/tasks HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: $s\r\n\r\n",
    "\x16\x03\x01$s",
]


async def knock(gateway: Gateway, head: str, secret: str, token: str) -> None:
    """One request of these bytes, and its answer or its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head.replace("$s", secret).replace("$t", token).encode())
    writer.write_eof()
    async with asyncio.timeout(WAIT_SECONDS):
        with suppress(ConnectionError):
            await reader.read()
    writer.close()


async def converse(gateway: Gateway, wrong: str, token: str) -> None:
    """Tokens in every message that may have one, and where they do not belong."""
    for hello in ({"token": wrong}, {"token": [wrong]}, {"token": None, "secret": wrong}):
        async with gateway.client(hello=False) as peer:
            await peer.send(type="hello", v=1, **hello)
            with suppress(ConnectionClosed):
                await peer.receive()
    async with gateway.client(hello=False, additional_headers={"Authorization": f"Bearer {token}"}) as peer:
        await peer.send(type="hello", v=1, client="test/1")
        await peer.expect("welcome")
        for asked in ({"token": wrong}, {"token": token}):
            await peer.send(type="refresh", id=1, **asked)
            await peer.expect("reply", id=1)
        await peer.send_text('{"type":"refresh","id":2,"token":"' + wrong)
        await peer.expect("reply", id=None)
        await peer.send(type=wrong, id=3)
        await peer.expect("reply", id=3)
        await peer.ask(id=4, type="report", task_id="t", data={"password": wrong}, message=wrong)
        await peer.ask(id=5, type="report", task_id=wrong + "!")


async def request(gateway: Gateway, wrong: str, token: str) -> None:
    """Over HTTP by a client that knows how."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS)) as http:
        for sent in (wrong, token, f"{token} {wrong}"):
            headers = {"Authorization": f"Bearer {sent}"}
            for path in ("/v1/tasks", f"/v1/tasks/{wrong}!", f"/v1/tasks?cursor={wrong}", f"/{wrong}"):
                async with http.get(gateway.http + path, headers=headers) as answer:
                    assert answer.status in {200, 400, 401, 404}
            async with http.post(f"{gateway.http}/v1/tasks", headers=headers, data=f'{{"data":{wrong}') as answer:
                assert answer.status in {400, 401}


async def test_no_log_line_has_a_secret(database: str) -> None:
    """At the level that says most: tokens in hello, refresh, headers, bad requests; passwords of database and bus."""
    token, wrong, words = (secrets.token_hex(20) for _ in range(3))
    joined = "&" if "?" in database else "?"
    environment = {
        "LEDGERWIRE_BUS_URL": f"nats://me:{words}bus@127.0.0.1:1",
        "LEDGERWIRE_DIRECT_DATABASE_URL": f"{database}{joined}password={words}direct",
    }
    with temporary_folder() as folder:
        tokens = folder / "tokens"
        tokens.write_text(f"acme worker {token}\n")
        tokens.chmod(0o600)
        arguments = ("--token-file", str(tokens), "--bus", "nats", "--log-level", "debug")
        dsn = f"{database}{joined}password={words}dsn"
        async with GatewayProcess(dsn, *arguments, environment=environment) as gateway:
            await asyncio.gather(*(knock(gateway, head, wrong, token) for head in HEADS))
            await converse(gateway, wrong, token)
            await request(gateway, wrong, token)
            await eventually(lambda: any("bus" in str(line["event"]) for line in gateway.log), what="the bus is missed")
            assert await gateway.stop() == 0
            lines = [repr(line) for line in gateway.log]
    for secret in (token, wrong, words):
        assert [line for line in lines if secret in line or secret.upper() in line] == []
    assert any("session_opened" in line for line in lines)
    assert any("request_unreadable" in line for line in lines), "bad requests came that far"
    assert not any("not_json" in line for line in lines)
