"""Runs the gateway and the example's backend, starts the gateway again when it dies, and stops both in order.

The gateway is started as any user would: `python -m gateway serve`. Nothing here looks inside it; it is ready
when `/health/ready` says so.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from scripts.stage.child import Child, described

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = (ROOT, ROOT / "clients" / "python" / "src")

READY_SECONDS = 60.0  # the first start makes a database
POLL_SECONDS = 0.05
PROBE_SECONDS = 2.0
GATEWAY_GRACE_SECONDS = 15.0  # it drains its connections for up to 10 s
BACKEND_GRACE_SECONDS = 15.0
STEADY_SECONDS = 10.0
DEATHS_MAX = 5


class StageError(Exception):
    """The stage cannot be kept up; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where things run, and what the example does. `data_dir` None: where the gateway keeps its data by itself.

    `hints`: say what a person may try next.
    """

    port: int
    page_port: int
    data_dir: Path | None = None
    job_options: tuple[str, ...] = ()
    hints: bool = True

    @property
    def page_url(self) -> str:
        """The example's page."""
        return f"http://127.0.0.1:{self.page_port}/"

    @property
    def gateway_url(self) -> str:
        """Where clients and workers connect."""
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    @property
    def http_url(self) -> str:
        """The root of the gateway's HTTP side."""
        return f"http://127.0.0.1:{self.port}"

    def gateway_arguments(self) -> list[str]:
        """What comes after `python`."""
        origins = [f"--allow-origin=http://{host}:{self.page_port}" for host in ("127.0.0.1", "localhost")]
        data = [f"--data-dir={self.data_dir}"] if self.data_dir else []
        return ["-m", "gateway", "serve", "--host=127.0.0.1", f"--port={self.port}", *origins, *data]

    def backend_arguments(self) -> list[str]:
        """What comes after `python`."""
        where = [f"--gateway={self.gateway_url}", f"--port={self.page_port}"]
        return ["-m", "examples.stdlib_index", *where, *self.job_options]


class Stage:
    """Both processes, as an async context manager: inside the block both are ready, after it both are gone.

    `hear(name, line)` gets what the children and the stage itself have to say.
    """

    def __init__(self, plan: Plan, hear: Callable[[str, str], None]) -> None:
        self.plan = plan
        self.away_seconds: float | None = None
        """How long the gateway was away the last time, from its death to the first answer that it is ready."""
        self._hear = hear
        self._gateway: Child | None = None
        self._backend: Child | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._back = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start both. Raises StageError when one does not get ready."""
        try:
            self._gateway = await self._start_gateway()
            self._backend = await self._start_backend()
        except BaseException:
            await self._stop()
            raise
        self._back.set()
        self._keeping = asyncio.create_task(self._keep_gateway())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the backend, so that its last reports arrive; then the gateway."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self._stop()

    @property
    def gateway_pid(self) -> int:
        """The gateway that runs now, or ran last."""
        if self._gateway is None:
            raise StageError("the gateway was not started")
        return self._gateway.pid

    @property
    def backend_pid(self) -> int:
        """The example's backend, which has the workers in it."""
        if self._backend is None:
            raise StageError("the backend was not started")
        return self._backend.pid

    async def broken(self) -> None:
        """Return when the backend has ended; raise StageError when the gateway cannot be kept up."""
        if self._keeping is None or self._backend is None:
            raise StageError("enter the stage first")
        backend = asyncio.create_task(self._backend.wait())
        try:
            await asyncio.wait({self._keeping, backend}, return_when=asyncio.FIRST_COMPLETED)
            if self._keeping.done():
                self._keeping.result()
            raise StageError(f"The backend {described(backend.result())}; what it said stands above.")
        finally:
            backend.cancel()

    def kill_gateway(self) -> None:
        """SIGKILL, as `kill -9` would; it is started again."""
        if self._gateway is None:
            raise StageError("enter the stage first")
        self._back.clear()
        self._gateway.kill()

    async def gateway_back(self) -> None:
        """Wait until a gateway that was killed is ready again."""
        await self._back.wait()

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_gateway(self) -> None:
        deaths = 0
        while self._gateway is not None:
            started = time.monotonic()
            status = await self._gateway.wait()
            died = time.monotonic()
            self._back.clear()
            deaths = deaths + 1 if died - started < STEADY_SECONDS else 1
            self._hear("demo", f"the gateway (pid {self._gateway.pid}) {described(status)}; starting it again")
            if deaths > DEATHS_MAX:
                raise StageError(f"The gateway died {deaths} times in a row; what it said stands above.")
            self._gateway = await self._start_gateway()
            self.away_seconds = time.monotonic() - died
            self._back.set()
            again = f"; once more:   kill -9 {self._gateway.pid}" if self.plan.hints else ""
            self._hear("demo", f"the gateway is back after {self.away_seconds:.1f} s{again}")

    async def _start_gateway(self) -> Child:
        gateway = await self._start("gateway", self.plan.gateway_arguments())
        await self._until_ready(gateway, f"{self.plan.http_url}/health/ready")
        return gateway

    async def _start_backend(self) -> Child:
        backend = await self._start("backend", self.plan.backend_arguments())
        await self._until_ready(backend, f"{self.plan.page_url}settings")
        return backend

    async def _start(self, name: str, arguments: list[str]) -> Child:
        environment = child_environment(os.environ)
        return await Child.start(name, arguments, folder=ROOT, environment=environment, hear=self._hear)

    async def _until_ready(self, child: Child, url: str) -> None:
        """Ask until the answer is 200. Leaves no child behind when it does not come."""
        ended = asyncio.create_task(child.wait())
        try:
            async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession() as session:
                while not await answers(session, url):
                    if ended.done():
                        raise StageError(f"The {child.name} {described(ended.result())} before it was ready.")
                    await asyncio.wait({ended}, timeout=POLL_SECONDS)
        except BaseException as error:
            child.kill()
            await child.wait()
            if isinstance(error, TimeoutError):
                raise StageError(f"The {child.name} was not ready after {READY_SECONDS:g} s.") from None
            raise
        finally:
            ended.cancel()

    async def _stop(self) -> None:
        if self._backend is not None:
            await self._backend.stop(grace_seconds=BACKEND_GRACE_SECONDS)
        if self._gateway is not None:
            await self._gateway.stop(grace_seconds=GATEWAY_GRACE_SECONDS)


async def answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """This environment with the source tree on the path, and without what would lock the demo's page out."""
    kept = {name: value for name, value in environment.items() if name != "LEDGERWIRE_TOKEN_FILE"}
    path = [*map(str, SOURCES), *filter(None, [environment.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
