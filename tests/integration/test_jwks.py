"""Keys that issuers publish, from real HTTP servers that rotate, stall and die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from aiohttp import web

from gateway.auth.door import Door
from gateway.auth.jwks import DOCUMENT_BYTES, Jwks
from gateway.auth.jwt_source import JwtSource, Trusted
from gateway.auth.keyring import Algorithm
from gateway.auth.tokens import Issuer
from gateway.protocol.errors import ProtocolError
from tests.support.tokens import AUDIENCE, jwk, private_key, token
from tests.support.waiting import eventually

PUBLIC: Final[tuple[Algorithm, ...]] = ("RS256", "ES256", "EdDSA")


class Publisher:
    """An issuer's HTTP server."""

    def __init__(self) -> None:
        self.document: Any = {"keys": []}
        self.status = 200
        self.asked = 0
        self.stalls: asyncio.Event | None = None
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/jwks", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def die(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.stalls is not None:
            await self.stalls.wait()
        if isinstance(self.document, bytes):
            return web.Response(body=self.document, status=self.status)
        return web.json_response(self.document, status=self.status)


@asynccontextmanager
async def publisher(*keys: dict[str, Any]) -> AsyncIterator[Publisher]:
    made = Publisher()
    made.document = {"keys": list(keys)}
    await made.start()
    try:
        yield made
    finally:
        if made.stalls is not None:
            made.stalls.set()
        await made.die()


@asynccontextmanager
async def door(*publishers: Publisher, **times: float) -> AsyncIterator[tuple[Door, list[Jwks]]]:
    """A door that believes these, by the names home, home2, …"""
    keys = [Jwks(f"home{n or ''}", each.url, PUBLIC, **times) for n, each in enumerate(publishers)]
    trusted = {
        f"home{n or ''}": Trusted(Issuer(name=f"home{n or ''}", audience=(AUDIENCE,), tenant=f"t{n}"), each)
        for n, each in enumerate(keys)
    }
    source = JwtSource(trusted)
    try:
        yield Door([source]), keys
    finally:
        await source.close()


async def refused(at: Door, text: str, code: str = "unauthenticated") -> None:
    with pytest.raises(ProtocolError) as error:
        await at.authenticate(text)
    assert error.value.code == code


async def test_two_issuers_with_the_same_key_id_stay_apart() -> None:
    """A key is known by its issuer and its id; a token of one is not one of the other."""
    first, second = private_key("ES256"), private_key("ES256")
    async with publisher(jwk(first, "k1")) as one, publisher(jwk(second, "k1")) as two, door(one, two) as (at, _):
        assert (await at.authenticate(token(first, "ES256"))).tenant == "t0"
        assert (await at.authenticate(token(second, "ES256", iss="home1"))).tenant == "t1"
        await refused(at, token(first, "ES256", iss="home1"))
        await refused(at, token(second, "ES256"))
        await refused(at, token(first, "ES256", iss="home2"))
        assert (one.asked, two.asked) == (1, 1)


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_a_rotated_key_is_fetched_when_it_is_seen_first(algorithm: str) -> None:
    """The old one is taken until it is withdrawn; then it is not."""
    old, new = private_key(algorithm), private_key(algorithm)
    async with publisher(jwk(old, "k1")) as issuer, door(issuer, cool_down_seconds=0) as (at, _):
        assert await at.authenticate(token(old, algorithm))
        issuer.document = {"keys": [jwk(old, "k1"), jwk(new, "k2")]}
        assert await at.authenticate(token(new, algorithm, kid="k2"))
        assert await at.authenticate(token(old, algorithm))
        issuer.document = {"keys": [jwk(new, "k2")]}
        await refused(at, token(new, algorithm, kid="k3"))
        await refused(at, token(old, algorithm))


async def test_a_flood_of_wrong_key_ids_is_no_flood_of_fetches() -> None:
    """One fetch in the cool-down, however many ask; those who come together share it."""
    private = private_key("EdDSA")
    async with publisher(jwk(private, "k1")) as issuer, door(issuer) as (at, _):
        outcomes = await asyncio.gather(
            *(at.authenticate(token(private, "EdDSA", kid=f"x{n}")) for n in range(300)),
            at.authenticate(token(private, "EdDSA")),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes[:300]] == [ProtocolError] * 300
        assert not isinstance(outcomes[300], BaseException)
        for n in range(300):
            await refused(at, token(private, "EdDSA", kid=f"y{n}"))
        assert issuer.asked == 1


async def test_while_an_issuer_is_away_its_keys_are_kept() -> None:
    """Dead or stalled: who has a known key comes in at once; of an unknown one nothing can be said."""
    private = private_key("ES256")
    times = {"cool_down_seconds": 0.0, "fresh_seconds": 0.0, "fetch_seconds": 0.3}
    async with publisher(jwk(private, "k1")) as issuer, door(issuer, **times) as (at, (keys,)):
        assert await at.authenticate(token(private, "ES256"))
        await issuer.die()
        for _ in range(3):
            assert await at.authenticate(token(private, "ES256"))
            await refused(at, token(private, "ES256", kid="k2"), "unavailable")
        await issuer.start()
        issuer.stalls = asyncio.Event()
        assert await at.authenticate(token(private, "ES256"))
        await refused(at, token(private, "ES256", kid="k2"), "unavailable")
        assert keys.fetches >= 4


async def test_an_issuer_that_never_answered_cannot_be_judged_by() -> None:
    """The token may be good: come again."""
    private = private_key("ES256")
    for document, status in (
        ({"keys": [jwk(private, "k1")]}, 500),
        (b"not json", 200),
        ([], 200),
        (b'{"keys": [' + b" " * DOCUMENT_BYTES + b"]}", 200),
        (b"[" * 100_000, 200),
    ):
        async with publisher() as issuer, door(issuer, cool_down_seconds=0) as (at, _):
            issuer.document, issuer.status = document, status
            await refused(at, token(private, "ES256"), "unavailable")
            assert issuer.asked == 1
            issuer.document, issuer.status = {"keys": [jwk(private, "k1")]}, 200
            assert await at.authenticate(token(private, "ES256"))


async def test_keys_are_not_kept_for_ever() -> None:
    """Of an issuer that is away for too long nothing is known any more."""
    private = private_key("ES256")
    async with publisher(jwk(private, "k1")) as issuer, door(issuer, cool_down_seconds=0, kept_seconds=0.2) as (at, _):
        assert await at.authenticate(token(private, "ES256"))
        await issuer.die()

        async def forgotten() -> bool:
            try:
                await at.authenticate(token(private, "ES256"))
            except ProtocolError as error:
                return error.code == "unavailable"
            return False

        await eventually(forgotten)


async def test_a_redirect_is_not_followed() -> None:
    """It would lead where nobody has said that it may."""
    private = private_key("ES256")
    async with publisher(jwk(private, "k1")) as issuer, door(issuer) as (at, _):
        issuer.status = 302
        await refused(at, token(private, "ES256"), "unavailable")
