"""What the verbs share: the gateway's address, the token, and text that is safe to print."""

from __future__ import annotations

import argparse
import os
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from ledgerwire.link import check_url
from ledgerwire.token import Token

URL: Final = "ws://127.0.0.1:8080/v1/ws"


class Wrong(Exception):
    """A setting that cannot be used; the sentence is for a person."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway is, and how to get in."""

    url: str
    token: Token


def gateway_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb."""
    parser.add_argument("--url", default=os.environ.get("LEDGERWIRE_URL", URL), help="default %(default)s")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="its first line is the token; chmod 600")
    parser.add_argument("--json", action="store_true", help="one JSON object per line, for pipes")


def address_of(options: argparse.Namespace) -> Address:
    """Raises Wrong. A token file is read again for every connection, so it may be renewed while a task is watched."""
    try:
        check_url(options.url)
    except ValueError as error:
        raise Wrong(str(error)) from error
    file: Path | None = options.token_file
    if file is None:
        return Address(options.url, os.environ.get("LEDGERWIRE_TOKEN") or None)
    _token_in(file)
    return Address(options.url, lambda: _token_in(file))


def _token_in(file: Path) -> str:
    try:
        if file.stat().st_mode & 0o077:
            sentence = f"The token file {file} can be read by others; run: chmod 600 {file}"
            raise Wrong(sentence)
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        sentence = f"The token file {file} cannot be read: {error.strerror}."
        raise Wrong(sentence) from error
    except UnicodeDecodeError:
        sentence = f"The token file {file} is not UTF-8 text."
        raise Wrong(sentence) from None  # the error holds the file
    if not lines or not lines[0].strip():
        sentence = f"The token file {file} has no token in its first line."
        raise Wrong(sentence)
    return lines[0].strip()


def json_value(text: str) -> Any:
    """JSON as an argument, in a file (`@file`) or on standard input (`-`). Raises ArgumentTypeError."""
    try:
        if text == "-":
            return orjson.loads(sys.stdin.buffer.read())
        return orjson.loads(Path(text[1:]).read_bytes() if text.startswith("@") else text)
    except OSError as error:
        sentence = f"{text[1:]}: {error.strerror}"
        raise argparse.ArgumentTypeError(sentence) from error
    except orjson.JSONDecodeError as error:
        sentence = f"this is not JSON: {error}"
        raise argparse.ArgumentTypeError(sentence) from error


def clean(text: str) -> str:
    """Text of a worker in one line, without what would steer a terminal."""
    return "".join("�" if unicodedata.category(each) in {"Cc", "Cf", "Cs"} else each for each in " ".join(text.split()))


def print_json(content: dict[str, Any]) -> None:
    """One line, at once."""
    sys.stdout.buffer.write(orjson.dumps(content, option=orjson.OPT_UTC_Z) + b"\n")
    sys.stdout.buffer.flush()
