"""The server says in each conversation of tests/vectors what stands there, and no message is without one."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.limits.rates import Limits
from gateway.protocol.errors import BYES
from gateway.protocol.messages import TYPES
from ledger import epoch
from tests.support import vectors
from tests.support.gateway import ROOT, Gateway, Peer, in_process
from tests.support.limits import generous
from tests.support.postgres import Cluster, address_of, temporary_database, through
from tests.support.proxy import Link, Proxy
from tests.support.tokens import SECRET, auth_file, token
from tests.support.vectors import Vector, comparable, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = [vectors.read(name) for name in vectors.names()]
SERVED = [vector for vector in ALL if vector.not_by_the_server is None]
WORLD = frozenset({"database", "epoch"})
DISTURBED = [vector for vector in SERVED if vector.gateway or any(word in WORLD for word, _ in vector.steps)]
CALM = [vector for vector in SERVED if vector not in DISTURBED]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(cluster: Cluster) -> AsyncIterator[Gateway]:
    """One gateway for all conversations in which nothing happens to it."""
    async with temporary_database(cluster) as dsn, in_process(dsn) as running:
        yield running


@pytest.mark.parametrize("vector", CALM, ids=lambda vector: vector.name)
async def test_conversation_goes_as_written(vector: Vector, undisturbed: Gateway) -> None:
    """What a connection sends is sent as it stands; what it gets is what comes back next."""
    await hold(vector, undisturbed, None)


@pytest.mark.parametrize("vector", DISTURBED, ids=lambda vector: vector.name)
async def test_conversation_with_a_fault_goes_as_written(vector: Vector, cluster: Cluster, tmp_path: Path) -> None:
    """The same with a gateway of its own, to which things happen, or which is set otherwise."""
    async with temporary_database(cluster) as database, Proxy(address_of(database)) as proxy:
        async with in_process(through(database, proxy.port), **settings_of(vector, tmp_path)) as gateway:
            await hold(vector, gateway, World(database, proxy))


@dataclass(frozen=True)
class World:
    """What is behind a gateway."""

    database: str
    proxy: Proxy

    async def turn(self, word: str, content: str) -> None:
        if word == "database":
            self.proxy.set({"away": Link.RESET, "back": Link.PASS}[content])
        else:
            assert (word, content) == ("epoch", "new")
            await epoch.begin(generous(), self.database)


async def hold(vector: Vector, gateway: Gateway, world: World | None) -> None:
    """Say what the clients say, and compare what the gateway answers."""
    received = 0
    async with AsyncExitStack() as stack:
        peers: dict[str, Peer] = {}
        epochs: list[str] = []
        for word, content in vector.steps:
            who, act = word[:-1], word[-1]
            if word in WORLD:
                assert world is not None
                await world.turn(word, content)
            elif act in "<>" and who not in peers:
                peers[who] = await stack.enter_async_context(gateway.client(hello=False))
            if act == ">":
                text = with_tokens(text_of(content))
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
    if vector.gateway.get("jwt"):
        given["auth_file"] = auth_file(folder)
    if "pings_per_second" in vector.gateway:
        given["limits"] = Limits(pings_per_second=vector.gateway["pings_per_second"])
    return given


def with_tokens(text: str) -> str:
    """The text with `$token-2s` replaced by a token that lasts two seconds: of alice, a user, at acme."""
    return re.sub(r"\$token-(\d+)s", lambda found: token(SECRET, "HS256", iss="acme", lasts=int(found[1])), text)


async def test_every_message_has_a_vector() -> None:
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
    assert notices == {"degraded", "restored", "jumped", "token_expiring"}
    assert byes == {bye.reason for bye in BYES}


def said_by_the_code() -> set[str]:
    """The types of all frames that the gateway's sources make."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    return set(re.findall(r'\bframe\(\s*"(\w+)"', source)) | set(re.findall(r'\{"type": "(\w+)"', source))
