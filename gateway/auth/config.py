"""The file of `--auth-file`: whose tokens are believed. TOML; docs/security.md shows one.

It holds no secret: keys are in files of their own, and one that is a secret may not be readable by everybody.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from gateway.auth.jwks import Jwks
from gateway.auth.jwt_source import JwtSource, Keys, StaticKeys, Trusted
from gateway.auth.keyring import Algorithm, Key, KeyRefused, public_key, secret_key
from gateway.auth.tokens import NAME, Issuer
from ledger.errors import SettingsError

MOST_SKEW_SECONDS: Final = 60
PUBLIC: Final[tuple[Algorithm, ...]] = ("RS256", "ES256", "EdDSA")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class KeyEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A key in a file."""

    algorithm: Algorithm
    file: str
    kid: str | None = None


class IssuerEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """`[[issuer]]`."""

    issuer: str
    audience: str | list[str] | None = None
    tenant: str | None = None
    tenant_claim: str | None = None
    tenants: list[str] | None = None
    subject_claim: str = "sub"
    grants_claim: str = "ledgerwire"
    jwks_url: str | None = None
    algorithms: list[Literal["RS256", "ES256", "EdDSA"]] | None = None
    key: list[KeyEntry] = []


class AuthFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. Without issuers there are API keys only."""

    audience: str | list[str] | None = None
    skew_seconds: int = 5
    issuer: list[IssuerEntry] = []


def read(path: Path) -> JwtSource:
    """The issuers of the file. Raises `SettingsError` that names the place and the cure."""
    file = _parsed(path)
    if not 0 <= file.skew_seconds <= MOST_SKEW_SECONDS:
        raise SettingsError(f"{path}: skew_seconds is {file.skew_seconds}; it must be 0 to {MOST_SKEW_SECONDS}.")
    trusted: dict[str, Trusted] = {}
    for entry in file.issuer:
        where = f"{path}: issuer {entry.issuer!r}"
        if entry.issuer in trusted:
            raise SettingsError(f"{where} is there twice; give it all its keys in one place.")
        trusted[entry.issuer] = Trusted(_issuer(where, file, entry), _keys(where, path.parent, entry))
    return JwtSource(trusted)


def _parsed(path: Path) -> AuthFile:
    try:
        if path.stat().st_mode & 0o002:
            raise SettingsError(f"The auth file {path} can be written by everybody; run: chmod o-w {path}")
        text = path.read_text(encoding="utf-8")
        return msgspec.convert(tomllib.loads(text), AuthFile)
    except OSError as error:
        raise SettingsError(f"The auth file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise SettingsError(f"The auth file {path} is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"The auth file {path} is not TOML: {error}.") from error
    except msgspec.ValidationError as error:
        raise SettingsError(f"The auth file {path}: {error}. See docs/security.md.") from error


def _issuer(where: str, file: AuthFile, entry: IssuerEntry) -> Issuer:
    audience = entry.audience if entry.audience is not None else file.audience
    names = (audience,) if isinstance(audience, str) else tuple(audience or ())
    if not names or not all(names):
        raise SettingsError(f'{where} has no audience; a token for another service would be taken. audience = "…"')
    if (entry.tenant is None) is (entry.tenant_claim is None):
        raise SettingsError(f"{where} needs either tenant (one for all its tokens) or tenant_claim.")
    if entry.tenants is not None and entry.tenant_claim is None:
        raise SettingsError(f"{where}: tenants says what tenant_claim may name; there is none.")
    for tenant in (*(entry.tenants or ()), *((entry.tenant,) if entry.tenant is not None else ())):
        if not NAME.fullmatch(tenant):
            raise SettingsError(f"{where}: {tenant!r} is no name of a tenant (letters, digits and . _ @ : -).")
    return Issuer(
        name=entry.issuer,
        audience=names,
        tenant=entry.tenant,
        tenant_claim=entry.tenant_claim,
        tenants=None if entry.tenants is None else frozenset(entry.tenants),
        subject_claim=entry.subject_claim,
        grants_claim=entry.grants_claim,
        skew_seconds=file.skew_seconds,
    )


def _keys(where: str, folder: Path, entry: IssuerEntry) -> Keys:
    if (entry.jwks_url is None) is not bool(entry.key):
        raise SettingsError(f"{where} needs either jwks_url or [[issuer.key]] entries.")
    if entry.jwks_url is not None:
        _check_url(where, entry.jwks_url)
        return Jwks(entry.issuer, entry.jwks_url, entry.algorithms or PUBLIC)
    keys: dict[str | None, Key] = {}
    for each in entry.key:
        if each.kid in keys or (each.kid is None and len(entry.key) > 1):
            raise SettingsError(f"{where}: several keys need a kid each, and no two the same.")
        keys[each.kid] = _key(where, folder / each.file, each.algorithm)
    return StaticKeys(keys)


def _key(where: str, path: Path, algorithm: Algorithm) -> Key:
    secret = algorithm == "HS256"
    try:
        mode = path.stat().st_mode
        if secret and mode & 0o007:
            raise SettingsError(f"{where}: the secret in {path} can be read by everybody; run: chmod 600 {path}")
        if mode & 0o002:
            raise SettingsError(f"{where}: the key in {path} can be written by everybody; run: chmod o-w {path}")
        content = path.read_bytes()
        return secret_key(content) if secret else public_key(content, algorithm)
    except OSError as error:
        raise SettingsError(f"{where}: the key in {path} cannot be read: {error.strerror}.") from error
    except KeyRefused as error:
        raise SettingsError(f"{where}: the key in {path} cannot be used: {error}.") from None


def _check_url(where: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    except ValueError:
        good = False
    if not good or not parts.hostname or parts.username is not None:
        raise SettingsError(f"{where}: jwks_url must begin with https:// (http:// on this machine only).")
