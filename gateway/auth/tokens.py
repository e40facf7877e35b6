"""JSON Web Tokens: what one says of itself, and whether it is true. No I/O; the keys come from elsewhere.

A token is read in the one way in which it is written: other characters, padding, or bits that no decoder looks at are
not let through, so that no two texts are the same token.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import jwt
from msgspec import Struct

from gateway.auth.keyring import Key
from gateway.principal import OWN, Grant, GrantError, Principal, parse_grants

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}", re.ASCII)
"""A tenant."""
SUBJECT_CHARACTERS: Final = 128
"""As many as the `owner` of a task may have."""


END_OF_TIME: Final = 253_402_300_000
"""In the year 9999, which is the last that PostgreSQL and Python agree on: seconds since 1970."""


class TokenRefused(Exception):
    """A token is not valid; `reason` is a word for the log, and nothing of the token."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Claimed(Struct, frozen=True):
    """What a token says of itself, not yet believed."""

    issuer: str
    kid: str | None
    algorithm: str


class Issuer(Struct, frozen=True, kw_only=True):
    """Whose tokens are believed, and what is made of them. Either `tenant` or `tenant_claim` is set."""

    name: str
    audience: tuple[str, ...]
    tenant: str | None = None
    tenant_claim: str | None = None
    tenants: frozenset[str] | None = None
    """Those that this issuer may name; None: any."""
    subject_claim: str = "sub"
    grants_claim: str = "ledgerwire"
    skew_seconds: int = 5


def has_form(token: str) -> bool:
    """Whether it looks like a JSON Web Token."""
    return token.count(".") == 2


def claimed(token: str) -> Claimed:
    """Read the header and the issuer. Raises `TokenRefused`."""
    parts = token.split(".")
    if len(parts) != 3 or not all(_is_canonical(part) for part in parts):
        raise TokenRefused("malformed")
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, RecursionError, ValueError, TypeError):
        raise TokenRefused("malformed") from None
    issuer, kid, algorithm = claims.get("iss"), header.get("kid"), header.get("alg")
    if not isinstance(issuer, str) or not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise TokenRefused("malformed")
    return Claimed(issuer, kid, algorithm)


def verify(token: str, says: Claimed, key: Key, issuer: Issuer) -> Principal:
    """Who the token belongs to, by this key of its issuer. Raises `TokenRefused`."""
    if says.algorithm != key.algorithm:
        raise TokenRefused("algorithm")
    try:
        claims = jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            issuer=issuer.name,
            audience=list(issuer.audience),
            leeway=issuer.skew_seconds,
            options={"require": ["exp", "iss", "aud", issuer.subject_claim]},
        )
        expires_at = int(claims["exp"]) + issuer.skew_seconds
    except jwt.PyJWTError as error:
        raise TokenRefused(_reason(error)) from None
    if expires_at > END_OF_TIME:
        raise TokenRefused("malformed")
    token_id = claims.get("jti")
    return Principal(
        tenant=_tenant(claims, issuer),
        subject=_subject(claims, issuer),
        grants=_grants(claims, issuer),
        expires_at=expires_at,
        token_id=token_id if isinstance(token_id, str) and _is_name(token_id) else None,
        issuer=issuer.name,
    )


def _is_canonical(part: str) -> bool:
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == part


def _reason(error: jwt.PyJWTError) -> str:
    reasons: Mapping[type[Exception], str] = {
        jwt.ExpiredSignatureError: "expired",
        jwt.ImmatureSignatureError: "not_yet_valid",
        jwt.InvalidAudienceError: "audience",
        jwt.InvalidIssuerError: "issuer",
        jwt.InvalidSignatureError: "signature",
        jwt.MissingRequiredClaimError: "claim_missing",
    }
    return reasons.get(type(error), "malformed")


def _tenant(claims: Mapping[str, Any], issuer: Issuer) -> str:
    if issuer.tenant is not None:
        return issuer.tenant
    tenant = claims.get(issuer.tenant_claim or "")
    if not isinstance(tenant, str) or not NAME.fullmatch(tenant):
        raise TokenRefused("tenant")
    if issuer.tenants is not None and tenant not in issuer.tenants:
        raise TokenRefused("tenant")
    return tenant


def _subject(claims: Mapping[str, Any], issuer: Issuer) -> str:
    subject = claims[issuer.subject_claim]
    if not isinstance(subject, str) or not _is_name(subject):
        raise TokenRefused("subject")
    return subject


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= SUBJECT_CHARACTERS and text.isprintable()


def _grants(claims: Mapping[str, Any], issuer: Issuer) -> tuple[Grant, ...]:
    if issuer.grants_claim not in claims:
        return OWN
    words = claims[issuer.grants_claim]
    if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
        raise TokenRefused("grants")
    try:
        return parse_grants(words)
    except GrantError:
        raise TokenRefused("grants") from None
