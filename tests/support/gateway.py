"""Real gateways for tests: in this process for conversations, as a process of their own where they are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from websockets.asyncio.client import ClientConnection, connect

from gateway.auth.api_keys import RECHECK_SECONDS
from gateway.hub import REREAD_SECONDS
from gateway.runtime import running
from gateway.settings import GatewaySettings
from tests.support.limits import ENVIRONMENT, generous
from tests.support.waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0
FRAME_SECONDS = WAIT_SECONDS


class Gateway:
    """Where a gateway can be reached."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    @asynccontextmanager
    async def client(self, *, hello: bool = True, **options: Any) -> AsyncIterator[Peer]:
        """A WebSocket to it, by default past `welcome`."""
        async with connect(self.ws, compression=None, **options) as socket:
            peer = Peer(socket)
            if hello:
                await peer.send(type="hello", v=1, client="test/1")
                peer.welcome = await peer.expect("welcome")
            yield peer


class Peer:
    """One client's end of a conversation. Every wait is bounded."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.welcome: dict[str, Any] = {}

    @property
    def epoch(self) -> str:
        return str(self.welcome["epoch"])

    async def send(self, **message: Any) -> None:
        await self.socket.send(orjson.dumps(message).decode())

    async def send_many(self, messages: list[dict[str, Any]]) -> None:
        """Several messages in one frame."""
        await self.socket.send(orjson.dumps(messages).decode())

    async def send_text(self, text: str) -> None:
        await self.socket.send(text)

    async def receive(self, seconds: float = FRAME_SECONDS, *, pings: bool = False) -> dict[str, Any]:
        """The next frame; the server's pings are answered on the way, unless they are wanted."""
        async with asyncio.timeout(seconds):
            while True:
                frame: dict[str, Any] = orjson.loads(await self.socket.recv())
                if pings or frame["type"] != "ping":
                    return frame
                await self.send(type="pong")

    async def expect(self, type_: str, **members: Any) -> dict[str, Any]:
        """The next frame, which must be of this type and have these members."""
        frame = await self.receive()
        assert frame["type"] == type_, f"expected {type_}, got {frame}"
        assert {name: frame.get(name) for name in members} == members, frame
        return frame

    async def ask(self, id: int | str = 1, **message: Any) -> dict[str, Any]:  # noqa: A002 - the wire's word
        """Send a message and return its reply; other frames in between are an error."""
        await self.send(id=id, **message)
        return await self.expect("reply", id=id)

    async def closed(self) -> int | None:
        """Wait for the end; the close code."""
        async with asyncio.timeout(FRAME_SECONDS):
            await self.socket.wait_closed()
        return self.socket.close_code


@asynccontextmanager
async def in_process(
    dsn: str, *, reread_seconds: float = REREAD_SECONDS, recheck_seconds: float = RECHECK_SECONDS, **settings: Any
) -> AsyncIterator[Gateway]:
    """A gateway on this event loop, on a port of its own."""
    given: dict[str, Any] = {"ledger": generous(database_url=dsn), "port": 0, "drain_seconds": 1.0, **settings}
    async with running(
        GatewaySettings(**given), dsn, reread_seconds=reread_seconds, recheck_seconds=recheck_seconds
    ) as port:
        yield Gateway(port)


class GatewayProcess(Gateway):
    """A gateway as a process, to be killed and started again on the same port."""

    def __init__(self, dsn: str | None, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(0)
        self._dsn = dsn
        self._arguments = arguments
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.log: deque[dict[str, Any]] = deque(maxlen=10_000)
        self.starts = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.running:
            await self.stop(signal.SIGKILL)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start and wait until it listens."""
        environment = {**os.environ, **ENVIRONMENT, **self._environment}
        environment.pop("DATABASE_URL", None)
        if self._dsn is not None:
            environment["DATABASE_URL"] = self._dsn
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(self.port), *self._arguments]
        self._process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
        )
        listening = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read_log(listening))
        async with asyncio.timeout(START_SECONDS):
            self.port = await listening
        self.starts += 1

    async def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self._process is not None
        self._process.send_signal(signum)
        return await self.wait()

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal, and do not wait."""
        assert self._process is not None
        self._process.send_signal(signum)

    async def wait(self) -> int:
        """Wait until it has ended by itself; the exit status."""
        assert self._process is not None
        assert self._reading is not None
        async with asyncio.timeout(START_SECONDS):
            status = await self._process.wait()
            await self._reading
        return status

    async def _read_log(self, listening: asyncio.Future[int]) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError:
                entry = {"event": "not_json", "line": line.decode(errors="replace")}
            self.log.append(entry)
            if entry.get("event") == "listening" and not listening.done():
                listening.set_result(entry["port"])
        if not listening.done():
            listening.set_exception(AssertionError(f"the gateway ended before it listened: {list(self.log)}"))
