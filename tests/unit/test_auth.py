"""Who is connected: what a token file may look like, what is refused, and that no token is ever shown."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from gateway.auth import Anyone, Principal, TokenFile
from gateway.auth.token_file import TOKEN_CHARACTERS
from gateway.principal import EVERYTHING
from gateway.protocol.errors import ProtocolError
from ledger.errors import SettingsError

ALICE = "alice-token-0123456789-0123456789"
BOB = "bob-token-0123456789-0123456789-0"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a token file is to be."""
    return tmp_path / "tokens"


def written(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    """A token file with this content."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def refused(path: Path) -> str:
    """The sentence with which a file is refused; the whole traceback is searched for tokens."""
    with pytest.raises(SettingsError) as error:
        TokenFile.read(path)
    shown = "".join(traceback.format_exception(error.value)) + repr(error.value) + repr(error.value.__cause__)
    for token in (ALICE, BOB):
        assert token not in shown
        assert token[:10] not in shown
    return error.value.sentence


async def test_without_authentication_everybody_is_one_principal() -> None:
    """Whatever the token."""
    for token in (None, "", "anything", "\ud800"):
        assert await Anyone().authenticate(token) == Principal(tenant="default", subject="anyone", grants=EVERYTHING)


async def test_a_token_belongs_to_the_principal_of_its_line(path: Path) -> None:
    """Comments and empty lines are skipped; a subject may have several tokens."""
    text = f"# people\n\nacme alice {ALICE}  # her phone\n  acme\talice {BOB}\r\nother bob@x.y {'x' * 32}\n"
    tokens = TokenFile.read(written(path, text))
    assert await tokens.authenticate(ALICE) == Principal(tenant="acme", subject="alice", grants=EVERYTHING)
    assert await tokens.authenticate(BOB) == Principal(tenant="acme", subject="alice", grants=EVERYTHING)
    assert await tokens.authenticate("x" * 32) == Principal(tenant="other", subject="bob@x.y", grants=EVERYTHING)


@pytest.mark.parametrize("token", [None, "", ALICE[:-1], ALICE + "x", ALICE.upper(), f" {ALICE}", "\ud800", "é" * 40])
async def test_any_other_token_is_nobodys(path: Path, token: str | None) -> None:
    """One sentence for all, which does not repeat it."""
    tokens = TokenFile.read(written(path, f"acme alice {ALICE}"))
    with pytest.raises(ProtocolError) as nobody:
        await tokens.authenticate(token)
    assert nobody.value.code == "unauthenticated"
    assert nobody.value.message == "The token is missing or not valid."


def test_no_token_is_kept_in_memory(path: Path) -> None:
    """Only their digests are."""
    tokens = TokenFile.read(written(path, f"acme alice {ALICE}"))
    assert ALICE.encode() not in b"".join(tokens._principals)
    assert ALICE not in repr(vars(tokens))


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o602, 0o777, 0o601])
def test_a_file_open_to_everybody_is_refused(path: Path, mode: int) -> None:
    """With the command that closes it."""
    written(path, f"acme alice {ALICE}", mode)
    assert refused(path) == f"The token file {path} can be read by everybody; run: chmod 600 {path}"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
async def test_a_file_of_ours_or_of_our_group_is_read(path: Path, mode: int) -> None:
    """A service's group may share it."""
    tokens = TokenFile.read(written(path, f"acme alice {ALICE}", mode))
    assert (await tokens.authenticate(ALICE)).subject == "alice"


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    """With the system's reason."""
    assert refused(path) == f"The token file {path} cannot be read: No such file or directory."
    path.mkdir(mode=0o700)
    assert refused(path) == f"The token file {path} cannot be read: Is a directory."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_we_may_not_read_is_refused(path: Path) -> None:
    """The same way."""
    assert "Permission denied" in refused(written(path, f"acme alice {ALICE}", 0o000))


def test_a_file_that_is_not_text_is_refused(path: Path) -> None:
    """Without showing what it holds."""
    written(path, f"acme alice {ALICE}\n".encode() + b"\xff\xfe")
    assert refused(path) == f"The token file {path} is not UTF-8 text."


@pytest.mark.parametrize(
    "line",
    [
        f"alice {ALICE}", f"{ALICE}", f"acme alice {ALICE} more", f"acme al/ice {ALICE}", f"-acme alice {ALICE}",
        f"acme alicé {ALICE}", f"{'a' * 129} alice {ALICE}", "acme alice # " + ALICE,
    ],
)  # fmt: skip
def test_a_line_that_is_not_three_words_is_refused(path: Path, line: str) -> None:
    """With its number: tenant, subject, token, and names of plain characters."""
    written(path, f"# first\nother bob {BOB}\n{line}\n")
    assert refused(path) == f"{path}:3: expected `tenant subject token`."


def test_a_short_token_is_refused(path: Path) -> None:
    """32 characters are the least; the sentence does not repeat it."""
    assert TOKEN_CHARACTERS == 32
    written(path, f"acme alice {ALICE[:31]}")
    assert refused(path) == f"{path}:1: a token needs at least 32 characters."
    assert TokenFile.read(written(path, f"acme alice {ALICE[:32]}"))


@pytest.mark.parametrize("other", ["acme bob", "other alice", "other bob"])
def test_a_token_of_two_principals_is_refused(path: Path, other: str) -> None:
    """It would be chance who is meant; also where only the tenant differs."""
    written(path, f"acme alice {ALICE}\n{other} {ALICE}\n")
    assert refused(path) == f"{path}:2: this token is there twice."


async def test_the_same_line_twice_is_no_matter(path: Path) -> None:
    """It says the same."""
    tokens = TokenFile.read(written(path, f"acme alice {ALICE}\nacme alice {ALICE}\n"))
    assert (await tokens.authenticate(ALICE)).subject == "alice"


@pytest.mark.parametrize("text", ["", "\n\n", "# nobody\n"])
def test_a_file_without_a_token_is_refused(path: Path, text: str) -> None:
    """Nobody could ever connect."""
    assert refused(written(path, text)) == f"The token file {path} has no token."
