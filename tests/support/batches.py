"""Batches of reports over HTTP: how they are sent, and what an outcome must look like."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson
import pytest
from msgspec import Struct

from gateway.http.intake import Intake
from gateway.protocol.errors import ERRORS
from tests.support.gateway import Gateway
from tests.support.waiting import WAIT_SECONDS, eventually

in_the_module = pytest.mark.asyncio(loop_scope="module")


NDJSON: Final = {"Content-Type": "application/x-ndjson"}


GZIP: Final = {**NDJSON, "Content-Encoding": "gzip"}


class Answer(Struct, frozen=True):
    """The answer to a batch, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The outcomes."""
        assert self.status == 200, self
        assert self.headers["content-type"] == "application/x-ndjson"
        assert not self.body or self.body.endswith(b"\n")
        return [orjson.loads(line) for line in self.body.splitlines()]

    def is_problem(self, code: str) -> Any:
        """The body, which must be the RFC 9457 answer for this code, as the table of errors has it."""
        body = orjson.loads(self.body)
        assert self.headers["content-type"] == "application/problem+json", self
        assert (body["code"], body["retryable"]) == (code, ERRORS[code].retryable), body
        assert self.status == body["status"] == ERRORS[code].http
        return body


async def post(
    gateway: Gateway, body: bytes | AsyncIterator[bytes], path: str = "/v1/transitions", **headers: str
) -> Answer:
    """Send a batch as it stands, and read the answer meanwhile. Header names are written with _."""
    sent = {**NDJSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.post(gateway.http + path, data=body, headers=sent) as answer,
    ):
        got = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, got, await answer.read())


async def get(gateway: Gateway, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(gateway.http + path) as answer:
        return orjson.loads(await answer.read())


def ndjson(*reports: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(report) + b"\n" for report in reports)


def accepted(line: int, task_id: str, seq: int, **members: Any) -> dict[str, Any]:
    """The outcome of a report that is in the ledger."""
    at = {"ok": True, "task_id": task_id, "seq": seq, "status": "running", "attempt": 0, "repeat": False}
    return {"line": line, **at, **members}


def refused(line: dict[str, Any]) -> tuple[int, str]:
    """A refusing outcome, which must say what to do: its line and code."""
    assert line.keys() - {"id"} == {"line", "ok", "error"}
    assert line["ok"] is False
    error = line["error"]
    assert error["retryable"] is ERRORS[error["code"]].retryable
    assert len(error["message"]) >= 10
    return line["line"], error["code"]


def broken_off(line: dict[str, Any]) -> tuple[int, str]:
    """The last line of an answer to a batch that was not read to its end."""
    assert line.keys() == {"from_line", "ok", "error"}
    assert line["ok"] is False
    return line["from_line"], line["error"]["code"]


def intakes() -> list[Intake]:
    """The batches that this process is taking in."""
    return [each for each in gc.get_objects() if type(each) is Intake and not each._over]


class Sender:
    """A client that sends and reads as the test says, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """One chunk of the body."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def outcome(self) -> dict[str, Any]:
        """The next outcome."""
        async with asyncio.timeout(WAIT_SECONDS):
            line = await self.reader.readline()
            while not line.startswith(b"{"):
                assert line, "the answer ended"
                line = await self.reader.readline()
        got: dict[str, Any] = orjson.loads(line)
        return got

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.reader.read()


@asynccontextmanager
async def sender(gateway: Gateway, *, limit: int = 2**16) -> AsyncIterator[Sender]:
    """A connection with the head of a batch on its way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=limit)
    try:
        head = "POST /v1/transitions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        yield Sender(reader, writer)
    finally:
        writer.transport.abort()


async def none_left(gateway: Gateway) -> None:
    """The server has forgotten all batches."""
    await eventually(lambda: not intakes(), what="no batch is left")
