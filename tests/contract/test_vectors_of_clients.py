"""The clients hold the conversations of tests/vectors: the server's lines are played to them over a real WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve

from tests.support import vectors
from tests.support.agents import HOSTS, Heard, Host
from tests.support.vectors import Vector, text_of
from tests.support.waiting import WAIT_SECONDS

VECTORS = [vector for vector in map(vectors.read, vectors.names()) if vector.for_clients]
SHOWN: Final = frozenset({"change", "liveness", "unknown", "receipt", "degraded", "refused"})
QUICK: Final[dict[str, dict[str, Any]]] = {
    "python": {"unknownAnswers": 1, "timing": {"reconnect_floor_seconds": 0.01, "reconnect_ceiling_seconds": 0.1}},
    "node": {"unknownAnswers": 1, "storageKey": False, "timing": {"backoffFirstMs": 10, "backoffMostMs": 100}},
}
QUICK["mini-program"] = QUICK["node"]


class Played:
    """A server that says what it is told to."""

    def __init__(self) -> None:
        self.port = 0
        self._coming: asyncio.Queue[ServerConnection] = asyncio.Queue()
        self._messages: list[dict[str, Any]] = []
        self._socket: ServerConnection | None = None

    async def serve(self, socket: ServerConnection) -> None:
        await self._coming.put(socket)
        await socket.wait_closed()

    async def accept(self) -> None:
        """The application's next connection."""
        async with asyncio.timeout(WAIT_SECONDS):
            self._socket = await self._coming.get()
        self._messages.clear()

    async def say(self, text: str, *, close: int | None = None) -> None:
        assert self._socket is not None
        await self._socket.send(text)
        if close is not None:
            await self._socket.close(close)

    async def hear(self, wanted: str) -> dict[str, Any]:
        """The next message; signs of life are passed over unless they are wanted."""
        assert self._socket is not None
        while True:
            while not self._messages:
                async with asyncio.timeout(WAIT_SECONDS):
                    content = json.loads(await self._socket.recv())
                self._messages += content if isinstance(content, list) else [content]
            message = self._messages.pop(0)
            if message["type"] == wanted or message["type"] not in {"ping", "pong"}:
                return message


@asynccontextmanager
async def played() -> AsyncIterator[Played]:
    server = Played()
    async with serve(server.serve, "127.0.0.1", 0, compression=None) as listening:
        server.port = next(iter(listening.sockets)).getsockname()[1]
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(HOSTS))
async def host(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Host]]:
    """A program with the client in it."""
    async with HOSTS[request.param]() as running:
        yield request.param, running


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
async def test_client_holds_the_conversation(vector: Vector, host: tuple[str, Host]) -> None:
    """It says what stands there, shows what stands there, and nothing more."""
    platform, running = host
    running.forget()
    heard = running.heard()
    tokens = [said["token"] for _, said in vector.steps if isinstance(said, dict) and "token" in said]
    async with played() as server:
        options = {"url": f"ws://127.0.0.1:{server.port}/v1/ws", **QUICK[platform]}
        await running.say(do="start", options=options | ({"tokens": tokens} if tokens else {}))
        await hold(vector, running, heard, server)
        await running.ask(do="close")
    assert heard.rest(frozenset({"change", "receipt", "unknown"})) == []


async def hold(vector: Vector, running: Host, heard: Heard, server: Played) -> None:
    """Play the server's side, and compare the client's."""
    epochs = [said["epoch"] for _, said in vector.steps if isinstance(said, dict) and said.get("type") == "welcome"]
    shown, opened = epochs[0], ""
    ids: dict[Any, Any] = {}
    for word, content in vector.steps:
        who, act = word[:-1], word[-1]
        if who not in vector.app:
            continue
        said = json.loads(text_of(content).replace("$epoch", shown).replace("$old", epochs[0]))
        if act == ":":
            await running.say(**command(said))
        elif act == "=":
            # A worker that is live again with its next report may be told of with it, or before it.
            event = await heard.next(SHOWN if "liveness" in said else SHOWN - {"liveness"})
            assert {name: event.get(name) for name in said} == said, (word, said, event)
        else:
            if opened != who:
                opened = who
                await server.accept()
            if act == ">":
                got = await server.hear(said["type"])
                assert sense(said).items() <= sense(got).items(), (word, said, got)
                ids[said.get("id")] = got.get("id")
            else:
                if said["type"] == "reply":
                    said["id"] = ids[said["id"]]
                shown = said["epoch"] if said["type"] == "welcome" else shown
                await server.say(text_of(said), close=said["code"] if said["type"] == "bye" else None)


def command(said: dict[str, Any]) -> dict[str, Any]:
    """What the application asks for, as an agent is told."""
    do = next(name for name in ("watch", "leave", "cancel") if name in said)
    return {"do": do, "task_id": said.pop(do), **said}


def sense(message: dict[str, Any]) -> dict[str, Any]:
    """A client's message without what is its own: its ids and name, and what it need not say."""
    kept = {name: value for name, value in message.items() if name not in {"id", "client", "key", "wait_ms"}}
    if message["type"] == "subscribe":
        kept.setdefault("mode", "all")
        kept["tasks"] = [
            {"task_id": task["task_id"], "after": task.get("after"), "waits": waits(message, task)}
            for task in message["tasks"]
        ]
    return kept


def waits(message: dict[str, Any], task: dict[str, Any]) -> bool:
    """Whether a task that nobody knows is to be waited for; for how long is the client's business."""
    return bool(task.get("wait_ms", message.get("wait_ms", 0)))


async def test_every_kind_of_change_is_shown() -> None:
    """In some conversation, to every client."""
    lines = [(word, said) for vector in VECTORS for word, said in vector.steps if word[:-1] in vector.app]
    shown = {said.get("change") or next(iter(said)) for word, said in lines if word.endswith("=")}
    assert shown >= {"snapshot", "transition", "jumped", "liveness", "unknown", "receipt", "degraded", "refused"}
