"""What every door asks: who does this token belong to? Tokens tell by their form which kind they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from gateway.principal import EVERYTHING, Principal
from gateway.protocol.errors import ProtocolError

TOKEN_CHARACTERS: Final = 8_192
"""The longest token that is looked at; a header line holds no more either."""


class Authenticator(Protocol):
    """Tells who a token belongs to."""

    async def authenticate(self, token: str | None) -> Principal:
        """The principal; raises `ProtocolError` `unauthenticated`, or `unavailable` where it cannot be said now."""


class Source(Authenticator, Protocol):
    """One kind of tokens."""

    def takes(self, token: str) -> bool:
        """Whether it has the form of this kind."""


class Anyone:
    """Development: everybody is one principal, whatever the token."""

    async def authenticate(self, token: str | None) -> Principal:
        """The one principal."""
        return Principal(tenant="default", subject="anyone", grants=EVERYTHING)


class Door:
    """Asks the first source that takes tokens of this form."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    async def authenticate(self, token: str | None) -> Principal:
        """As the source says; a token that none takes is not valid."""
        if token and len(token) <= TOKEN_CHARACTERS:
            for source in self._sources:
                if source.takes(token):
                    return await source.authenticate(token)
        raise refused()


def refused() -> ProtocolError:
    """The one answer to all that is wrong with a token: what it was helps nobody but who tries."""
    return ProtocolError("unauthenticated", "The token is missing or not valid.")
