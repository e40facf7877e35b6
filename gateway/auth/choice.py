"""Which kinds of tokens are taken, by what was set."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from gateway.auth import config
from gateway.auth.api_keys import ApiKeySource
from gateway.auth.door import Anyone, Authenticator, Door, Source
from gateway.auth.jwt_source import JwtSource
from gateway.auth.token_file import TokenFile


class Sources(Struct, frozen=True, kw_only=True):
    """What was read from files, before there is a database."""

    token_file: TokenFile | None
    jwt: JwtSource | None

    @classmethod
    def read(cls, token_file: Path | None, auth_file: Path | None) -> Sources:
        """Read them. Raises `SettingsError`."""
        return cls(
            token_file=None if token_file is None else TokenFile.read(token_file),
            jwt=None if auth_file is None else config.read(auth_file),
        )

    def door(self, keys: ApiKeySource) -> Authenticator:
        """What tells who somebody is; with any authentication API keys are taken too, without any everybody is one."""
        if self.token_file is None and self.jwt is None:
            return Anyone()
        some: tuple[Source | None, ...] = (keys, self.jwt, self.token_file)
        return Door([source for source in some if source is not None])

    async def close(self) -> None:
        """Give up what is under way."""
        if self.jwt is not None:
            await self.jwt.close()
