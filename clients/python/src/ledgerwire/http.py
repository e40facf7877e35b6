"""Plain HTTP to the gateway, beside its WebSocket: pages of tasks, and polls where no socket is to be had.

The standard library's client, in threads: a request is rare and short. No redirect is followed, because the token is
for the address that was asked for.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from ledgerwire import wire
from ledgerwire.errors import Unauthenticated, rejected
from ledgerwire.thread import in_thread
from ledgerwire.token import Tokens

_BYTES_MAX: Final = 67_108_864
"""Of an answer: 500 transitions with all that one may hold are half of this."""
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PATH: Final = "/v1/ws"


class NoAnswer(Exception):
    """No answer, or one that says to come again; `retry_after_seconds` when it says when."""

    def __init__(self, why: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_seconds = retry_after_seconds


class NoGateway(Exception):
    """What answered is no gateway."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def base_of(url: str) -> str | None:
    """`http://host:port/v1` for `ws://host:port/v1/ws`; None for an address whose HTTP nobody knows."""
    parts = urlsplit(url)
    if not parts.path.endswith(_PATH):
        return None
    scheme = "https" if parts.scheme == "wss" else "http"
    return urlunsplit((scheme, parts.netloc, parts.path.removesuffix("/ws"), "", ""))


class Http:
    """Requests below one address, each with the client's token."""

    def __init__(
        self, base: str, *, tokens: Tokens, client: str, tls: ssl.SSLContext | None, timeout_seconds: float
    ) -> None:
        self._base = base
        self._tokens = tokens
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._opener = urllib.request.build_opener(_Stay, urllib.request.HTTPSHandler(context=tls))

    async def get(self, path: str, query: Mapping[str, str | int]) -> wire.Message:
        """The object that is there. Raises Rejected, Unauthenticated, NoToken, NoAnswer, NoGateway."""
        return await self._ask(f"{path}?{urlencode(query)}" if query else path, None)

    async def post(self, path: str, body: wire.Message) -> wire.Message:
        """The answer to an object. Raises as `get`."""
        return await self._ask(path, wire.encode(body))

    async def _ask(self, path: str, body: bytes | None) -> wire.Message:
        answer = await self._exchange(path, body, await self._tokens.last())
        if answer.status == 401 and self._tokens.renewable:
            answer = await self._exchange(path, body, await self._tokens.fresh())
        try:
            content = wire.loads(answer.body)
        except wire.Malformed:
            content = {}
        if 200 <= answer.status < 300 and content:
            return content
        why = f"HTTP {answer.status}"
        if answer.status == 401:
            raise Unauthenticated(401, "unauthenticated", str(content.get("detail", why)))
        if content.get("retryable") is True or (answer.status in _PASSING and "code" not in content):
            raise NoAnswer(f"{why} {content.get('code', '')}".strip(), wire.seconds(content.get("retry_after_ms")))
        if "code" in content and content["code"] != "unknown_path":
            raise rejected(str(content["code"]), str(content.get("detail", why)))
        sentence = f"{self._base}{path.partition('?')[0]} was answered with {why}, and not as a gateway does"
        raise NoGateway(sentence)

    async def _exchange(self, path: str, body: bytes | None, token: str | None) -> _Answer:
        headers = {"Accept": "application/json", "User-Agent": self._client}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self._base + path, data=body, headers=headers)  # noqa: S310 - http or https
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await in_thread(lambda: self._open(request))
        except TimeoutError as error:
            raise NoAnswer("no answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error

    def _open(self, request: urllib.request.Request) -> _Answer:
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                return _Answer(response.status, response.read(_BYTES_MAX))
        except urllib.error.HTTPError as refusal:
            with refusal:
                return _Answer(refusal.code, refusal.read(_BYTES_MAX))
