"""JSON Web Tokens: what is let in, and the two thousand ways in which one can be wrong."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from msgspec.structs import replace

from gateway.auth.keyring import ALGORITHMS, Key, public_key, secret_key
from gateway.auth.tokens import Claimed, Issuer, TokenRefused, claimed, has_form, verify
from gateway.principal import OWN, Principal, parse_grants
from tests.support.tokens import AUDIENCE, SECRET, PrivateKey, part, private_key, public_pem, token

HOME = Issuer(name="home", audience=(AUDIENCE,), tenant="acme", skew_seconds=5)
BY_CLAIM = replace(HOME, tenant=None, tenant_claim="org", tenants=frozenset({"acme", "beta"}))


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[PrivateKey, Key]]:
    """A key pair for each algorithm."""
    made: dict[str, tuple[PrivateKey, Key]] = {}
    for algorithm in ALGORITHMS:
        private = private_key(algorithm)
        known = secret_key(SECRET) if algorithm == "HS256" else public_key(public_pem(private), algorithm)
        made[algorithm] = (private, known)
    return made


def accepted(text: str, key: Key, issuer: Issuer = HOME) -> Principal:
    """As a source does it: an issuer that it does not know, or a key id, is refused before."""
    says = claimed(text)
    if says.issuer != issuer.name:
        raise TokenRefused("issuer")
    if says.kid != "k1":
        raise TokenRefused("key_id")
    return verify(text, says, key, issuer)


def refusal(text: str, key: Key, issuer: Issuer = HOME) -> str:
    """Why it is not let in."""
    with pytest.raises(TokenRefused) as error:
        accepted(text, key, issuer)
    return error.value.reason


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_token_says_who_it_is(pairs: dict[str, tuple[PrivateKey, Key]], algorithm: str) -> None:
    """For each algorithm; its end is that of the token, and as much later as clocks may differ."""
    private, known = pairs[algorithm]
    exp = int(time.time()) + 60
    made = token(private, algorithm, exp=exp, jti="t-1", ledgerwire=["watch:all"], nbf=time.time() + 3)
    assert has_form(made)
    assert accepted(made, known) == Principal(
        tenant="acme", subject="alice", grants=parse_grants(["watch:all"]), expires_at=exp + 5, token_id="t-1",
        issuer="home",
    )  # fmt: skip
    plain = accepted(token(private, algorithm), known)
    assert (plain.grants, plain.token_id) == (OWN, None), "a user: its own tasks"


def test_of_two_thousand_tampered_tokens_none_is_let_in(pairs: dict[str, tuple[PrivateKey, Key]]) -> None:
    """Each byte flipped in each of its bits that leave a character, for each algorithm; then what forgers try."""
    tried = 0
    for algorithm, (private, known) in pairs.items():
        made = token(private, algorithm, ledgerwire=["watch:own"])
        assert accepted(made, known)
        wrong = [made[:i] + chr(ord(made[i]) ^ bit) + made[i + 1 :] for i in range(len(made)) for bit in (1, 2, 4, 64)]
        wrong += [made[:i] + made[i + 1 :] for i in range(len(made))]
        wrong += [made[:i] + extra + made[i:] for i in range(0, len(made), 7) for extra in "=!\n.é"]
        wrong += forged(private, known, algorithm, made, pairs)
        for text in wrong:
            with pytest.raises(TokenRefused):
                accepted(text, known)
            tried += 1
    print(f"{tried} tampered tokens tried")  # noqa: T201 - the figure of the promise
    assert tried >= 2_000


def forged(
    private: PrivateKey, known: Key, algorithm: str, made: str, pairs: dict[str, tuple[PrivateKey, Key]]
) -> list[str]:
    """No signature, signatures by another algorithm or key, and claims that are not for us."""
    _, body, signature = made.split(".")
    out = [f"{part({'alg': alg, 'kid': 'k1'})}.{body}.{end}" for alg in ("none", "None", "") for end in ("", signature)]
    out += [f"{part({'alg': other, 'kid': 'k1'})}.{body}.{signature}" for other in ALGORITHMS if other != algorithm]
    out += [token(other, name) for name, (other, _) in pairs.items() if name != algorithm]
    if not isinstance(private, bytes):  # the public key as an HMAC secret
        signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        swapped = f"{part({'alg': 'HS256', 'kid': 'k1'})}.{body}"
        end = signer.sign(swapped.encode(), public_pem(private))
        out.append(f"{swapped}.{jwt.utils.base64url_encode(end).decode()}")
        out.append(token(private_key(algorithm), algorithm))
    else:
        out.append(token(b"another secret, which is as long as 32 bytes", algorithm))
    for wrong in WRONG_CLAIMS:
        out.append(token(private, algorithm, **wrong))
    out += [token(private, algorithm, kid=kid) for kid in ("k2", "", None, "../k1")]
    return out


NOW = time.time()
WRONG_CLAIMS: list[dict[str, Any]] = [
    {"iss": "other"}, {"iss": None}, {"aud": "other"}, {"aud": None}, {"aud": []}, {"exp": NOW - 6}, {"exp": None},
    {"exp": "soon"}, {"exp": [1]}, {"exp": 0}, {"nbf": NOW + 300}, {"nbf": "x"}, {"iat": NOW + 300}, {"sub": None},
    {"sub": ""}, {"sub": "a" * 129}, {"sub": "a\nb"}, {"sub": 7}, {"ledgerwire": "watch:all"},
    {"ledgerwire": ["fly:all"]}, {"ledgerwire": [1]}, {"ledgerwire": None, "exp": NOW - 600},
    {"exp": 10**400}, {"exp": 10**12},
]  # fmt: skip


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - 60}, "expired"),
        ({"nbf": NOW + 300}, "not_yet_valid"),
        ({"aud": "other"}, "audience"),
        ({"sub": None}, "claim_missing"),
        ({"sub": 7}, "malformed"),
        ({"sub": ""}, "subject"),
        ({"ledgerwire": ["fly:all"]}, "grants"),
        ({"ledgerwire": {}}, "grants"),
        ({"exp": float("inf")}, "malformed"),
        ({"exp": 10**400}, "malformed"),
    ],
)
def test_the_log_hears_why(claims: dict[str, Any], reason: str) -> None:
    """In one word; whoever sent it hears only that it is not valid."""
    assert refusal(token(SECRET, "HS256", **claims), secret_key(SECRET)) == reason


def test_a_token_of_other_parts_is_malformed() -> None:
    """Before any key is looked at: other text, numbers for names, depth without end, and headers that nobody knows."""
    deep = part([]).join(["", ""])
    nested = "[" * 4_000 + "]" * 4_000
    body = part({"iss": "home"})
    for text in ("", "a", "a.b", "a.b.c.d", "..", f"{deep}.{body}.e30", f"{part({'alg': 1})}.{body}.e30"):
        with pytest.raises(TokenRefused, match="malformed"):
            claimed(text)
    header = part({"alg": "HS256"})
    others: list[object] = [{"iss": 7}, [], {}, None]
    for claims in others:
        with pytest.raises(TokenRefused, match="malformed"):
            claimed(f"{header}.{part(claims)}.e30")
    with pytest.raises(TokenRefused, match="malformed"):
        claimed(f"{jwt.utils.base64url_encode(nested.encode()).decode()}.{body}.e30")
    with pytest.raises(TokenRefused, match="malformed"):  # what it wants understood nobody here does
        claimed(f"{part({'alg': 'HS256', 'crit': ['b64']})}.{body}.e30")
    assert not has_form("lwk_1_2")


def test_the_signature_is_of_the_keys_algorithm(pairs: dict[str, tuple[PrivateKey, Key]]) -> None:
    """Whatever the header says."""
    private, _ = pairs["RS256"]
    with pytest.raises(TokenRefused, match="algorithm"):
        accepted(token(private, "RS256"), secret_key(SECRET))
    made = token(b"x" * 32, "HS256")
    assert refusal(made, secret_key(SECRET)) == "signature"
    lying = Claimed("home", "k1", "RS256")
    with pytest.raises(TokenRefused):
        verify(made, lying, pairs["RS256"][1], HOME)
    with pytest.raises(TokenRefused, match="issuer"):
        verify(token(SECRET, "HS256", iss="other"), claimed(made), secret_key(SECRET), HOME)


@pytest.mark.parametrize(
    ("org", "good"), [("acme", True), ("beta", True), ("gamma", False), ("a b", False), (7, False)]
)
def test_an_issuer_may_name_its_tenants_only(org: object, good: bool) -> None:
    """Where the tenant is a claim, those that the file lists."""
    made = token(SECRET, "HS256", org=org)
    if good:
        assert accepted(made, secret_key(SECRET), BY_CLAIM).tenant == org
    else:
        assert refusal(made, secret_key(SECRET), BY_CLAIM) == "tenant"
    assert refusal(token(SECRET, "HS256"), secret_key(SECRET), BY_CLAIM) == "tenant"
    any_tenant = replace(BY_CLAIM, tenants=None)
    assert accepted(token(SECRET, "HS256", org="gamma"), secret_key(SECRET), any_tenant).tenant == "gamma"


def test_an_odd_token_id_is_left_out() -> None:
    """It is for the log, and no reason to refuse."""
    for jti in ("", "a\nb"):
        assert accepted(token(SECRET, "HS256", jti=jti), secret_key(SECRET)).token_id is None
