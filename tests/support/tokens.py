"""Keys and JSON Web Tokens for tests: real ones, made with the same library that the world has."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE: Final = "ledgerwire"
SECRET: Final = b"0123456789abcdef0123456789abcdef"
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | bytes


def private_key(algorithm: str) -> PrivateKey:
    """A new key pair for this algorithm; the secret for HS256."""
    if algorithm == "RS256":
        return generate_rsa(65_537, 2_048)
    if algorithm == "ES256":
        return generate_private_key(SECP256R1())
    return Ed25519PrivateKey.generate() if algorithm == "EdDSA" else SECRET


def public_pem(key: PrivateKey) -> bytes:
    """What whoever checks has of it: PEM, or the secret."""
    if isinstance(key, bytes):
        return key
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(key: PrivateKey, kid: str, **members: Any) -> dict[str, Any]:
    """The public key as a JWKS document has it."""
    if isinstance(key, RSAPrivateKey):
        made = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())
    elif isinstance(key, EllipticCurvePrivateKey):
        made = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())
    else:
        assert isinstance(key, Ed25519PrivateKey)
        made = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())
    return {**json.loads(made), "kid": kid, "use": "sig", **members}


def token(key: PrivateKey, algorithm: str, *, kid: str | None = "k1", lasts: float = 3_600, **claims: Any) -> str:
    """A token of issuer `home` for alice; a claim that is None is left out."""
    said: dict[str, Any] = {"iss": "home", "aud": AUDIENCE, "sub": "alice", "exp": time.time() + lasts, **claims}
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({k: v for k, v in said.items() if v is not None}, key, algorithm=algorithm, headers=headers)


def part(content: object) -> str:
    """A part of a token, encoded."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def auth_file(folder: Path, *, tenants: tuple[str, ...] = ("acme",), skew_seconds: int = 0) -> Path:
    """An auth file for one issuer a tenant, named like it, all with the same secret; `token(SECRET, …, iss=tenant)`."""
    secret = folder / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    file = folder / "auth.toml"
    issuers = "".join(
        f'[[issuer]]\nissuer = "{tenant}"\ntenant = "{tenant}"\n'
        '[[issuer.key]]\nkid = "k1"\nalgorithm = "HS256"\nfile = "secret"\n'
        for tenant in tenants
    )
    file.write_text(f'audience = "{AUDIENCE}"\nskew_seconds = {skew_seconds}\n{issuers}')
    file.chmod(0o600)
    return file
