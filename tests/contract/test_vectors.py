"""The server says in each conversation of tests/vectors what stands there, and no message is without one."""

from __future__ import annotations

import re
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.protocol.errors import BYES
from gateway.protocol.messages import TYPES
from ledger import epoch
from tests.support import vectors
from tests.support.gateway import ROOT, Peer, in_process
from tests.support.limits import generous
from tests.support.postgres import address_of, through
from tests.support.proxy import Link, Proxy
from tests.support.vectors import Vector, comparable, text_of

ALL = [vectors.read(name) for name in vectors.names()]
SERVED = [vector for vector in ALL if vector.not_by_the_server is None]


@pytest.mark.parametrize("vector", SERVED, ids=lambda vector: vector.name)
async def test_conversation_goes_as_written(vector: Vector, database: str, tmp_path: Path) -> None:
    """What a connection sends is sent as it stands; what it gets is what comes back next."""
    received = 0
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(address_of(database)))
        settings = settings_of(vector, tmp_path)
        gateway = await stack.enter_async_context(in_process(through(database, proxy.port), **settings))
        peers: dict[str, Peer] = {}
        epochs: list[str] = []
        for word, content in vector.steps:
            who, act = word[:-1], word[-1]
            if word == "database":
                proxy.set({"away": Link.RESET, "back": Link.PASS}[content])
            elif word == "epoch":
                assert content == "new"
                await epoch.begin(generous(), database)
            elif act in "<>" and who not in peers:
                peers[who] = await stack.enter_async_context(gateway.client(hello=False))
            if act == ">":
                text = text_of(content)
                if epochs:
                    text = text.replace("$epoch", epochs[-1]).replace("$old", epochs[0])
                await peers[who].send_text(text)
            elif act == "<":
                got = await peers[who].receive(pings=True)
                received += 1
                if got["type"] == "welcome":
                    epochs.append(got["epoch"])
                assert comparable(got) == comparable(content), f"{vector.name}: {word} {text_of(content)}\ngot {got}"
    assert received >= 1


def settings_of(vector: Vector, folder: Path) -> dict[str, Any]:
    """The gateway that a conversation is held with."""
    given: dict[str, Any] = {"ping_interval_seconds": vector.gateway.get("ping_interval_ms", 25_000) / 1_000}
    if "max_connections" in vector.gateway:
        given["max_connections"] = vector.gateway["max_connections"]
    if vector.gateway.get("tokens"):
        given["token_file"] = folder / "tokens"
        given["token_file"].write_text(f"acme alice {secrets.token_hex()}\n", encoding="utf-8")
        given["token_file"].chmod(0o600)
    return given


def test_every_message_has_a_vector() -> None:
    """What the gateway takes, and what it says as its code has it: a new message needs a conversation."""
    sent, got, notices, byes = set[str](), set[str](), set[str](), set[str]()
    for vector in ALL:
        for word, content in vector.steps:
            if word.endswith((">", "<")):
                into = sent if word.endswith(">") else got
                messages = content if isinstance(content, list) else [content]
                into |= {message["type"] for message in messages if isinstance(message, dict)}
                notices |= {message["kind"] for message in messages if "notice" in text_of(message)[:20]}
                byes |= {message["reason"] for message in messages if "bye" in text_of(message)[:20]}
    assert sent == TYPES | {"dance"}
    assert got == said_by_the_code()
    assert notices == {"degraded", "restored", "jumped"}
    assert byes == {bye.reason for bye in BYES}


def said_by_the_code() -> set[str]:
    """The types of all frames that the gateway's sources make."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    return set(re.findall(r'\bframe\(\s*"(\w+)"', source)) | set(re.findall(r'\{"type": "(\w+)"', source))
