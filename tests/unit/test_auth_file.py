"""The auth file: what it may say, and the sentence for each mistake. No sentence shows a secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.auth import config
from gateway.auth.door import TOKEN_CHARACTERS, Door
from gateway.protocol.errors import ProtocolError
from ledger.errors import SettingsError
from tests.support.postgres import temporary_folder
from tests.support.tokens import SECRET, auth_file, private_key, public_pem, token

GOOD = 'issuer = "home"\ntenant = "acme"\naudience = "ledgerwire"\n'
KEY = '[[issuer.key]]\nalgorithm = "HS256"\nfile = "secret"\n'


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a good secret in it."""
    with temporary_folder() as made:
        auth_file(made)
        yield made


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "auth.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def refused(path: Path) -> str:
    with pytest.raises(SettingsError) as error:
        config.read(path)
    assert SECRET.decode() not in error.value.sentence
    return error.value.sentence.replace(str(path.parent), "~")


async def test_its_issuers_are_believed(folder: Path) -> None:
    """Each by its own keys, also where two have the same key id; nobody else."""
    for name in ("a", "b"):
        (folder / name).write_text(name * 40)
        (folder / name).chmod(0o600)
    (folder / "es.pem").write_bytes(public_pem(made := private_key("ES256")))
    text = "".join(
        f'[[issuer]]\nissuer = "{name}"\ntenant = "{name}"\naudience = ["x", "ledgerwire"]\n'
        f'[[issuer.key]]\nalgorithm = "HS256"\nkid = "k1"\nfile = "{name}"\n'
        for name in ("a", "b")
    )
    text += '[[issuer.key]]\nalgorithm = "ES256"\nkid = "k2"\nfile = "es.pem"\n'
    door = Door([config.read(written(folder, text))])
    for name, other in (("a", "b"), ("b", "a")):
        secret = (name * 40).encode()
        assert (await door.authenticate(token(secret, "HS256", iss=name))).tenant == name
        for bad in (
            token(secret, "HS256", iss=other),
            token(secret, "HS256", iss="c"),
            token(secret, "HS256", iss=name, kid="k2"),
            token(secret, "HS256", iss=name) + "A" * TOKEN_CHARACTERS,
        ):
            with pytest.raises(ProtocolError) as error:
                await door.authenticate(bad)
            assert (error.value.code, error.value.message) == ("unauthenticated", "The token is missing or not valid.")
    assert (await door.authenticate(token(made, "ES256", iss="b", kid="k2"))).tenant == "b"
    with pytest.raises(ProtocolError):
        await door.authenticate(token(made, "ES256", iss="a", kid="k2"))


async def test_a_token_without_a_key_id_is_checked_with_the_only_key(folder: Path) -> None:
    """A small issuer has one."""
    door = Door([config.read(written(folder, f"[[issuer]]\n{GOOD}{KEY}"))])
    assert (await door.authenticate(token(SECRET, "HS256", kid=None))).subject == "alice"


@pytest.mark.parametrize("text", ["", "skew_seconds = 60\n"])
async def test_without_issuers_there_are_api_keys_only(folder: Path, text: str) -> None:
    """No token is believed."""
    with pytest.raises(ProtocolError):
        await Door([config.read(written(folder, text))]).authenticate(token(SECRET, "HS256"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[issuer]", "is not TOML"),
        ("keys = 1", "unknown field `keys`"),
        ("skew_seconds = 61", "skew_seconds is 61; it must be 0 to 60"),
        ('[[issuer]]\nissuer = "home"\ntenant = "a"\n' + KEY, "has no audience"),
        ('audience = ""\n[[issuer]]\nissuer = "home"\ntenant = "a"\n' + KEY, "has no audience"),
        ('[[issuer]]\nissuer = "home"\naudience = "x"\n' + KEY, "either tenant"),
        (f'[[issuer]]\n{GOOD}tenant_claim = "org"\n{KEY}', "either tenant"),
        (f'[[issuer]]\n{GOOD}tenants = ["a"]\n{KEY}', "there is none"),
        (f"[[issuer]]\n{GOOD.replace('acme', 'a b')}{KEY}", "is no name of a tenant"),
        (f"[[issuer]]\n{GOOD}", "either jwks_url or"),
        (f'[[issuer]]\n{GOOD}jwks_url = "https://a.example"\n{KEY}', "either jwks_url or"),
        (f'[[issuer]]\n{GOOD}jwks_url = "http://a.example/jwks"', "must begin with https://"),
        (f'[[issuer]]\n{GOOD}jwks_url = "https://u:p@a.example/jwks"', "must begin with https://"),
        (f'[[issuer]]\n{GOOD}jwks_url = "https://[::1"', "must begin with https://"),
        (f"[[issuer]]\n{GOOD}{KEY}{KEY}", "several keys need a kid each"),
        (f"[[issuer]]\n{GOOD}{KEY}[[issuer]]\n{GOOD}{KEY}", "is there twice"),
        (f"[[issuer]]\n{GOOD}{KEY.replace('HS256', 'HS512')}", "Invalid enum value 'HS512'"),
        (f"[[issuer]]\n{GOOD}{KEY.replace('HS256', 'RS256')}", "not a public key in PEM"),
        (f"[[issuer]]\n{GOOD}{KEY.replace('secret', 'nothing')}", "cannot be read: No such file"),
    ],
)
def test_a_mistake_is_named(folder: Path, text: str, sentence: str) -> None:
    """With its place."""
    assert sentence in refused(written(folder, text))


@pytest.mark.parametrize("url", ["https://id.example/jwks", "http://127.0.0.1:1/jwks", "http://localhost/jwks"])
def test_keys_may_be_published(folder: Path, url: str) -> None:
    """Over TLS, or on this machine; nothing is fetched before a token needs it."""
    assert config.read(written(folder, f'[[issuer]]\n{GOOD}jwks_url = "{url}"\nalgorithms = ["ES256"]\n'))


def test_files_that_others_may_change_or_read_are_refused(folder: Path) -> None:
    """With the command that closes them; a short secret too."""
    text = f"[[issuer]]\n{GOOD}{KEY}"
    assert "run: chmod o-w ~/auth.toml" in refused(written(folder, text, 0o606))
    path = written(folder, text, 0o644)
    assert config.read(path)
    (folder / "secret").chmod(0o644)
    assert "run: chmod 600 ~/secret" in refused(path)
    (folder / "secret").chmod(0o600)
    (folder / "secret").write_bytes(SECRET[:31])
    assert "needs at least 32 bytes, and this one has 31" in refused(path)
    (folder / "es.pem").write_bytes(public_pem(private_key("ES256")))
    (folder / "es.pem").chmod(0o666)
    other = written(folder, f"[[issuer]]\n{GOOD}" + '[[issuer.key]]\nalgorithm = "ES256"\nfile = "es.pem"\n')
    assert "run: chmod o-w ~/es.pem" in refused(other)
    assert "cannot be read: No such file" in refused(folder / "nothing.toml")
    (folder / "auth.toml").write_bytes(b"\xff")
    assert "is not UTF-8" in refused(folder / "auth.toml")
