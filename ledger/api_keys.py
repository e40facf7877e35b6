"""API keys in the ledger: digests, never the keys. What they may is for the gateway to read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg
from msgspec import Struct

from ledger.pool import Lane
from ledger.sql import query

LISTED: int = 1_000
"""Keys in one list, the newest."""


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key as the ledger has it; `digest` is the sha256 of its secret."""

    id: str
    tenant: str
    subject: str
    grants: tuple[str, ...]
    digest: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class ApiKeys:
    """Reads and writes them through one lane. All methods raise as `Lane.fetch` does."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def find(self, id_: str) -> ApiKey | None:
        """The key of this id, if there is one and it is in force."""
        rows = await self._lane.fetch(query("api_key_find"), id_, label="api key")
        return _key_of(rows[0]) if rows else None

    async def over(self, ids: Sequence[str]) -> set[str]:
        """Those of these that are not in force any more."""
        return {row["id"] for row in await self._lane.fetch(query("api_keys_over"), list(ids), label="api keys")}

    async def add(
        self, id_: str, digest: bytes, tenant: str, subject: str, grants: Sequence[str], lasts: timedelta | None
    ) -> ApiKey:
        """Keep a new key, in force for so long (None: until it is revoked)."""
        (row,) = await self._lane.fetch(query("new_api_key"), id_, tenant, subject, list(grants), digest, lasts)
        return _key_of(row)

    async def listed(self, tenant: str | None) -> list[ApiKey]:
        """The keys of a tenant (None: of all), newest first, `LISTED` at most; also those that are over."""
        return [_key_of(row) for row in await self._lane.fetch(query("api_keys"), tenant, LISTED)]

    async def revoke(self, id_: str) -> ApiKey | None:
        """End a key for ever; None when there is none of this id."""
        rows = await self._lane.fetch(query("revoke_api_key"), id_)
        return _key_of(rows[0]) if rows else None


def _key_of(row: asyncpg.Record) -> ApiKey:
    return ApiKey(**{**row, "grants": tuple(row["grants"])})
