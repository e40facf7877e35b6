"""Keys: each for one algorithm, long enough, and of the right kind."""

from __future__ import annotations

from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa

from gateway.auth.keyring import ALGORITHMS, JWKS_KEYS, Algorithm, KeyRefused, keys_of, public_key, secret_key
from tests.support.tokens import jwk, private_key, public_pem

PUBLIC: Final[tuple[Algorithm, ...]] = ("RS256", "ES256", "EdDSA")


def test_a_secret_has_thirty_two_bytes() -> None:
    """The end of its line is not one of them, and it is never shown."""
    assert secret_key(b"s" * 32 + b"\r\n").material == b"s" * 32
    assert "sss" not in repr(secret_key(b"s" * 32))
    with pytest.raises(KeyRefused, match="at least 32 bytes, and this one has 31"):
        secret_key(b"s" * 31 + b"\n")
    with pytest.raises(KeyRefused, match="no secret"):
        secret_key(public_pem(private_key("ES256")))


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_public_key_is_for_its_own_algorithm_only(algorithm: str) -> None:
    """HS256 is not one of them."""
    pem = public_pem(private_key(algorithm))
    for other in ALGORITHMS:
        if other == algorithm:
            assert public_key(pem, other).algorithm == other
        else:
            with pytest.raises(KeyRefused, match=f"no key for {other}"):
                public_key(pem, other)
    with pytest.raises(KeyRefused, match="not a public key in PEM"):
        public_key(b"secret", "RS256")


def test_weak_keys_and_other_curves_are_refused() -> None:
    """RSA below 2,048 bits; ES256 is P-256."""
    with pytest.raises(KeyRefused, match="at least 2048 bits, and this one has 1024"):
        public_key(public_pem(generate_rsa(65_537, 1_024)), "RS256")
    with pytest.raises(KeyRefused, match="no key for ES256"):
        public_key(public_pem(generate_ec(SECP384R1())), "ES256")


def test_of_a_jwks_document_what_can_be_used_is_taken() -> None:
    """By `kid`, each for the algorithm of its kind; the first of two with one `kid`."""
    rsa, curve, edwards = (private_key(algorithm) for algorithm in PUBLIC)
    good = [jwk(rsa, "r", alg="RS256"), jwk(curve, "e"), jwk(edwards, "d")]
    bad: list[Any] = [
        7, {}, {"kid": 1}, jwk(rsa, "enc", use="enc"), jwk(rsa, "ps", alg="PS256"), jwk(rsa, "broken", n="!"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"}, jwk(generate_ec(SECP384R1()), "p384"), jwk(curve, "r"),
        jwk(generate_rsa(65_537, 1_024), "weak"), jwk(curve, "point", x="AA"),
    ]  # fmt: skip
    found = keys_of({"keys": [*good, *bad]}, PUBLIC)
    assert {kid: key.algorithm for kid, key in found.items()} == {"r": "RS256", "e": "ES256", "d": "EdDSA"}
    assert set(keys_of({"keys": good}, ["ES256"])) == {"e"}
    assert keys_of({"keys": [{}] * JWKS_KEYS + good}, PUBLIC) == {}


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, "keys"])
def test_another_document_is_refused(document: object) -> None:
    """So that the keys from before are kept."""
    with pytest.raises(KeyRefused, match="not a JWKS document"):
        keys_of(document, PUBLIC)
