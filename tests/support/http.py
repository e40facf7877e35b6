"""Requests over HTTP as a test writes them, and what every answer must have."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import aiohttp
import orjson
from msgspec import Struct

from gateway.protocol.errors import ERRORS
from tests.support.gateway import Gateway
from tests.support.waiting import WAIT_SECONDS

LISTED = "https://app.example"


TOKENS = {tenant: hashlib.sha256(tenant.encode()).hexdigest() for tenant in ("acme", "beta")}  # tests are named by them


class Answer(Struct, frozen=True):
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)

    def is_problem(self, code: str) -> Any:
        """The body, which must be the RFC 9457 answer for this code, as the table of errors has it."""
        body = self.json
        assert self.headers["content-type"] == "application/problem+json", self
        assert body.keys() >= {"type", "title", "status", "detail", "code", "retryable", "retry_after_ms"}
        assert body["code"] == code, body
        assert self.status == body["status"] == ERRORS[code].http
        assert body["retryable"] is ERRORS[code].retryable
        assert len(body["detail"]) >= 10
        return body


class Http:
    """A client of one gateway."""

    def __init__(self, session: aiohttp.ClientSession, gateway: Gateway) -> None:
        self.session = session
        self.gateway = gateway

    async def __call__(self, request: str, content: Any = None, **headers: str) -> Answer:
        """`GET /path` or `POST /path`; `content` becomes JSON, a str goes as it is. Header names are written with _."""
        method, path = request.split(" ", 1)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = content if content is None or isinstance(content, str) else orjson.dumps(content).decode()
        url = self.gateway.http + path
        async with self.session.request(method, url, data=body, headers=sent, allow_redirects=False) as answer:
            got = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, got, await answer.text())

    async def report(self, task_id: str, **members: Any) -> Any:
        answer = await self(f"POST /v1/tasks/{task_id}/transitions", members)
        assert answer.status == 200, answer
        return answer.json

    async def raw(self, head: bytes) -> bytes:
        """Send bytes that no client library would send; everything that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        writer.write(head)
        async with asyncio.timeout(WAIT_SECONDS):
            got = await reader.read()
        writer.close()
        return got
