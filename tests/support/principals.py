"""Principals for tests, by the words of their grants."""

from __future__ import annotations

from gateway.principal import Principal, parse_grants


def somebody(tenant: str = "tenant", subject: str = "me", *grants: str) -> Principal:
    """One who may do all of this; everything of the tenant, when nothing is said."""
    return Principal(tenant=tenant, subject=subject, grants=parse_grants(grants or ("*:all",)))
