"""docs/protocol.md is true: its conversations are the vectors, its requests are replayed, its tables are the code's."""

from __future__ import annotations

import gzip
import re

import aiohttp
import orjson
import pytest

from gateway.http import intake
from gateway.protocol import ndjson
from gateway.protocol.errors import BYES, ERRORS
from tests.support.gateway import ROOT, in_process
from tests.support.vectors import comparable, shown_in

DOCUMENT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
CONVERSATIONS = dict(re.findall(r"```conversation (\S+)\n(.*?)```", DOCUMENT, re.DOTALL))
REQUESTS = dict(re.findall(r"```http (\S+)\n(.*?)```", DOCUMENT, re.DOTALL))
BREAKS_OFF = b"(the gzip breaks off)\n"


def test_conversations_are_the_vectors() -> None:
    """They are replayed from there (test_vectors.py); `python3 scripts/vectors.py` writes them here."""
    assert CONVERSATIONS
    assert shown_in(DOCUMENT) == DOCUMENT


@pytest.mark.parametrize("name", REQUESTS)
async def test_request_is_answered_as_written(name: str, database: str) -> None:
    """The `>` lines are sent as one request, the `<` lines are its whole answer: status, headers, and the body."""
    asked, told = (
        [line[2:] for line in REQUESTS[name].splitlines() if line[:1] == direction] for direction in (">", "<")
    )
    method, path = asked[0].split(" ")
    begin = asked.index("")
    sent = dict(line.split(": ") for line in asked[1:begin])
    body = "".join(line + "\n" for line in asked[begin + 1 :]).encode()
    if sent.get("Content-Encoding") == "gzip":
        whole = gzip.compress(body.removesuffix(BREAKS_OFF))
        body = whole[:-1] if body.endswith(BREAKS_OFF) else whole
    async with (
        in_process(database) as gateway,
        aiohttp.ClientSession() as session,
        session.request(method, gateway.http + path, data=body, headers=sent) as answer,
    ):
        assert answer.status == int(told[0])
        end = told.index("")
        for header, value in (line.split(": ") for line in told[1:end]):
            assert answer.headers[header] == value
        got = (await answer.read()).decode().splitlines()
    assert [comparable(orjson.loads(line)) for line in got] == [
        comparable(orjson.loads(line)) for line in told[end + 1 :]
    ]
    assert got


def test_bounds_of_a_batch_are_those_of_the_code() -> None:
    """The numbers that a sender needs to know."""
    section = " ".join(DOCUMENT.partition("### Many reports in one request")[2].split())
    for words in (
        f"at most {intake.LINES:,} lines and {intake.REQUEST_BYTES >> 20} MiB",
        f"inflate to {ndjson.RATIO} times its size, and {ndjson.FREE_BYTES >> 20} MiB more",
        f"no whole line comes for {intake.LINE_SECONDS:g} s or no end for {intake.REQUEST_SECONDS:g} s",
        f"keeps {intake.UNTOLD_BYTES >> 20} MiB of outcomes",
        f"after {intake.TAKE_SECONDS:g} s in which nothing is taken",
    ):
        assert words in section


def test_tables_of_errors_are_those_of_the_code() -> None:
    """Each error code and close code is in the document with its HTTP status and whether to retry, and no other is."""
    rows = re.findall(r"^\| `(\w+)` \| (\d+|–) \| (yes|no) \|", DOCUMENT, re.MULTILINE)
    documented = {code: (status, retry) for code, status, retry in rows}
    for code, error in ERRORS.items():
        assert code in documented, code
        status, retry = documented.pop(code)
        assert status in {"–", str(error.http)}, code
        assert (retry == "yes") is error.retryable, code
    assert not documented
    closing = re.findall(r"^\| (4\d\d\d) \| `(\w+)` \| (yes|no) \|", DOCUMENT, re.MULTILINE)
    assert closing == [(str(bye.code), bye.reason, "yes" if bye.retry else "no") for bye in BYES]
