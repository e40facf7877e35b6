"""One measurement: the client load.c against a server that runs, with the server's clocks read at its marks.

A run in which a subscriber missed a message, got one twice or out of order, or was cut, is refused (`Incomplete`).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from msgspec import Struct

from scripts.bench import cores
from scripts.bench.meter import tree_cpu_seconds
from scripts.bench.place import CannotMeasure
from scripts.bench.shapes import Shape
from scripts.bench.wire import Dialect

SETTLE_SECONDS: Final = 1.0
"""From the last subscription to the look at an idle server, at most."""
PATIENCE_SECONDS: Final = 120.0
"""How long all may take to subscribe, and the last deliveries to come."""


class Incomplete(CannotMeasure):
    """Not everybody got everything, in order."""


class Delivered(Struct, frozen=True, kw_only=True):
    """Deliveries over the measured interval. Shares are of one core; CPU is per delivery."""

    deliveries: int
    per_second: float
    published_per_second: float
    server_cpu_us: float
    server_core: float
    database_cpu_us: float | None
    client_core: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    checked: int
    """Deliveries of the whole run, warm-up included: as many as were to come, each in its place."""


class Held(Struct, frozen=True, kw_only=True):
    """Connections that subscribed and wait. `kept_alive` is what the server sent to them meanwhile."""

    connections: int
    subscribed_per_second: float
    kib_each: float
    server_core: float
    kept_alive: int


class Accepted(Struct, frozen=True, kw_only=True):
    """Connections that were upgraded, and nothing else."""

    connections: int
    per_second: float
    server_cpu_us: float


class Target(Struct, frozen=True, kw_only=True):
    """A server that runs: its port and pid, how to speak with it, and its database where it has one."""

    port: int
    pid: int
    dialect: Dialect
    database_pid: int | None = None


def measure(
    load: Path,
    target: Target,
    shape: Shape,
    *,
    seconds: float,
    ping_seconds: float,
    core: int | None,
    patience: float = PATIENCE_SECONDS,
) -> Any:
    """Measure one shape: `Delivered`, `Held` or `Accepted`. Raises `Incomplete` and `CannotMeasure`."""
    warmup = min(1.0, seconds / 2)
    words = target.dialect.arguments(shape, seconds=seconds, warmup=warmup, patience=patience)
    command: list[str | Path] = [load, "-p", str(target.port), *words]
    if shape.kind == "delivery":
        return _delivered(command, target, shape, core)
    if shape.kind == "accept":
        return _accepted(command, target, core)
    settle = min(seconds, SETTLE_SECONDS)
    return _held(command, target, settle, ping_seconds if shape.kind == "beat" else settle, core)


def _delivered(command: Sequence[str | Path], target: Target, shape: Shape, core: int | None) -> Delivered:
    with _running(command, core) as client:
        client.wait_for("ready")
        client.wait_for("begin")
        server, database = tree_cpu_seconds(target.pid), _cpu_of(target.database_pid)
        client.wait_for("end")
        server, database = tree_cpu_seconds(target.pid) - server, _cpu_of(target.database_pid) - database
        done = client.wait_for("done")
        wrong = {name: done[name] for name in ("misplaced", "short_of", "refused", "lost") if done[name]}
        if wrong or done["delivered"] != done["wanted"]:
            raise Incomplete(
                f"{done['delivered']:,} of {done['wanted']:,} deliveries came: {wrong}; {client.last_words()}"
            )
    if not done["deliveries"]:
        raise CannotMeasure("nothing was delivered while it was measured; measure for longer")
    seconds, count = done["seconds"], done["deliveries"]
    return Delivered(
        deliveries=count,
        per_second=round(count / seconds, 1),
        published_per_second=round(done["publishes"] / seconds, 1),
        server_cpu_us=round(server / count * 1e6, 3),
        server_core=round(server / seconds, 4),
        database_cpu_us=None if target.database_pid is None else round(database / count * 1e6, 3),
        client_core=round(done["client_cpu"] / seconds, 4),
        p50_ms=done["p50_ms"],
        p99_ms=done["p99_ms"],
        max_ms=done["max_ms"],
        checked=done["delivered"],
    )


def _held(command: Sequence[str | Path], target: Target, settle: float, seconds: float, core: int | None) -> Held:
    before = cores.memory_kib(target.pid)
    with _running(command, core) as client:
        ready = client.wait_for("ready")
        time.sleep(settle)
        cpu, began = tree_cpu_seconds(target.pid), time.monotonic()
        time.sleep(seconds)
        cpu, took = tree_cpu_seconds(target.pid) - cpu, time.monotonic() - began
        kib = cores.memory_kib(target.pid) - before
        done = client.finish()
    return Held(
        connections=ready["connections"],
        subscribed_per_second=round(ready["connections"] / ready["seconds"], 1),
        kib_each=round(kib / ready["connections"], 3),
        server_core=round(cpu / took, 5),
        kept_alive=done["other"] - ready["other"],
    )


def _accepted(command: Sequence[str | Path], target: Target, core: int | None) -> Accepted:
    cpu = tree_cpu_seconds(target.pid)
    with _running(command, core) as client:
        ready = client.wait_for("ready")
        cpu = tree_cpu_seconds(target.pid) - cpu
        client.finish()
    return Accepted(
        connections=ready["connections"],
        per_second=round(ready["connections"] / ready["seconds"], 1),
        server_cpu_us=round(cpu / ready["connections"] * 1e6, 2),
    )


def _cpu_of(pid: int | None) -> float:
    return 0.0 if pid is None else tree_cpu_seconds(pid)


class _Client:
    """The client's lines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def wait_for(self, mark: str) -> dict[str, Any]:
        """The next line, which must be that mark. Raises `CannotMeasure` with the client's last words."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        said: dict[str, Any] = orjson.loads(line) if line else {}
        if said.get("at") != mark:
            raise CannotMeasure(self.last_words())
        return said

    def last_words(self) -> str:
        """What it had to say besides, when it has ended."""
        _, words = self._process.communicate(timeout=10)
        return "; ".join(words.decode("utf-8", "replace").splitlines())[:400] or "the client said no more"

    def finish(self) -> dict[str, Any]:
        """Let go of the connections. Raises `Incomplete` when some went by themselves."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.close()
        self._process.stdin = None
        done = self.wait_for("done")
        if done["lost"] or done["refused"]:
            raise Incomplete(f"{done['lost']} connections were lost, {done['refused']} refused; {self.last_words()}")
        return done


@contextmanager
def _running(command: Sequence[str | Path], core: int | None) -> Iterator[_Client]:
    with cores.pinned(core):
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    with process:
        try:
            yield _Client(process)
        finally:
            process.kill()
