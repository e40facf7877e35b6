"""Tokens of the issuers in the auth file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import structlog
from msgspec import Struct

from gateway.auth.door import refused
from gateway.auth.keyring import Key
from gateway.auth.tokens import Issuer, TokenRefused, claimed, has_form, verify
from gateway.limits.bucket import Bucket
from gateway.limits.quotas import TOLD_AT_ONCE, TOLD_PER_SECOND
from gateway.principal import Principal

log = structlog.get_logger(__name__)


class Keys(Protocol):
    """The keys of one issuer."""

    async def find(self, kid: str | None) -> Key | None:
        """The key of this id, None when there is none."""

    async def close(self) -> None:
        """Leave nothing behind."""


class StaticKeys:
    """Keys from files. A token that names none is checked with the only one there is."""

    def __init__(self, keys: Mapping[str | None, Key]) -> None:
        self._keys = keys

    async def find(self, kid: str | None) -> Key | None:
        """As `Keys`; it never waits."""
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if kid is not None else None

    async def close(self) -> None:
        """There is nothing."""


class Trusted(Struct, frozen=True):
    """An issuer and its keys: an id of a key means nothing but with its issuer."""

    issuer: Issuer
    keys: Keys


class JwtSource:
    """Checks JSON Web Tokens."""

    def __init__(self, trusted: Mapping[str, Trusted]) -> None:
        self._trusted = trusted
        self._telling = Bucket(TOLD_PER_SECOND, burst=TOLD_AT_ONCE)  # who sends thousands must not fill a disk

    def takes(self, token: str) -> bool:
        """Whether it has three parts; no other kind of token has a dot."""
        return has_form(token)

    async def authenticate(self, token: str | None) -> Principal:
        """As `Authenticator`."""
        issuer: str | None = None
        try:
            says = claimed(token or "")
            trusted = self._trusted.get(says.issuer)
            if trusted is None:
                raise TokenRefused("issuer")
            issuer = trusted.issuer.name
            key = await trusted.keys.find(says.kid)
            if key is None:
                raise TokenRefused("key_id")
            return verify(token or "", says, key, trusted.issuer)
        except TokenRefused as error:
            if not self._telling.take(1, time.monotonic()):
                log.info("token_refused", reason=error.reason, issuer=issuer)
            raise refused() from None

    async def close(self) -> None:
        """Give up what is under way."""
        for trusted in self._trusted.values():
            await trusted.keys.close()
