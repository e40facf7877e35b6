"""WebSockets by hand: frames as no client library sends them, all at once, byte by byte, and in pieces."""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.limits.rates import Limits
from gateway.protocol.errors import FRAME_TOO_LARGE, PROTOCOL_ERROR
from gateway.transports.websocket import HARD_FRAME_BYTES, WebSocket
from gateway.transports.wire import FRAGMENTS
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HELLO,
    PING,
    PONG,
    TEXT,
    Raw,
    frame,
    raw,
    upgrade,
    upgraded,
)
from tests.support.gateway import Gateway, in_process
from tests.support.postgres import Cluster, temporary_database
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
REPORTS = 400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(cluster: Cluster) -> AsyncIterator[Gateway]:
    unbounded = Limits(messages_per_second=0, pings_per_second=0)
    async with temporary_database(cluster) as dsn, in_process(dsn, limits=unbounded) as running:
        yield running


def report(id_: int, task_id: str) -> bytes:
    return frame(b'{"type":"report","id":%d,"task_id":"%b"}' % (id_, task_id.encode()))


async def replies(peer: Raw, count: int) -> list[int]:
    """The sequences of accepted reports, in the order of their ids."""
    answers = [await peer.message() for _ in range(count)]
    assert all(answer["ok"] for answer in answers)
    return [answer["seq"] for answer in sorted(answers, key=lambda answer: int(answer["id"]))]


async def test_what_comes_with_the_upgrade_is_taken_in_order(gateway: Gateway) -> None:
    """Hundreds of reports in the same write as the upgrade wait for who it is, and for their turn."""
    frames = [report(number, "with-the-upgrade") for number in range(REPORTS)]
    async with raw(gateway.port) as peer:
        peer.send(upgrade() + frame(HELLO) + b"".join(frames))
        assert (await peer.head())[0] == 101
        assert (await peer.message())["type"] == "welcome"
        assert await replies(peer, REPORTS) == [*range(1, REPORTS + 1)]


async def test_bytes_may_come_one_by_one(gateway: Gateway) -> None:
    """The upgrade, too; each of them is a segment of its own."""
    async with raw(gateway.port) as peer:
        for byte in upgrade() + frame(HELLO) + report(1, "one-by-one") + frame(b"?", PING):
            peer.send(bytes((byte,)))
            await peer.writer.drain()
            await asyncio.sleep(0)
        assert (await peer.head())[0] == 101
        assert (await peer.message())["type"] == "welcome"
        found = sorted([await peer.frame(), await peer.frame()])
        assert [opcode for opcode, _ in found] == [TEXT, PONG]
        assert b'"seq":1' in found[0][1]


async def test_any_cut_and_any_fragments_are_the_same_messages(gateway: Gateway) -> None:
    """Whole, in fragments, in empty ones, with pings between them; written in parts of any length."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    dice = random.Random(seed)
    task_id = f"fragments-{seed}"
    data, pings = bytearray(), 0
    for number in range(REPORTS):
        text = b'{"type":"report","id":%d,"task_id":"%b","message":"%b"}' % (
            number, task_id.encode(), "ü€😀".encode() * dice.randrange(60),
        )  # fmt: skip
        cuts = sorted(dice.randrange(len(text) + 1) for _ in range(dice.choice((0, 0, 0, 1, 2, 9))))
        parts = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for place, part in enumerate(parts):
            data += frame(part, TEXT if place == 0 else CONTINUATION, final=place == len(parts) - 1)
            if dice.random() < 0.05:
                data += frame(b"%d" % number, PING)
                pings += 1
    async with upgraded(gateway.port) as peer:

        async def write() -> None:
            at = 0
            while at < len(data):
                size = dice.choice((1, 7, 100, 5_000, 50_000))
                peer.send(bytes(data[at : at + size]))
                at += size
                await peer.writer.drain()
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        seen, pongs = 0, 0
        while seen < REPORTS:
            opcode, payload = await peer.frame()
            assert opcode in {TEXT, PONG}, payload
            pongs += opcode == PONG
            if opcode == TEXT and b'"reply"' in payload:
                assert b'"ok":true' in payload
                seen += 1
        await writing
        peer.send(report(REPORTS, task_id))
        while (found := await peer.frame())[0] == PONG:
            pongs += 1
        assert b'"seq":%d' % (REPORTS + 1) in found[1]
        assert pings
        assert 0 < pongs <= pings


def too_many_fragments() -> bytes:
    return frame(b"", final=False) + frame(b"", CONTINUATION, final=False) * FRAGMENTS


@pytest.mark.parametrize(
    ("wrong", "bye"),
    [
        (frame(b'{"type":"ping"}', masked=False), PROTOCOL_ERROR),
        (frame(b"", CONTINUATION), PROTOCOL_ERROR),
        (frame(b"", final=False) + frame(b"{}"), PROTOCOL_ERROR),
        (frame(b"", 0x3), PROTOCOL_ERROR),
        (b"\xc1" + frame(b"{}")[1:], PROTOCOL_ERROR),
        (frame(b"\xff\xfe"), PROTOCOL_ERROR),
        (frame(b"x" * 126, PING), PROTOCOL_ERROR),
        (frame(b"\x03\xed", CLOSE), PROTOCOL_ERROR),
        (too_many_fragments(), FRAME_TOO_LARGE),
        (frame(b"x" * 200_000, final=False) + frame(b"x" * 200_000, CONTINUATION), FRAME_TOO_LARGE),
        (b"\x81\xff" + (2**62).to_bytes(8, "big"), FRAME_TOO_LARGE),
        (b"\x81\xff" + (HARD_FRAME_BYTES + 1).to_bytes(8, "big"), FRAME_TOO_LARGE),
    ],
)
async def test_what_is_no_websocket_ends_in_words(gateway: Gateway, wrong: bytes, bye: object) -> None:
    """What was asked before is answered, then `bye`, then the code; what comes behind is not looked at."""
    assert bye in {PROTOCOL_ERROR, FRAME_TOO_LARGE}
    expected = PROTOCOL_ERROR if bye is PROTOCOL_ERROR else FRAME_TOO_LARGE
    async with upgraded(gateway.port) as peer:
        peer.send(frame(b'{"type":"ping"}') + wrong + frame(b'{"type":"ping"}'))
        assert (await peer.message())["type"] == "pong"
        said = await peer.message()
        assert (said["type"], said["code"], said["reason"]) == ("bye", expected.code, expected.reason)
        assert await peer.closed() == expected.code
        peer.send(frame(expected.code.to_bytes(2, "big"), CLOSE))
        assert await peer.rest() == b""


async def test_a_binary_frame_is_answered_and_a_pong_is_not(gateway: Gateway) -> None:
    """The connection goes on."""
    async with upgraded(gateway.port) as peer:
        peer.send(frame(b"{}", BINARY) + frame(b"", PONG) + frame(b'{"type":"ping"}'))
        assert (await peer.message())["error"]["code"] == "bad_json"
        assert (await peer.message())["type"] == "pong"


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0going"])
async def test_a_closing_frame_is_answered_and_the_line_closed(gateway: Gateway, payload: bytes) -> None:
    """What was asked before it is answered; what comes behind it is not looked at."""
    async with upgraded(gateway.port) as peer:
        peer.send(frame(b'{"type":"ping"}') + frame(payload, CLOSE) + frame(b'{"type":"ping"}'))
        assert (await peer.message())["type"] == "pong"
        assert await peer.closed() == 1000
        assert await peer.rest() == b""


async def test_pings_are_answered_no_faster_than_the_peer_takes_it(gateway: Gateway) -> None:
    """A peer that sends pings and reads nothing makes the server hold one answer, and the latest at the end."""
    count = 8_000  # a megabyte
    async with upgraded(gateway.port, receive_bytes=4_096) as peer:
        (socket,) = [each for each in gc.get_objects() if type(each) is WebSocket and each._open]
        peer.send(b"".join(frame(b"%0120d" % number, PING) for number in range(count)))
        await eventually(lambda: socket._pong is not None, what="the system takes no more")
        assert socket.unsent() < 1_000
        answered = 0
        while True:
            opcode, payload = await peer.frame()
            if opcode == PONG:
                answered += 1
                if int(payload) == count - 1:
                    break
        assert 0 < answered < count


async def test_a_peer_with_much_to_say_leaves_others_their_turn(gateway: Gateway) -> None:
    """Its frames are taken by and by; a ping of another is answered before the last of them."""
    many = 20_000
    async with upgraded(gateway.port) as loud, upgraded(gateway.port) as other:
        loud.send(frame(b'{"type":"pong"}') * many + frame(b'{"type":"ping"}'))
        last = asyncio.create_task(loud.message())
        asked = 0
        while not last.done():
            other.send(frame(b'{"type":"ping"}'))
            assert (await other.message())["type"] == "pong"
            asked += 1
        assert (await last)["type"] == "pong"
        assert asked > 3


async def test_nothing_is_left_of_those_who_have_gone(gateway: Gateway) -> None:
    """However they went: in order, in the middle of a frame, of a message, before hello, with a reset."""
    ends = [frame(b"", CLOSE), report(1, "gone")[:9], frame(b"{", final=False), frame(b"x", masked=False), b""]
    for end in ends:
        for reset in (False, True):
            async with upgraded(gateway.port) as peer:
                peer.send(end)
                await peer.writer.drain()
                if not reset:
                    peer.writer.write_eof()
                    await peer.rest()
    async with raw(gateway.port) as peer:
        peer.send(upgrade())
        await peer.head()

    def open_() -> list[WebSocket]:
        return [each for each in gc.get_objects() if type(each) is WebSocket and each._connection is not None]

    await eventually(lambda: not open_(), what="all connections are gone")
