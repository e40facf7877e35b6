"""Bytes that no client library sends: each is closed with the right code, nothing fails, and nobody else notices.

What RFC 6455 wants is in each row. Deviations that are named: a protocol error is said in a `bye` first, so its closing
code is 4503 where the RFC has 1002 or 1007, and 4504 where it has 1009 (docs/protocol.md).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio
from msgspec import Struct

from tests.support.gateway import GatewayProcess, Peer
from tests.support.postgres import Cluster, temporary_database
from tests.support.raw import ALIVE, BINARY, CLOSE, ENDED, KEY, PING, PONG, TEXT, UPGRADE, Raw, frame, message
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROTOCOL: Final = {1002, 4503}
NO_UTF8: Final = {1007, 4503}
TOO_LARGE: Final = {1009, 4504}
FLOOD: Final = {1002, 1008, 1009, 4007, 4503, 4504, ENDED}
GOOD: Final = {ALIVE}
SPLIT: Final = [frame(TEXT, b'{"type":', fin=False), frame(0, b'"po', fin=False), frame(0, b'ng"}')]
CONTINUED: Final = frame(TEXT, b'{"type":', fin=False)


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


FRAMES: Final[dict[str, tuple[bytes, set[int]]]] = {
    "reserved bit 1": (frame(TEXT, b"{}", rsv=4), PROTOCOL),
    "reserved bit 2": (frame(TEXT, b"{}", rsv=2), PROTOCOL),
    "reserved bit 3": (frame(TEXT, b"{}", rsv=1), PROTOCOL),
    "reserved bit of a control frame": (frame(PING, b"", rsv=4), PROTOCOL),
    **{f"reserved opcode {opcode}": (frame(opcode, b"{}"), PROTOCOL) for opcode in (3, 5, 7, 11, 13, 15)},
    "no mask": (frame(TEXT, b'{"type":"pong"}', masked=False), PROTOCOL),
    "no mask on a control frame": (frame(PONG, b"", masked=False), PROTOCOL),
    "mask of zeros": (frame(TEXT, b'{"type":"pong"}', mask=b"\0\0\0\0"), GOOD),
    "ping in fragments": (frame(PING, b"", fin=False), PROTOCOL),
    "ping of 126 bytes": (frame(PING, b"x" * 126), PROTOCOL),
    "ping of 125 bytes": (frame(PING, b"x" * 125), GOOD),
    "ping with a long length": (frame(PING, b"", length_bytes=2), PROTOCOL),
    "pong that nobody asked for": (frame(PONG, b"x"), GOOD),
    "close of one byte": (frame(CLOSE, b"\x03"), PROTOCOL),
    **{f"close with {code}": (closing(code), PROTOCOL) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000)},
    **{f"close with {code}": (closing(code, b"bye"), {code, 1000}) for code in (1000, 1001, 3000, 4999)},
    "close without a code": (frame(CLOSE), {0, 1000, ENDED}),
    "close with bad UTF-8": (closing(1000, b"\xff"), PROTOCOL | NO_UTF8),
    "continuation of nothing": (frame(0, b"x"), PROTOCOL),
    "end of nothing": (frame(0, b"", fin=False), PROTOCOL),
    "text between fragments": (CONTINUED + frame(TEXT, b"{}"), PROTOCOL),
    "binary between fragments": (CONTINUED + frame(BINARY, b"{}"), PROTOCOL),
    "ping between fragments": (SPLIT[0] + frame(PING) + SPLIT[1] + frame(PONG) + SPLIT[2], GOOD),
    "fragments": (b"".join(SPLIT), GOOD),
    "text in two kinds of fragments": (frame(TEXT, b'{"ty', fin=False) + frame(BINARY, b'pe":"pong"}'), PROTOCOL),
    "bad UTF-8": (frame(TEXT, b'{"type":"\xff"}'), NO_UTF8),
    "half a character": (frame(TEXT, b'{"type":"\xe2\x82'), NO_UTF8),
    "surrogate": (frame(TEXT, b'{"type":"\xed\xa0\x80"}'), NO_UTF8),
    "overlong": (frame(TEXT, b'{"type":"\xc0\xaf"}'), NO_UTF8),
    "beyond Unicode": (frame(TEXT, b'{"type":"\xf4\x90\x80\x80"}'), NO_UTF8),
    "bad UTF-8 over two fragments": (frame(TEXT, b'"\xe2', fin=False) + frame(0, b'x"'), NO_UTF8),
    "character over two fragments": (frame(TEXT, b'"\xe2\x82', fin=False) + frame(0, b'\xac"'), GOOD),
    "nothing": (frame(TEXT), GOOD),
    "binary": (frame(BINARY, b'{"type":"pong"}'), GOOD),
    "length of 2^63": (frame(TEXT, b"x", length=2**63, length_bytes=8), PROTOCOL | TOO_LARGE),
    "length of 2^64-1": (frame(TEXT, b"x", length=2**64 - 1, length_bytes=8), PROTOCOL | TOO_LARGE),
    "length of 2^63-1 in fragments": (frame(TEXT, b"x", fin=False, length=2**63 - 1, length_bytes=8), TOO_LARGE),
    "length of 2^31": (frame(TEXT, b"x", length=2**31, length_bytes=8), TOO_LARGE),
    "length of 1 MiB, and no more": (frame(TEXT, b"x", length=2**20), TOO_LARGE),
    "length beyond the bound in fragments": (
        frame(TEXT, b"x" * 200_000, fin=False) + frame(0, b"x", length=100_000, fin=False),
        TOO_LARGE,
    ),
    "length in more bytes than needed": (frame(TEXT, b'{"type":"pong"}', length_bytes=8), PROTOCOL | GOOD),
    "100 KiB": (frame(TEXT, b" " * 100_000), GOOD),  # refused in words: the connection goes on
    "depth": (frame(TEXT, b"[" * 60_000), GOOD),
    "twenty thousand empty fragments": (CONTINUED + frame(0, fin=False) * 20_000, FLOOD),
    "twenty thousand fragments of a byte": (CONTINUED + frame(0, b" ", fin=False) * 20_000, FLOOD),
    "twenty thousand pings": (frame(PING) * 20_000, FLOOD),
    "twenty thousand pings between fragments": (CONTINUED + frame(PING) * 20_000, FLOOD),
    "twenty thousand pongs": (frame(PONG) * 20_000, FLOOD),
    "twenty thousand empty messages": (frame(TEXT) * 20_000, FLOOD),
}
"""What is sent after `welcome`, and how it may end; behind it comes a ping in words."""

HEADS: Final[dict[str, tuple[bytes, set[int]]]] = {
    "an upgrade": (UPGRADE, {101}),
    "without a key": (UPGRADE.replace(KEY, b""), {400}),
    "with a key that is none": (UPGRADE.replace(KEY, b"x"), {400}),
    "of version 12": (UPGRADE.replace(b"Version: 13", b"Version: 12"), {400, 426}),
    "by POST": (UPGRADE.replace(b"GET", b"POST"), {400, 405}),
    "of HTTP/1.0": (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"), {400}),
    "with a length and in chunks": (
        UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        {400},
    ),
    "with two lengths": (
        UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        {400},
    ),
    "with a body": (
        UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 28\r\n\r\nGET /health/live HTTP/1.1\r\n\r\n"),
        {400},
    ),
    "with a header of 64 KiB": (UPGRADE.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 65_536 + b"\r\n\r\n"), {400, 431}),
    "with ten thousand headers": (UPGRADE.replace(b"\r\n\r\n", b"\r\nX: y" * 10_000 + b"\r\n\r\n"), {400, 431}),
    "with a folded header": (UPGRADE.replace(b"Upgrade: ", b"Upgrade:\r\n "), {400}),
    "with a NUL": (UPGRADE.replace(b"localhost", b"local\0host"), {400}),
    "with a space before the colon": (UPGRADE.replace(b"Upgrade:", b"Upgrade :"), {400}),
    "with lines that end in LF": (UPGRADE.replace(b"\r\n", b"\n"), {400, 101}),
    "with two hosts": (UPGRADE.replace(b"\r\n\r\n", b"\r\nHost: evil.example\r\n\r\n"), {400}),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100 + b"\r\n\r\n", {400}),
}
"""An upgrade that is not in order, and the status of its answer."""


class Place(Struct):
    """The gateway, and a client that does no harm."""

    gateway: GatewayProcess
    innocent: Peer

    async def goes_on(self) -> None:
        """The innocent is served, by the same process as before, whose log knows of no fault."""
        assert (await self.innocent.ask(type="report", task_id="innocent"))["ok"] is True
        assert self.gateway.running
        assert [line for line in self.gateway.log if "exception" in line or line.get("level") in {"error", None}] == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(cluster: Cluster) -> AsyncIterator[Place]:
    """One gateway for all; beside it two hundred connections that never become any."""
    async with temporary_database(cluster) as dsn, GatewayProcess(dsn) as gateway, gateway.client() as innocent:
        halves = [await Raw.connect(gateway.port) for _ in range(200)]
        for index, half in enumerate(halves):
            await half.send(UPGRADE[: index % len(UPGRADE)])
        yield Place(gateway, innocent)
        for half in halves:
            half.close()


@pytest.mark.parametrize("name", FRAMES)
async def test_frames_that_are_not_in_order(place: Place, name: str) -> None:
    """Closed with the right code, or answered where they are only odd."""
    data, wanted = FRAMES[name]
    raw = await Raw.opened(place.gateway.port)
    sending = asyncio.create_task(raw.send(data + message(type="ping")))
    try:
        assert await raw.outcome(20.0) in wanted
    finally:
        raw.close()
        await asyncio.wait([sending])
    await place.goes_on()


@pytest.mark.parametrize("name", HEADS)
async def test_upgrades_that_are_not_in_order(place: Place, name: str) -> None:
    """Refused, and nothing behind them is taken for another request."""
    data, wanted = HEADS[name]
    raw = await Raw.connect(place.gateway.port)
    await raw.send(data)
    async with asyncio.timeout(WAIT_SECONDS):
        answer = await raw.answer()
        assert answer.startswith(b"HTTP/1."), answer
        assert int(answer.split()[1]) in wanted
        if wanted == {400}:
            assert b"HTTP/1.1 200" not in await raw.rest()
    raw.close()
    await place.goes_on()


@pytest.mark.parametrize("name", ["an upgrade", "by POST", "no HTTP"])
async def test_who_is_gone_before_it_is_looked_at_is_no_fault(place: Place, name: str) -> None:
    """What was sent can be read, but no longer from whom it was."""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", place.gateway.port)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing cuts the line
            gone.sendall(HEADS[name][0])
    await place.goes_on()


async def test_a_message_may_come_byte_by_byte(place: Place) -> None:
    """Slow is not wrong: upgrade, frames and all; and several things in one segment are several."""
    raw = await Raw.connect(place.gateway.port)
    for byte in UPGRADE + message(type="hello", v=1) + message(type="ping"):
        await raw.send(bytes([byte]))
    assert (await raw.answer()).startswith(b"HTTP/1.1 101 ")
    assert await raw.outcome() == ALIVE
    raw.close()
    raw = await Raw.connect(place.gateway.port)
    await raw.send(UPGRADE + message(type="hello", v=1) + message(type="ping"))
    assert (await raw.answer()).startswith(b"HTTP/1.1 101 ")
    assert await raw.outcome() == ALIVE
    raw.close()
    await place.goes_on()
