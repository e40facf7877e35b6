"""However a stream is cut into pieces, its lines are the same; what is called gzip is inflated or refused, bounded."""

from __future__ import annotations

import gzip
import itertools
import random
import tracemalloc
import zlib
from collections.abc import Iterable
from typing import Final

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.protocol import codec, messages
from gateway.protocol.codec import FRAME_BYTES, Unreadable, decode_line
from gateway.protocol.errors import ProtocolError
from gateway.protocol.ndjson import FREE_BYTES, MEMBERS, PART_BYTES, RATIO, Inflater, Lines
from ledger.machine import Status
from ledger.model import Receipt

SETTINGS: Final = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MAX: Final = 8

streams = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"a", b"bc", b"d" * MAX, b"e" * (MAX + 1), b"{}"]), max_size=40
).map(b"".join)
cuts = st.lists(st.integers(0, 300), max_size=20)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data in pieces, empty ones too."""
    at = [0, *sorted(place for place in places if place <= len(data)), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(at)]


def lines_of(pieces: Iterable[bytes], max_bytes: int = MAX) -> list[bytes | None]:
    splitter = Lines(max_bytes)
    return [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.end())


def inflated(pieces: Iterable[bytes]) -> bytes:
    inflater = Inflater()
    got = b"".join(part for piece in pieces for part in inflater.feed(piece))
    inflater.end()
    return got


# Lines


@SETTINGS
@given(streams, cuts)
@example(b"e" * (MAX + 1), [MAX])
@example(b"d" * MAX + b"\n" + b"e" * 30 + b"\n\nx", [3, 9, 20, 39, 40])
def test_lines_are_the_same_however_the_stream_is_cut(data: bytes, places: list[int]) -> None:
    """They are what stands between the LFs; one that is too long is told in its place, and harms no other."""
    parts = data.split(b"\n")
    expected = [line if len(line) <= MAX else None for line in (parts if parts[-1] else parts[:-1])]
    assert lines_of(cut(data, places)) == expected
    assert lines_of([data]) == expected
    assert lines_of(data[i : i + 1] for i in range(len(data))) == expected


def test_a_line_without_an_end_is_not_kept() -> None:
    """A hundred megabytes of it cost no more memory than one line may have."""
    splitter, piece = Lines(FRAME_BYTES), bytes(64 * 1024)
    told = []
    tracemalloc.start()
    try:
        for _ in range(1_600):
            told += list(splitter.feed(piece))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told == [None], "told once, as soon as it is known"
    assert most < 4 * FRAME_BYTES
    assert list(splitter.feed(b"rest\nnext\n")) == [b"next"]
    assert list(splitter.end()) == []


# Gzip


@SETTINGS
@given(st.lists(st.binary(max_size=2_000), min_size=1, max_size=5), st.lists(st.integers(0, 5_000), max_size=20))
def test_gzip_is_inflated_however_it_is_cut(files: list[bytes], places: list[int]) -> None:
    """Several files one after the other are one stream."""
    packed = b"".join(gzip.compress(file) for file in files)
    assert inflated(cut(packed, places)) == b"".join(files)


@pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 5 * PART_BYTES - 7])
def test_what_follows_a_large_file_is_read_once(size: int) -> None:
    """Another file, or garbage, in the same piece as the end of one that was inflated in several parts."""
    first, second = bytes(size), b"second\n" * 20_000
    packed = gzip.compress(first) + gzip.compress(second)
    assert inflated([packed]) == inflated(packed[i : i + 1] for i in range(len(packed))) == first + second
    with pytest.raises(ProtocolError, match=r"^The body is not gzip"):
        inflated([packed + b"garbage"])


@SETTINGS
@given(st.binary(max_size=500), st.integers(1, 10**6), st.lists(st.integers(0, 600), max_size=5))
def test_gzip_that_breaks_off_is_never_taken_for_whole(content: bytes, missing: int, places: list[int]) -> None:
    """At whatever byte."""
    packed = gzip.compress(content)
    packed = packed[: len(packed) - 1 - missing % len(packed)]
    with pytest.raises(ProtocolError) as refused:
        inflated(cut(packed, places))
    assert refused.value.code == "bad_request"


@SETTINGS
@given(st.binary(min_size=1, max_size=300))
@example(b"\0")
@example(b"\x1f")
@example(b"\x1f\x8b\x08")
def test_what_is_not_gzip_is_refused(noise: bytes) -> None:
    """Alone or behind a whole file, where it might be padding or a second body."""
    for packed in (noise, gzip.compress(b"line\n") + noise):
        with pytest.raises(ProtocolError) as refused:
            inflated([packed])
        assert refused.value.code == "bad_request"


def test_damaged_gzip_is_refused(seed: int) -> None:
    """Each flipped bit that changes the content is noticed at the latest by the check sum at the end."""
    content = orjson.dumps([f"task-{number}" for number in range(300)])
    packed, noticed, rng = gzip.compress(content), 0, random.Random(seed)
    for _ in range(300):
        at = rng.randrange(10, len(packed))  # behind the header, where time and system stand
        damaged = bytes([*packed[:at], packed[at] ^ 1 << rng.randrange(8), *packed[at + 1 :]])
        try:
            assert inflated([damaged]) == content
        except ProtocolError as refused:
            noticed += refused.code in {"bad_request", "request_too_large"}
    assert noticed > 290


def bomb() -> bytes:
    """A thousand files of 10 MB of zeros: 10 GB in less than 10 MB."""
    return gzip.compress(bytes(10_000_000)) * 1_000


def test_a_bomb_costs_neither_memory_nor_time() -> None:
    """It ends as soon as it has inflated too far, a part at a time; nobody asks for the rest."""
    body = bomb()
    taken = 0
    inflater = Inflater()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as refused:
            for begin in range(0, len(body), PART_BYTES):
                for part in inflater.feed(body[begin : begin + PART_BYTES]):
                    assert len(part) <= PART_BYTES
                    taken += len(part)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.code == "request_too_large"
    assert str(RATIO) in refused.value.message
    assert FREE_BYTES < taken < 4 * FREE_BYTES
    assert most < 8 * PART_BYTES


def test_what_compresses_well_is_no_bomb() -> None:
    """Fifty thousand reports that differ in a number only."""
    lines = b"".join(b'{"task_id":"import-7","attempt":1,"n":%d,"progress":50}\n' % n for n in range(50_000))
    packed = gzip.compress(lines, 9)
    assert len(lines) > 2 * FREE_BYTES
    assert inflated([packed]) == lines
    assert inflated([gzip.compress(b"x" * FREE_BYTES)]) == b"x" * FREE_BYTES


def test_so_many_files_and_no_more() -> None:
    """Empty ones, which cost a window each and give nothing."""
    empty = gzip.compress(b"")
    assert inflated([empty * MEMBERS]) == b""
    with pytest.raises(ProtocolError, match=r"^A body may have 1000 gzip files") as refused:
        inflated([empty * (MEMBERS + 1)])
    assert refused.value.code == "request_too_large"


def test_no_body_is_no_gzip() -> None:
    """Nothing in gzip has a header and a check sum too."""
    with pytest.raises(ProtocolError, match=r"^The body is empty") as refused:
        inflated([])
    assert refused.value.code == "bad_request"


@pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_what_has_come_is_inflated_at_once(size: int) -> None:
    """A sender that flushes is not kept waiting for its next byte, also where a part is exactly full."""
    packer = zlib.compressobj(wbits=31)
    content = random.Random(size).randbytes(size // 2) * 2 + bytes(size % 2)
    begun = packer.compress(content) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert b"".join(Inflater().feed(begun)) == content


# What is in a line


@pytest.mark.parametrize(
    ("line", "code", "id_"),
    [
        (b"{", "bad_json", None),
        (b"\xff", "bad_json", None),
        (b'{"task_id":"\xff","id":1}', "bad_json", None),
        (b'{"task_id":5,"id":"\xff"}', "bad_request", None),
        (b"\xef\xbb\xbf{}", "bad_json", None),
        (b"[" * FRAME_BYTES, "bad_request", None),
        (b'{"task_id":"a","x":' + b"[" * 60_000, "bad_json", None),
        (b'[{"task_id":"a"}]', "bad_request", None),
        (b'{"id":7}', "bad_request", 7),
        (b'{"id":"x","task_id":"a","progress":101}', "bad_request", "x"),
        (b'{"type":"create","id":1,"task_id":"a"}', "bad_request", 1),
        (b'{"type":"dance","id":1,"task_id":"a"}', "unknown_type", 1),
    ],
)
def test_a_line_that_is_no_report_says_why(line: bytes, code: str, id_: int | str | None) -> None:
    """With its id, where one can be made out."""
    found = decode_line(line)
    assert isinstance(found, Unreadable)
    assert (found.error.code, found.id) == (code, id_)


@pytest.mark.parametrize("line", [b'{"task_id":"a","n":1}', b' {"type":"report","task_id":"a","n":1,"new":0}\r'])
def test_a_line_is_a_report_with_or_without_its_type(line: bytes) -> None:
    """What is around it, and members of newer clients, do no harm."""
    assert decode_line(line) == messages.Report(task_id="a", n=1)


def test_an_outcome_is_one_line() -> None:
    """The members of a reply, after the line's number; `id` only where the report had one."""
    receipt = Receipt(task_id="a", seq=3, status=Status.RUNNING, attempt=1, repeat=False)
    members = b'"ok":true,"task_id":"a","seq":3,"status":"running","attempt":1,"repeat":false}\n'
    assert codec.outcome(7, None, receipt) == b'{"line":7,' + members
    assert codec.outcome(7, 0, receipt) == b'{"line":7,"id":0,' + members
    busy = ProtocolError("busy", "Later.", retry_after_ms=5)
    error = b'"ok":false,"error":{"code":"busy","message":"Later.","retryable":true,"retry_after_ms":5}}\n'
    assert codec.outcome(7, "x\n", busy) == b'{"line":7,"id":"x\\n",' + error
    assert codec.broken_off(8, busy) == b'{"from_line":8,' + error
