"""The servers that `delivery` measures: how each is had, started and spoken to. All on loopback, without compression.

What is not there and cannot be fetched is said with `CannotMeasure`, and the others are measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from msgspec import Struct

from scripts.bench import cores, programs, provisions, wire
from scripts.bench.loading import Target
from scripts.bench.place import CannotMeasure

ROOT: Final = Path(__file__).resolve().parents[2]
LEDGERWIRE: Final = ("ledgerwire, hub only", "ledgerwire, durable")


class Start(Struct, frozen=True, kw_only=True):
    """What a server is started with."""

    folder: Path
    port: int
    ping_seconds: float
    connections: int
    database_url: str = ""


Command = tuple[Sequence[str | Path], Mapping[str, str]]
"""The words, and variables besides the inherited ones."""


class Server(Struct, frozen=True, kw_only=True):
    """A server that can be measured. `key` is its name on the command line."""

    key: str
    name: str
    dialect: wire.Dialect
    command: Callable[[Start], Command]
    needs_database: bool = False
    durable: bool = False

    @contextmanager
    def running(
        self, parent: Path, *, core: int | None, ping_seconds: float, connections: int, dsn: str, postmaster: int | None
    ) -> Iterator[Target]:
        """It, for the length of the block, in a new folder. Raises `CannotMeasure`."""
        folder = Path(mkdtemp(prefix=f"{self.key}-", dir=parent))
        start = Start(
            folder=folder,
            port=cores.free_port(),
            ping_seconds=ping_seconds,
            connections=connections,
            database_url=dsn,
        )
        words, variables = self.command(start)
        ready = partial(cores.listens, start.port)
        with ExitStack() as stack:
            with cores.pinned(core):
                pid = stack.enter_context(programs.server(words, folder, ready, variables))
            database_pid = postmaster if self.durable else None
            yield Target(port=start.port, pid=pid, dialect=self.dialect, database_pid=database_pid)


def _limit(start: Start, *options: str) -> Command:
    return [provisions.compiled("limit"), str(start.port), *options], {}


def _hub_only(start: Start) -> Command:
    return [sys.executable, "-m", "scripts.bench.hub_only", str(start.port)], _gateway(start)


def _durable(start: Start) -> Command:
    return [sys.executable, "-m", "gateway", "serve", "--port", str(start.port)], _gateway(start)


def _gateway(start: Start) -> Mapping[str, str]:
    return {
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": start.database_url,
        "LEDGERWIRE_LOG_LEVEL": "warning",  # no server here writes a line for every connection
        "LEDGERWIRE_PING_INTERVAL_SECONDS": f"{start.ping_seconds:g}",
        "LEDGERWIRE_DRAIN_SECONDS": "1",
    }


def _aiohttp(start: Start) -> Command:
    program = provisions.PEERS / "plain_aiohttp.py"
    return [sys.executable, program, str(start.port), f"{start.ping_seconds:g}"], {}


def _node(script: str, start: Start) -> Command:
    folder = provisions.node_peers()
    return ["node", folder / script, str(start.port), f"{start.ping_seconds:g}"], {}


def _nchan(start: Start) -> Command:
    nginx = provisions.nginx()
    words = {
        "MODULE": str(nginx.module),
        "USER": nginx.user,
        "FOLDER": str(start.folder),
        "FILES": str(start.connections + cores.FILES_BESIDE),
        "SLOTS": str(start.connections * 9 // 8 + cores.FILES_BESIDE),  # it closes some when 1 of 16 is left
        "PORT": str(start.port),
        "PINGS": f"{max(1, round(start.ping_seconds))}",
    }
    configuration = start.folder / "nginx.conf"
    configuration.write_text(_filled("nginx.conf", words), "utf-8")
    start.folder.chmod(0o711)
    return [*nginx.command, "-e", "stderr", "-p", start.folder, "-c", configuration], {}


def _centrifugo(start: Start) -> Command:
    program = programs.find("centrifugo")
    if program is None:
        raise CannotMeasure("centrifugo is not on PATH; its releases carry one (version 6)")
    pong_seconds = max(1, round(start.ping_seconds / 3))
    words = {"PORT": str(start.port), "PINGS": f"{start.ping_seconds:g}", "PONGS": str(pong_seconds)}
    configuration = start.folder / "centrifugo.json"
    configuration.write_text(_filled("centrifugo.json", words), "utf-8")
    return [program, "-c", configuration], {}


def _filled(name: str, words: Mapping[str, str]) -> str:
    text = (provisions.PEERS / name).read_text("utf-8")
    head, comment, rest = ("", "", text) if not text.startswith("#") else text.partition("\n")
    for word, value in words.items():
        rest = rest.replace(word, value)
    return head + comment + rest


SERVERS: Final = (
    Server(key="hub", name=LEDGERWIRE[0], dialect=wire.HUB_ONLY, command=_hub_only, needs_database=True),
    Server(
        key="durable",
        name=LEDGERWIRE[1],
        dialect=wire.DURABLE,
        command=_durable,
        needs_database=True,
        durable=True,
    ),
    Server(key="limit", name="C limit", dialect=wire.BARE, command=_limit),
    Server(key="joined", name="C limit, joined", dialect=wire.BARE, command=lambda start: _limit(start, "-j")),
    Server(key="aiohttp", name="plain aiohttp", dialect=wire.BARE, command=_aiohttp),
    Server(key="nchan", name="nginx + nchan", dialect=wire.NCHAN, command=_nchan),
    Server(key="ws", name="node ws", dialect=wire.BARE, command=partial(_node, "ws.mjs")),
    Server(key="socketio", name="Socket.IO", dialect=wire.SOCKET_IO, command=partial(_node, "socketio.mjs")),
    Server(key="centrifugo", name="Centrifugo", dialect=wire.CENTRIFUGO, command=_centrifugo),
)
