"""Keys that signatures are checked with, each pinned to one algorithm. Pure.

The algorithm is the key's, never the token's: a public RSA key is no HMAC secret, whatever a header says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, get_args

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Struct

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
SECRET_BYTES: Final = 32
"""The shortest HMAC secret: as long as the digest (RFC 7518 3.2)."""
RSA_BITS: Final = 2_048
"""The shortest RSA key (RFC 7518 3.3)."""
JWKS_KEYS: Final = 100
"""Of one issuer; what comes after them is not looked at."""
_KINDS: Final[Mapping[tuple[str, str | None], Algorithm]] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}


class KeyRefused(ValueError):
    """A key cannot be used; the sentence says why, and holds nothing of the key."""


class Key(Struct, frozen=True):
    """What checks a signature, and by which algorithm only."""

    algorithm: Algorithm
    material: Any

    def __repr__(self) -> str:
        """Without the secret that it may be."""
        return f"Key({self.algorithm})"


def secret_key(secret: bytes) -> Key:
    """An HMAC secret, without the line end of its file. Raises `KeyRefused`."""
    secret = secret.strip(b"\r\n")
    if len(secret) < SECRET_BYTES:
        raise KeyRefused(f"an HS256 secret needs at least {SECRET_BYTES} bytes, and this one has {len(secret)}")
    if b"-----BEGIN" in secret:
        raise KeyRefused("this is a PEM key, and no secret; name its own algorithm")
    return Key("HS256", secret)


def public_key(pem: bytes, algorithm: Algorithm) -> Key:
    """A public key in PEM. Raises `KeyRefused`."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRefused("this is not a public key in PEM (`-----BEGIN PUBLIC KEY-----`)") from None
    return pinned(key, algorithm)


def pinned(key: object, algorithm: Algorithm) -> Key:
    """A public key for one algorithm. Raises `KeyRefused` when it is of another kind, or too short."""
    if algorithm == "RS256" and isinstance(key, RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise KeyRefused(f"an RSA key needs at least {RSA_BITS} bits, and this one has {key.key_size}")
        return Key(algorithm, key)
    if algorithm == "ES256" and isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return Key(algorithm, key)
    if algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey):
        return Key(algorithm, key)
    raise KeyRefused(f"this is no key for {algorithm}")


def keys_of(document: object, allowed: Collection[Algorithm]) -> dict[str, Key]:
    """The usable keys of a JWKS document, by `kid`. Raises `KeyRefused` when it is no such document.

    Left out: keys without a `kid`, for encryption, for other algorithms, too short ones, and secrets, which have no
    place where everybody can read them.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise KeyRefused('this is not a JWKS document (`{"keys": […]}`)')
    keys: dict[str, Key] = {}
    for one in listed[:JWKS_KEYS]:
        key = _key_of(one, allowed)
        if key is not None:
            keys.setdefault(one["kid"], key)
    return keys


def _key_of(one: object, allowed: Collection[Algorithm]) -> Key | None:
    if not isinstance(one, dict) or not isinstance(one.get("kid"), str) or one.get("use", "sig") != "sig":
        return None
    kind, curve = one.get("kty"), one.get("crv")
    algorithm = _KINDS.get((str(kind), None if kind == "RSA" else str(curve)))
    if algorithm is None or algorithm not in allowed or one.get("alg", algorithm) != algorithm:
        return None
    try:
        return pinned(jwt.PyJWK(one, algorithm=algorithm).key, algorithm)
    except (jwt.PyJWTError, KeyRefused, ValueError, TypeError):
        return None
