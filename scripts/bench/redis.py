"""Redis Streams with the same payload bytes: one XADD per report, on disk before the answer (appendfsync always).

The client is redis-benchmark, in C: it writes ready bytes, `pipeline` commands at a time on each connection, and waits
for their answers. The stream is one of 5,000. Redis compares nothing and knows no states.
"""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Final

from msgspec import Struct

from scripts.bench import programs
from scripts.bench.meter import tree_cpu_seconds
from scripts.bench.place import CannotMeasure, Place
from scripts.bench.workloads import TASKS, payload

POINTS: Final = ((1, 1), (1, 100), (1, 1_000), (4, 1_000), (50, 100))
"""(connections, commands in flight on each)"""
_FIRST_COMMANDS: Final = 1_000
_DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no", "--save", "")


class PeerPoint(Struct, frozen=True, kw_only=True):
    """A peer at one number of connections and of requests in flight on each."""

    connections: int
    window: int
    per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float


async def measure_redis(place: Place, *, seconds: float) -> list[PeerPoint]:
    """Every point for about so many seconds. Raises `CannotMeasure` without Redis."""
    server, client = programs.find("redis-server"), programs.find("redis-benchmark")
    if server is None or client is None:
        raise CannotMeasure("redis-server is not installed; on Debian and Ubuntu: apt-get install redis-server")
    folder = place.folder / "redis"
    path = folder / "socket"
    command: list[str | Path] = [
        server,
        "--port",
        "0",
        "--unixsocket",
        path,
        "--dir",
        folder,
        "--daemonize",
        "no",
        *_DURABLE,
    ]
    return await asyncio.to_thread(_measured, command, client, folder, path, seconds)


def _measured(command: list[str | Path], client: Path, folder: Path, path: Path, seconds: float) -> list[PeerPoint]:
    with programs.server(command, folder, lambda: _asked(path, "PING") == "+PONG") as pid:
        if "always" not in _asked(path, "CONFIG GET appendfsync"):
            raise CannotMeasure("this Redis does not take appendfsync always")
        return [_point(client, path, pid, connections, window, seconds) for connections, window in POINTS]


def _point(client: Path, path: Path, pid: int, connections: int, window: int, seconds: float) -> PeerPoint:
    first = max(_FIRST_COMMANDS, connections * window * 2)
    rate = float(_benchmark(client, path, connections, window, first)["rps"])
    commands = max(first, int(rate * seconds))
    done, cpu = _commands_done(path), tree_cpu_seconds(pid)
    row = _benchmark(client, path, connections, window, commands)
    cpu, done = tree_cpu_seconds(pid) - cpu, _commands_done(path) - done
    if done < commands:
        raise CannotMeasure(f"Redis took {done} of {commands} commands")
    return PeerPoint(
        connections=connections,
        window=window,
        per_second=float(row["rps"]),
        p50_ms=float(row["p50_latency_ms"]),
        p99_ms=float(row["p99_latency_ms"]),
        server_cpu_us=round(cpu / done * 1e6, 2),
    )


def _benchmark(client: Path, path: Path, connections: int, window: int, commands: int) -> dict[str, str]:
    # redis-benchmark counts in whole pipelines; each number below `-r` makes the name of one of the streams.
    sizes = ["-n", str(commands), "-c", str(connections), "-P", str(window), "-r", str(TASKS)]
    options: list[str | Path] = [client, "-s", path, *sizes, "--csv"]
    fields = [word for name, value in payload(17).items() for word in (name, value)]
    said = programs.output_of(
        [*options, "XADD", "bench-__rand_int__", "*", *fields], timeout_seconds=60 + commands / 500
    )
    names, row = said.strip().splitlines()[-2:]
    # The first column is the command, whose quotes it does not escape.
    figures = row.strip('"').rsplit('","', names.count(","))[1:]
    return dict(zip(names.replace('"', "").split(",")[1:], figures, strict=True))


def _commands_done(path: Path) -> int:
    found = re.search(r"cmdstat_xadd:calls=(\d+)", _asked(path, "INFO commandstats"))
    return int(found[1]) if found else 0


def _asked(path: Path, command: str) -> str:
    """The answer to one command, up to 64 KiB of it; "" while nobody listens."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(path))
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(65_536).decode("utf-8", "replace").strip()
    except OSError:
        return ""
