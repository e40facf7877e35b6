"""The door answers plain upgrades only: what it lets in, aiohttp would; what it leaves gets aiohttp's answer.

A request with an empty line before it is no plain upgrade for the door, and the same request for aiohttp (RFC 9112,
2.2). So each request is asked twice of one gateway, by either way in, and both must answer alike.
"""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
from collections.abc import Iterator

import orjson
import pytest
from aiohttp import HttpVersion11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser

from gateway.http.door import Door, plain_upgrade
from tests.support.frames import ACCEPT, HELLO, frame, raw, upgrade
from tests.support.gateway import Gateway
from tests.support.http import LISTED, TOKENS
from tests.support.waiting import eventually

in_the_module = pytest.mark.asyncio(loop_scope="module")
SECOND = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
"""Behind each request: what some reader might take for its body, or for the next request."""
MUTANTS = 10_000
AT_ONCE = 50
KNOWN = {
    "Chrome": upgrade(
        "Pragma: no-cache",
        "Cache-Control: no-cache",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0",
        "Origin: http://127.0.0.1",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-GB,en;q=0.9",
        "Cookie: theme=dark; id=1",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    ),
    "Firefox": upgrade("Connection: keep-alive, Upgrade", "Origin: http://127.0.0.1", without="connection"),
    "a query": upgrade(path="/v1/ws?from=a%20page&n=1"),
    "no space": upgrade("Host:127.0.0.1:8080", without="host"),
    "IPv6": upgrade("Host: [::1]:8080", without="host"),
    "a token": upgrade("Authorization: Bearer abc.def-ghi", "Sec-WebSocket-Protocol: chat"),
}
ODD = {
    "GET of the path": b"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "POST": upgrade().replace(b"GET", b"POST", 1),
    "HTTP/1.0": upgrade().replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "an absolute target": upgrade(path="http://127.0.0.1/v1/ws"),
    "an escaped path": upgrade(path="/v1/%77s"),
    "a longer path": upgrade(path="/v1/ws/"),
    "dots": upgrade(path="/v1/./ws"),
    "a fragment": upgrade(path="/v1/ws#here"),
    "no host": upgrade(without="host"),
    "two hosts": upgrade("Host: 127.0.0.1"),
    "another host": upgrade("Host: example.org", without="host"),
    "an odd host": upgrade("Host: 127.0.0.1@example.org", without="host"),
    "no key": upgrade(without="sec-websocket-key"),
    "two keys": upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    "a short key": upgrade("Sec-WebSocket-Key: c2hvcnQ=", without="sec-websocket-key"),
    "no version": upgrade(without="sec-websocket-version"),
    "version 8": upgrade("Sec-WebSocket-Version: 8", without="sec-websocket-version"),
    "version 14": upgrade("Sec-WebSocket-Version: 14", without="sec-websocket-version"),
    "two versions": upgrade("Sec-WebSocket-Version: 13"),
    "no connection": upgrade(without="connection"),
    "two connections": upgrade("Connection: close"),
    "close": upgrade("Connection: close", without="connection"),
    "upgrade and close": upgrade("Connection: Upgrade, close", without="connection"),
    "h2c": upgrade("Upgrade: h2c", without="upgrade"),
    "two upgrades": upgrade("Upgrade: h2c"),
    "a body": upgrade("Content-Length: 5") + b"hello",
    "a body that is the next request": upgrade(f"Content-Length: {len(SECOND)}"),
    "an empty body": upgrade("Content-Length: 0"),
    "two lengths": upgrade("Content-Length: 5", "Content-Length: 6") + b"hello",
    "a chunked body": upgrade("Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunked and a length": upgrade("Transfer-Encoding: chunked", "Content-Length: 3") + b"0\r\n\r\n",
    "chunked in disguise": upgrade("Transfer-Encoding : chunked") + b"0\r\n\r\n",
    "a folded header": upgrade("X-Folded: one\r\n two"),
    "a bare line feed": upgrade("X-One: one\nX-Two: two"),
    "a bare carriage return": upgrade("X-One: one\rX-Two: two"),
    "line feeds only": upgrade().replace(b"\r\n", b"\n"),
    "a zero byte": upgrade("X-Zero: a\0b"),
    "not ASCII": upgrade("X-Name: \xfc"),
    "a tab": upgrade("X-Tab: a\tb"),
    "a name with a space": upgrade("X Name: a"),
    "no name": upgrade(": a"),
    "no value": upgrade("X-Empty:"),
    "no colon": upgrade("nothing"),
    "space before the target": upgrade().replace(b"GET ", b"GET  ", 1),
    "a lower-case method": upgrade().replace(b"GET", b"get", 1),
    "many headers": upgrade(*(f"X-{number}: a" for number in range(200))),
    "a long header": upgrade("X-Long: " + "a" * 10_000),
    "a page that is not allowed": upgrade("Origin: https://example.org"),
    "an expectation": upgrade("Expect: 100-continue"),
}


async def answer_to(gateway: Gateway, request: bytes) -> tuple[int, str]:
    """The status of the first answer, with the head of a 101. Behind the request comes another: there will be one."""
    async with raw(gateway.port) as peer:
        peer.send(request + SECOND)
        status, head = await peer.head()
        return status, head if status == 101 else ""


@in_the_module
@pytest.mark.parametrize("name", KNOWN)
async def test_upgrades_of_clients_are_let_in_at_the_door(gateway: Gateway, name: str) -> None:
    """Those of browsers and libraries, as they come; with what comes behind them."""
    asked = plain_upgrade(KNOWN[name] + b"behind")
    assert asked is not None
    assert asked.unread == b"behind"
    for request in (KNOWN[name], b"\r\n" + KNOWN[name]):
        async with raw(gateway.port) as peer:
            peer.send(request + frame(HELLO))
            status, head = await peer.head()
            assert status == 101
            assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n" in head
            assert (await peer.message())["type"] == "welcome"


@in_the_module
@pytest.mark.parametrize("name", ODD)
async def test_all_else_gets_the_answer_of_aiohttp(gateway: Gateway, name: str) -> None:
    """The same status by either way in."""
    if name not in {"a page that is not allowed", "another host"}:
        assert plain_upgrade(ODD[name]) is None
    expected = await answer_to(gateway, b"\r\n" + ODD[name])
    assert await answer_to(gateway, ODD[name]) == expected


@in_the_module
async def test_the_same_rules_are_asked_at_the_door(guarded: Gateway) -> None:
    """A listed page and the token of the header come in, by either way; other pages do not, and are told why."""
    for before in (b"", b"\r\n"):
        async with raw(guarded.port) as peer:
            token = next(iter(TOKENS.values()))
            peer.send(before + upgrade(f"Origin: {LISTED}", f"Authorization: bearer {token}") + frame(HELLO))
            assert (await peer.head())[0] == 101
            assert (await peer.message())["type"] == "welcome"
        async with raw(guarded.port) as peer:
            peer.send(before + upgrade("Origin: https://example.org"))
            assert (await peer.head())[0] == 403
            assert b"--allow-origin https://example.org" in await peer._reader.readuntil(b"}")


@in_the_module
async def test_an_upgrade_may_follow_other_requests(gateway: Gateway) -> None:
    """On a connection that aiohttp has: it is let in by the handler."""
    async with raw(gateway.port) as peer:
        peer.send(SECOND.replace(b"Connection: close\r\n", b""))
        assert (await peer.head())[0] == 200
        assert orjson.loads(await peer._reader.readuntil(b"}"))["status"] == "live"
        peer.send(upgrade() + frame(HELLO))
        assert (await peer.head())[0] == 101
        assert (await peer.message())["type"] == "welcome"


@in_the_module
async def test_who_says_nothing_is_closed(gateway: Gateway) -> None:
    """When the door's time is over; who has spoken has left it."""
    async with raw(gateway.port) as mute, raw(gateway.port) as other:
        other.send(upgrade())
        assert (await other.head())[0] == 101

        def waiting() -> list[Door]:
            return [each for each in gc.get_objects() if type(each) is Door and each.due_slot is not None]

        (door,) = await eventually(waiting, what="it has come in")
        door.tick()
        assert await mute.rest() == b""
        assert waiting() == []


# Mutants

PARTS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"\x80",
    b"\xff",
    b"%",
    b"?",
    b"\r\n ",
    b"\r\n\r\n",
    b"#",
]
LINES = [
    line
    for odd in ODD.values()
    for line in odd.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    if len(line) < 100
]  # fmt: skip


def mutants(dice: random.Random) -> Iterator[bytes]:
    """Requests that are nearly plain upgrades."""
    known = list(KNOWN.values())
    while True:
        data = bytearray(dice.choice(known))
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            at = dice.randrange(len(data))
            match dice.randrange(8):
                case 0:
                    data[at:at] = dice.choice(PARTS)
                case 1:
                    del data[at : at + dice.choice((1, 1, 2, 5))]
                case 2:
                    data[at] = dice.randrange(256)
                case 3:
                    data[at] ^= 0x20  # the other case
                case 4:
                    lines = bytes(data).split(b"\r\n")
                    lines.insert(dice.randrange(1, len(lines)), dice.choice(LINES))
                    data = bytearray(b"\r\n".join(lines))
                case 5:
                    lines = bytes(data).split(b"\r\n")
                    del lines[dice.randrange(len(lines))]
                    data = bytearray(b"\r\n".join(lines))
                case 6:
                    lines = bytes(data).split(b"\r\n")
                    lines.insert(dice.randrange(1, len(lines)), dice.choice(lines))
                    data = bytearray(b"\r\n".join(lines))
                case _:
                    lines = bytes(data).split(b"\r\n")
                    head, end = lines[1:-2], lines[-2:]
                    dice.shuffle(head)
                    data = bytearray(b"\r\n".join([lines[0], *head, *end]))
            if not data:
                data = bytearray(b"\r\n\r\n")
        yield bytes(data)


async def test_what_the_door_lets_in_aiohttp_reads_the_same_way() -> None:
    """Of thousands of mutants: one upgrade, the same headers, nothing of a body, and the same rest."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    some = mutants(random.Random(seed))
    loop = asyncio.get_running_loop()
    let_in = 0
    for _ in range(MUTANTS):
        data = next(some) + SECOND
        asked = plain_upgrade(data)
        if asked is None:
            continue
        let_in += 1
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=8_190, max_field_size=8_190)
        found, upgraded, tail = parser.feed_data(data)
        ((message, payload),) = found
        assert (message.method, message.version, message.url.path) == ("GET", HttpVersion11, "/v1/ws"), data
        assert (upgraded, message.upgrade, message.chunked, payload.is_eof()) == (True, True, False, True), data
        assert {name.lower(): value for name, value in message.headers.items()} == asked.headers, data
        assert tail == asked.unread, data
    assert MUTANTS / 20 < let_in < MUTANTS / 2


@in_the_module
async def test_mutants_get_the_same_answer_by_either_way_in(gateway: Gateway) -> None:
    """Over sockets, with another request behind each."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    some = mutants(random.Random(seed))

    async def one(request: bytes) -> bool:
        try:
            expected = await asyncio.wait_for(answer_to(gateway, b"\r\n" + request), 2)
        except TimeoutError:
            return False  # a body that does not come
        except asyncio.IncompleteReadError:
            with pytest.raises(asyncio.IncompleteReadError):
                await answer_to(gateway, request)
            return False
        assert await answer_to(gateway, request) == expected, request
        return True

    answered = 0
    for _ in range(4):
        answered += sum(await asyncio.gather(*(one(next(some)) for _ in range(AT_ONCE))))
    assert answered > AT_ONCE
