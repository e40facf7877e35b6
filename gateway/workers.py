"""Several gateway processes on one port: started, watched, replaced, and ended together.

The supervisor holds the port with a socket that is bound and does not listen; each process binds one of its own beside
it (SO_REUSEPORT), and the kernel deals the connections out. A process that ends is started again; one that cannot even
start, again and again, ends all. The supervisor serves nobody, and no process outlives it: the kernel kills them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.child import Child
from gateway.drain import MARGIN_SECONDS
from gateway.figures import Family
from gateway.listening import CannotServe, cannot_listen
from gateway.place import SIGN_SECONDS, VARIABLE, Place
from gateway.restarts import Restarts
from gateway.runtime import DATABASE_HAS_ENDED
from gateway.siblings import SUPERVISOR, answering

log = structlog.get_logger(__name__)

PROGRAM: Final = Path(__file__).with_name("worker_process.py")
START_SECONDS: Final = 30.0
"""Beyond the time to wait for a database: for the interpreter, the pools, and a machine that is busy."""
PORT_WAIT_SECONDS: Final = 1.0
"""A supervisor may be started while the processes of the one before, killed, are still on their way out."""
SILENT_LOOKS: Final = 30
"""A process that serves and has given no sign of life at so many looks, one after each time for a sign, is killed: the
kernel goes on dealing connections to it, and nobody would ever answer them."""
CONFIG_STATUS: Final = 78
"""A setting is wrong: another try with the same settings ends alike."""


class GaveUp(Exception):
    """The processes cannot be started; carries the exit status of the last one, and its sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: `arguments` and `environment` are for each process, beside what this one has."""

    workers: int
    host: str
    port: int
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    """A private folder, for the sockets by which the processes find each other."""
    drain_seconds: float
    start_seconds: float
    facts: Mapping[str, object]
    """What else the log line `listening` says."""
    program: Path = PROGRAM
    silent_looks: int = SILENT_LOOKS


def reserve(host: str, port: int) -> tuple[list[socket.socket], int]:
    """Bind the port for this process and those it starts; gives the sockets that hold it, and the port.

    Raises `CannotServe` where somebody else has it, also another supervisor of the same user.
    """
    deadline = time.monotonic() + PORT_WAIT_SECONDS
    while True:
        try:
            return _reserve(host, port)
        except OSError as error:
            if time.monotonic() > deadline:
                raise cannot_listen(host, port, error) from error
            time.sleep(0.05)


def _reserve(host: str, port: int) -> tuple[list[socket.socket], int]:
    held: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            where = (address[0], port, *address[2:])
            if port:
                with _bindable(family, kind, protocol) as alone:
                    alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections may linger
                    alone.bind(where)  # fails where somebody listens or holds it, unlike the one that shares
            shared = _bindable(family, kind, protocol)
            held.append(shared)
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shared.bind(where)
            port = shared.getsockname()[1]
    except OSError:
        for each in held:
            each.close()
        raise
    return held, port


def _bindable(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as the processes bind theirs
    return made


class _Place:
    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Child | None = None
        """The one that serves; None while there is none."""
        self.turn = asyncio.Lock()  # held by who fills it
        self.restarts = Restarts()


class Supervisor:
    """The processes of one gateway. `run` them, `reload` them when asked, and `stop` them in any case."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._places = [_Place(number) for number in range(1, plan.workers + 1)]
        self._alive: dict[Child, asyncio.Task[None]] = {}
        self._reload = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._restarts = self._reloads = 0

    async def run(self) -> None:
        """Keep all places filled. Raises `GaveUp` when the processes cannot be started; else it ends when cancelled."""
        keepers = [self._keep(place) for place in self._places]
        self._tasks = [
            asyncio.create_task(each) for each in (*keepers, self._reload_when_asked(), self._look_for_life())
        ]
        async with answering(self._plan.folder, SUPERVISOR, self._figures):
            await asyncio.gather(*self._tasks)

    def _figures(self) -> list[Family]:
        ready = sum(place.process is not None for place in self._places)
        return [
            Family.gauge("workers", "Worker processes that there are to be.", len(self._places)),
            Family.gauge("workers_ready", "Worker processes that serve.", ready),
            Family.counter("worker_restarts", "Worker processes that had ended by themselves.", self._restarts),
            Family.counter("reloads", "Reloads that have replaced all worker processes.", self._reloads),
        ]

    def reload(self) -> None:
        """Replace the processes one after the other, with settings and files as they are then."""
        self._reload.set()

    async def stop(self) -> None:
        """End all processes at once, each in order; those that take too long are killed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(self._retire(process) for process in list(self._alive)))

    async def _keep(self, place: _Place) -> None:
        while True:
            async with place.turn:
                process = place.process or await self._begin(place.number)
                place.process = process if process.ready else None
            if process.ready:
                self._note_ready()
                await process.ended.wait()
                if place.process is not process:
                    continue  # another one has taken its place
                place.process = None
            delay = place.restarts.delay_seconds(process.lived_seconds)
            log.warning(
                "process_ended",
                process=place.number,
                pid=process.pid,
                status=process.status,
                detail=process.sentence,
                lived_seconds=round(process.lived_seconds, 1),
                again_in_seconds=round(delay, 1),
            )
            if not self._all_ready.is_set() and (process.status == CONFIG_STATUS or place.restarts.hopeless):
                sentence = process.sentence or f"A worker process ends again and again (status {process.status})."
                raise GaveUp(process.status, sentence)
            await asyncio.sleep(delay)
            self._restarts += 1

    def _note_ready(self) -> None:
        if not self._all_ready.is_set() and all(place.process is not None for place in self._places):
            self._all_ready.set()
            plan = self._plan
            log.info("listening", host=plan.host, port=plan.port, workers=plan.workers, **plan.facts)

    async def _reload_when_asked(self) -> None:
        await self._all_ready.wait()
        while True:
            await self._reload.wait()
            self._reload.clear()
            log.info("reloading")
            began = time.monotonic()
            for place in self._places:
                if not await self._renew(place):
                    break
            else:
                self._reloads += 1
                log.info("reloaded", seconds=round(time.monotonic() - began, 1))

    async def _look_for_life(self) -> None:
        """End a process that hangs; counted in looks, since we may have been stopped ourselves, and it with us."""
        while True:
            await asyncio.sleep(SIGN_SECONDS)
            for place in self._places:
                process = place.process
                if process is not None and process.look() == self._plan.silent_looks:
                    log.error("process_hangs", process=place.number, pid=process.pid)
                    process.send(signal.SIGKILL)

    async def _renew(self, place: _Place) -> bool:
        """Fill a place anew, then end the process that had it; it stays when the new one cannot serve (False)."""
        async with place.turn:
            new = await self._begin(place.number)
            if not new.ready:
                log.error("reload_failed", process=place.number, status=new.status, detail=new.sentence)
                return False
            old, place.process = place.process, new
        if old is not None:
            await self._retire(old)
        return True

    async def _begin(self, number: int) -> Child:
        """Start a process; returns when it is ready, or has ended."""
        ours, theirs = os.pipe()
        words = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        try:
            place = Place(number=number, pipe=theirs, folder=self._plan.folder)
            started = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                str(self._plan.program),
                str(os.getpid()),
                *self._plan.arguments,
                env={**os.environ, **self._plan.environment, VARIABLE: msgspec.json.encode(place).decode()},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs,),
                start_new_session=True,  # a Ctrl-C in our terminal reaches us first and only
            )
        finally:
            os.close(theirs)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), os.fdopen(ours, "rb", 0))
        process = Child(number, started, words)
        self._alive[process] = asyncio.create_task(self._watch(process))
        if await process.become_ready(self._plan.start_seconds + START_SECONDS):
            log.info("process_ready", process=number, pid=process.pid, seconds=round(process.lived_seconds, 1))
        return process

    async def _watch(self, process: Child) -> None:
        await process.watch()
        del self._alive[process]

    async def _retire(self, process: Child) -> None:
        """End a process in order, in its time."""
        process.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._plan.drain_seconds + MARGIN_SECONDS):
                await process.ended.wait()
        except TimeoutError:
            log.warning("process_killed", process=process.number, pid=process.pid)
            process.send(signal.SIGKILL)
            await process.ended.wait()


async def supervise(plan: Plan, *, prepare: Callable[[], Awaitable[None]], database_runs: Callable[[], bool]) -> None:
    """Run all processes until SIGTERM or SIGINT; a second signal ends at once. SIGHUP replaces them one by one.

    `prepare` comes before the first process; `database_runs` is asked every second. Raises `GaveUp` and `CannotServe`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    supervisor = Supervisor(plan)

    def on_signal(signum: signal.Signals) -> None:
        if stop.is_set():  # the kernel ends the processes with this one
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        stop.set()

    async def work() -> None:
        await prepare()
        await supervisor.run()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, on_signal, signum)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    working, stopping = asyncio.create_task(work()), asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            if not database_runs():
                raise CannotServe(DATABASE_HAS_ENDED)
            await asyncio.wait({working, stopping}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
    finally:
        log.info("stopping")
        working.cancel()
        await supervisor.stop()
