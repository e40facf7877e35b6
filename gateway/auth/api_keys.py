"""API keys of workers and servers: `lwk_<id>_<secret>`, of which the ledger keeps the digest only.

A key that was found is believed for a while without asking again, so a revoked one may come in for so long; connections
that are open are looked at as often (`Rechecks`). While the ledger cannot be asked, nobody new comes in by a key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog

from gateway.auth.door import refused
from gateway.principal import GrantError, Principal, parse_grants
from gateway.protocol.errors import UNAUTHENTICATED, Bye
from ledger.api_keys import ApiKey, ApiKeys
from ledger.errors import LedgerError

log = structlog.get_logger(__name__)

PREFIX: Final = "lwk_"
SECRET_BYTES: Final = 32
REMEMBERED: Final = 10_000
"""Keys of which the ledger need not be asked again; some 500 bytes each."""
RECHECK_SECONDS: Final = 25.0
"""So long is a key believed, and between two looks at those of open connections: with one look that fails, a revoked
one is still out within a minute."""
_FORM: Final = re.compile(r"lwk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)


def new_key() -> tuple[str, str, bytes]:
    """A key that there was never: its id, the whole text, which is shown once, and the digest that is kept."""
    id_, secret = secrets.token_hex(8), secrets.token_urlsafe(SECRET_BYTES)
    return id_, f"{PREFIX}{id_}_{secret}", digest_of(secret)


def digest_of(secret: str) -> bytes:
    """What is kept of a secret. A plain hash: 256 random bits are not guessed, however fast one can try."""
    return hashlib.sha256(secret.encode()).digest()


def principal_of(key: ApiKey) -> Principal:
    """Who comes with this key. Raises `GrantError` when its grants cannot be read."""
    return Principal(
        tenant=key.tenant,
        subject=key.subject,
        grants=parse_grants(key.grants),
        expires_at=None if key.expires_at is None else key.expires_at.timestamp(),
        token_id=f"{PREFIX}{key.id}",
    )


class ApiKeySource:
    """Checks API keys."""

    def __init__(self, keys: ApiKeys, *, believed_seconds: float = RECHECK_SECONDS) -> None:
        self._keys = keys
        self._believed_seconds = believed_seconds
        self._known: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()

    def takes(self, token: str) -> bool:
        """Whether it begins like one."""
        return token.startswith(PREFIX)

    async def authenticate(self, token: str | None) -> Principal:
        """As `Authenticator`. Raises `LedgerError` as well, when the ledger cannot be asked."""
        form = _FORM.fullmatch(token or "")
        if form is None:
            raise refused()
        id_, secret = form.groups()
        key = await self._find(id_)
        # Compared also where there is none, so that both take the same time.
        same = hmac.compare_digest(digest_of(secret), bytes(32) if key is None else key.digest)
        if key is None or not same or (key.expires_at is not None and key.expires_at.timestamp() <= time.time()):
            raise refused()
        try:
            return principal_of(key)
        except GrantError:
            log.error("api_key_grants_unreadable", token_id=f"{PREFIX}{id_}")
            raise refused() from None

    def forget(self, ids: Iterable[str]) -> None:
        """Ask the ledger again about these."""
        for id_ in ids:
            self._known.pop(id_, None)

    async def _find(self, id_: str) -> ApiKey | None:
        known = self._known.get(id_)
        if known is not None and time.monotonic() < known[0] + self._believed_seconds:
            return known[1]
        asked_at = time.monotonic()
        key = await self._keys.find(id_)
        self._known.pop(id_, None)
        if key is not None:  # what is not there is not remembered: strangers could fill the memory
            self._known[id_] = (asked_at, key)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return key


class Holder(Protocol):
    """A connection that may be ended."""

    def end(self, bye: Bye) -> None:
        """Say goodbye and close."""


class Rechecks:
    """Ends the connections of keys that are over. `run` it; ends when cancelled."""

    def __init__(
        self,
        keys: ApiKeys,
        source: ApiKeySource,
        holders: Callable[[], Sequence[tuple[Principal, Holder]]],
        *,
        seconds: float = RECHECK_SECONDS,
    ) -> None:
        self._keys = keys
        self._source = source
        self._holders = holders
        self._seconds = seconds

    async def run(self) -> None:
        """Look again and again. While the ledger is away, who is in stays in."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.look()
            except LedgerError as error:
                log.info("api_keys_not_rechecked", reason=error.reason)
            except Exception:
                log.exception("recheck_fault")

    async def look(self) -> None:
        """End those whose key is not in force any more."""
        held: dict[str, list[Holder]] = {}
        for principal, holder in self._holders():
            if (
                principal.issuer is None and principal.token_id is not None
            ):  # only a key has an id that nobody vouches for
                held.setdefault(principal.token_id.removeprefix(PREFIX), []).append(holder)
        over = await self._keys.over(list(held)) if held else set()
        self._source.forget(over)
        for id_ in over:
            log.info("api_key_over", token_id=f"{PREFIX}{id_}", connections=len(held[id_]))
            for holder in held[id_]:
                holder.end(UNAUTHENTICATED)
