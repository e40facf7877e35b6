"""Static tokens from a file: a line `tenant subject token` per principal, which may do everything in its tenant.

Only digests of the tokens are kept in memory, and they are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from itertools import takewhile
from pathlib import Path
from typing import Final

from gateway.auth.door import refused
from gateway.principal import EVERYTHING, Principal
from ledger.errors import SettingsError

TOKEN_CHARACTERS: Final = 32
"""The shortest token taken: 32 random URL-safe characters are 192 bits."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}", re.ASCII)


class TokenFile:
    """Static tokens from a file, read once."""

    def __init__(self, principals: dict[bytes, Principal]) -> None:
        self._principals = principals

    @classmethod
    def read(cls, path: Path) -> TokenFile:
        """Read `tenant subject token` lines and `#` comments. Raises `SettingsError`, never showing a token."""
        try:
            if path.stat().st_mode & 0o007:
                raise SettingsError(f"The token file {path} can be read by everybody; run: chmod 600 {path}")
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise SettingsError(f"The token file {path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError:
            raise SettingsError(f"The token file {path} is not UTF-8 text.") from None  # the error holds the file
        principals: dict[bytes, Principal] = {}
        for number, line in enumerate(lines, 1):
            words = list(takewhile(lambda word: not word.startswith("#"), line.split()))
            if not words:
                continue
            if len(words) != 3 or not all(_NAME.fullmatch(name) for name in words[:2]):
                raise SettingsError(f"{path}:{number}: expected `tenant subject token`.")
            tenant, subject, token = words
            if len(token) < TOKEN_CHARACTERS:
                raise SettingsError(f"{path}:{number}: a token needs at least {TOKEN_CHARACTERS} characters.")
            principal = Principal(tenant=tenant, subject=subject, grants=EVERYTHING)
            if principals.setdefault(_digest(token), principal) != principal:
                raise SettingsError(f"{path}:{number}: this token is there twice.")
        if not principals:
            raise SettingsError(f"The token file {path} has no token.")
        return cls(principals)

    def takes(self, token: str) -> bool:
        """A line may hold any word; it is asked last."""
        return True

    async def authenticate(self, token: str | None) -> Principal:
        """Look the token up by its digest."""
        found: Principal | None = None
        if token:
            digest = _digest(token)
            for known, principal in self._principals.items():
                if hmac.compare_digest(known, digest):
                    found = principal
        if found is None:
            raise refused()
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
