"""Keys that an issuer publishes: fetched when they are needed, kept while the issuer is away.

At most one fetch at a time, and none within the cool-down after the last: a flood of tokens with wrong key ids costs
the issuer nothing. Known keys are used without waiting, and fetched anew behind the back of whoever uses them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final

import aiohttp
import msgspec
import structlog

from gateway.auth.keyring import Algorithm, Key, KeyRefused, keys_of
from gateway.protocol.errors import ProtocolError

log = structlog.get_logger(__name__)

FETCH_SECONDS: Final = 5.0
"""For a whole fetch: somebody waits for it with a connection open."""
CONNECT_SECONDS: Final = 2.0
DOCUMENT_BYTES: Final = 256 * 1024
"""A hundred RSA keys with their certificates."""
FRESH_SECONDS: Final = 300.0
"""So late may a key that was withdrawn still be taken."""
KEPT_SECONDS: Final = 24 * 3_600.0
"""Keys of an issuer that is away are used for so long."""
COOL_DOWN_SECONDS: Final = 10.0
"""Between two fetches; so late may a new key be taken."""


class Jwks:
    """The keys of one issuer, by `kid`. `find` may wait for a fetch."""

    def __init__(
        self,
        issuer: str,
        url: str,
        algorithms: Collection[Algorithm],
        *,
        cool_down_seconds: float = COOL_DOWN_SECONDS,
        fresh_seconds: float = FRESH_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
        fetch_seconds: float = FETCH_SECONDS,
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._algorithms = algorithms
        self._cool_down_seconds = cool_down_seconds
        self._fresh_seconds = fresh_seconds
        self._kept_seconds = kept_seconds
        self._fetch_seconds = fetch_seconds
        self._keys: dict[str, Key] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._answered = False  # the last time it was asked
        self._fetching: asyncio.Task[None] | None = None
        self.fetches = 0
        """Since the start."""

    async def find(self, kid: str | None) -> Key | None:
        """The key; None when the issuer has no such key.

        Raises `ProtocolError` `unavailable` when that cannot be said: the issuer has not answered the last time.
        """
        key = self._known(kid)
        if key is None or self._age() >= self._fresh_seconds:
            fetching = self._fetch()
            if key is None and fetching is not None:
                await asyncio.wait([fetching])  # it ends by its own clock, whoever waits for it
                key = self._known(kid)
        if key is None and not self._answered:
            raise ProtocolError(
                "unavailable",
                "The keys of this token's issuer cannot be fetched now; try again.",
                retry_after_ms=round(self._cool_down_seconds * 1_000),
            )
        return key

    async def close(self) -> None:
        """Give up the fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _known(self, kid: str | None) -> Key | None:
        return self._keys.get(kid or "") if self._age() < self._kept_seconds else None

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else time.monotonic() - self._fetched_at

    def _fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None while the last was too short a time ago."""
        if self._fetching is None:
            now = time.monotonic()
            if self._asked_at is not None and now < self._asked_at + self._cool_down_seconds:
                return None
            self._asked_at = now
            self._fetching = asyncio.create_task(self._ask(), name=f"jwks {self._issuer}")
        return self._fetching

    async def _ask(self) -> None:
        self.fetches += 1
        try:
            self._keys = keys_of(await self._document(), self._algorithms)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            detail = str(error) if isinstance(error, KeyRefused) else type(error).__name__
            self._answered = False
            log.warning("jwks_not_fetched", issuer=self._issuer, url=self._url, detail=detail, kept=len(self._keys))
        else:
            self._answered = True
            self._fetched_at = time.monotonic()
            log.info("jwks_fetched", issuer=self._issuer, keys=len(self._keys))
        finally:
            self._asked_at = time.monotonic()
            self._fetching = None

    async def _document(self) -> object:
        timeout = aiohttp.ClientTimeout(total=self._fetch_seconds, connect=CONNECT_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise KeyRefused(f"HTTP status {answer.status}")
            body = b""
            async for chunk in answer.content.iter_chunked(65_536):
                body += chunk
                if len(body) > DOCUMENT_BYTES:
                    raise KeyRefused(f"more than {DOCUMENT_BYTES} bytes")
            document: object = msgspec.json.decode(body)
            return document
