"""Batter a gateway with mutated WebSocket streams: `python scripts/batter.py [--streams N] [--seed N]`, in `.venv`.

Starts a gateway with a PostgreSQL of its own, and beside it a process with one client that does no harm. Some
connections at a time send streams of frames in which bits were turned, bytes lost, doubled, or put in, and close.
Prints what it cost the others, and fails where the gateway logged a fault, ended, grew, or left a connection open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import secrets
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import connect

ROOT: Final = Path(__file__).resolve().parent.parent
UPGRADE: Final = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
AT_ONCE: Final = 8
"""Connections. More only stand in a queue, and the client that does no harm with them."""
STREAMS_PER_CONNECTION: Final = 8
"""Behind one another. After a length that was made longer the rest is in one frame: then a new one is needed."""
PAUSE_SECONDS: Final = 0.01
"""Between two questions of the client that does no harm."""
MOST_RSS_MIB: Final = 20
ENOUGH_SECONDS: Final = 20.0


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A frame in order, with a mask that changes nothing."""
    size = len(payload)
    short = size if size < 126 else 126
    return (
        bytes([fin << 7 | opcode, 128 | short]) + (b"" if size < 126 else struct.pack("!H", size)) + bytes(4) + payload
    )


def seeds() -> list[bytes]:
    """Streams in order, of every kind of frame."""
    words: list[dict[str, Any]] = [
        {"type": "ping"}, {"type": "pong"}, {"type": "report", "task_id": "m", "progress": 5},
        {"type": "report", "id": 1, "task_id": "m", "data": {"text": "ä€\U0001f600" * 20}},
        {"type": "subscribe", "id": 2, "tasks": [{"task_id": "m", "after": {"epoch": "e", "seq": 0}}]},
        {"type": "cancel", "id": 3, "task_id": "n"}, {"type": "unsubscribe", "id": 4, "task_ids": ["m"]},
    ]  # fmt: skip
    texts = [json.dumps(each, ensure_ascii=False).encode() for each in words]
    whole = [frame(1, text) for text in texts]
    split = [frame(1, text[:9], fin=False) + frame(0, text[9:20], fin=False) + frame(0, text[20:]) for text in texts]
    control = [frame(9, b"ab"), frame(10, b""), frame(8, b"\x03\xe8bye"), frame(2, b"\0\1"), frame(0, b"", fin=False)]
    return [*whole, *split, *control, split[0][:-8] + control[0] + split[1], frame(1, b"[" * 300)]


def mutated(stream: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """One to four changes."""
    made = bytearray(stream)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(made) + 1)
        match dice.randrange(6):
            case 0 if at < len(made):
                made[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(made):
                made[min(at, 15) if at % 2 else at] = dice.choice((0, 1, 125, 126, 127, 128, 254, 255))
            case 2:
                del made[at : at + dice.randint(1, 8)]
            case 3:
                made[at:at] = dice.randbytes(dice.randint(1, 8))
            case 4:
                made[at:at] = made[at : at + dice.randint(1, 64)]
            case _:
                made[at:at] = dice.choice(others)
    return bytes(made)


async def attack(port: int, count: int, dice: random.Random) -> Counter[str]:
    """Send so many streams; how the connections ended."""
    valid, ends, left = seeds(), Counter[str](), count
    hello = frame(1, b'{"type":"hello","v":1}')

    async def go_on() -> None:
        nonlocal left
        while left > 0:
            number, left = min(left, STREAMS_PER_CONNECTION), left - STREAMS_PER_CONNECTION
            streams = b"".join(mutated(dice.choice(valid), valid, dice) for _ in range(number))
            ends[await send(port, UPGRADE + hello, streams)] += 1

    await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))
    return ends


async def send(port: int, opening: bytes, streams: bytes) -> str:
    """One connection; how it ended."""
    try:
        async with asyncio.timeout(ENOUGH_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(opening)
                await reader.readuntil(b'"subscriptions":1000}}')  # the end of `welcome`
                writer.write(streams)
                writer.write_eof()
                got = await reader.read()
            finally:
                writer.transport.abort()
    except TimeoutError:
        return "not closed"
    except asyncio.IncompleteReadError:
        return "not welcomed"
    except OSError:
        return "reset"
    said = re.findall(rb'"reason":"(\w+)"', got)
    return f"bye {said[-1].decode()}" if said else "closed"


async def innocent(port: int) -> None:
    """The client that does no harm: asks until its input ends, and prints how long the answers took, by second."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, lambda: ended.set() if not os.read(0, 64) else None)
    took: list[tuple[float, float]] = []
    async with connect(f"ws://127.0.0.1:{port}/v1/ws", compression=None) as socket:
        await socket.send('{"type":"hello","v":1}')
        await socket.recv()
        print("ready", flush=True)
        while not ended.is_set():
            began = time.perf_counter()
            await socket.send('{"type":"ping"}')
            while json.loads(await socket.recv())["type"] != "pong":
                await socket.send('{"type":"pong"}')
            took.append((time.time(), time.perf_counter() - began))
            await asyncio.sleep(PAUSE_SECONDS)
    print(json.dumps(took))


def memory_mib(pid: int, name: str) -> float:
    """`VmRSS` or `VmHWM` of a process."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """That a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def batter(folder: Path, count: int, seed: int, calm_seconds: float) -> int:
    """Start all, attack, and say what was seen; the exit status."""
    log_file = folder / "log"
    command = [sys.executable, "-m", "gateway", "serve", "--port", "0", "--data-dir", str(folder / "data")]
    unbound = {f"LEDGERWIRE_{name}": "0" for name in ("CONNECT_RATE", "LIMIT_PINGS_PER_SECOND")}
    with log_file.open("wb") as sink:
        gateway = subprocess.Popen(command, cwd=ROOT, stderr=sink, env=os.environ | unbound)
    try:
        while (
            found := re.search(
                r'"port":(\d+).*"event":"listening"|"event":"listening".*"port":(\d+)', log_file.read_text()
            )
        ) is None:
            if gateway.poll() is not None:
                sys.exit(f"The gateway did not start:\n{log_file.read_text()}")
            time.sleep(0.05)
        port = int(found[1] or found[2])
        again = [sys.executable, __file__, "--innocent", str(port)]
        beside = subprocess.Popen(again, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if beside.stdout is None or beside.stdout.readline() != "ready\n":
            sys.exit("The client that does no harm was not let in.")
        os.nice(10)  # what the attackers do to the gateway is measured, not their own hunger for cores
        asyncio.run(attack(port, 20_000, random.Random(seed + 1)))  # noqa: S311 - repeatable; what is made once and for all
        time.sleep(calm_seconds)
        calm_until, before = time.time(), memory_mib(gateway.pid, "VmRSS")
        used, began = cpu_seconds(gateway.pid), time.monotonic()
        ends = asyncio.run(attack(port, count, random.Random(seed)))  # noqa: S311 - repeatable
        took, used = time.monotonic() - began, cpu_seconds(gateway.pid) - used
        attacked_until = time.time()
        time.sleep(1.0)
        after = memory_mib(gateway.pid, "VmRSS")
        answers, _ = beside.communicate(timeout=ENOUGH_SECONDS)
        times: list[tuple[float, float]] = json.loads(answers)
    finally:
        gateway.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            gateway.wait(ENOUGH_SECONDS)
        gateway.kill()
    calm = [seconds for at, seconds in times if calm_until - calm_seconds < at < calm_until]
    busy = [seconds for at, seconds in times if calm_until <= at < attacked_until]
    lines = [json.loads(line) for line in log_file.read_text("utf-8").splitlines() if line.startswith("{")]
    faults = [line for line in lines if "exception" in line or line["level"] == "error"]
    print(f"seed {seed}: {count} streams in {took:.0f} s, {count / took:.0f} a second")
    print(f"the gateway was at work for {100 * used / took:.0f} % of the time")
    print("connections: " + ", ".join(f"{number} {end}" for end, number in ends.most_common()))
    for name, values in (("before", calm), ("meanwhile", busy)):
        shares = ", ".join(
            f"{label} {quantile(values, share):.1f} ms" for label, share in (("p50", 0.5), ("p99", 0.99))
        )
        print(f"the innocent {name}: {len(values)} answers, {shares}, longest {1000 * max(values, default=0):.1f} ms")
    print("(the longest bounds each stall of the event loop from above; the attackers want the same cores)")
    print(f"memory: {before:.1f} MiB before, {after:.1f} MiB after")
    print(f"faults in the log: {len(faults)}; exit status {gateway.returncode}")
    for fault in faults[:3]:
        print(json.dumps(fault)[:1_000])
    good = (
        not faults
        and gateway.returncode == 0
        and bool(busy)
        and after - before <= MOST_RSS_MIB
        and not ends["not closed"] + ends["not welcomed"]
    )
    print("good" if good else "FAILED")
    return 0 if good else 1


def main() -> int:
    """Read the command line; 1 when the gateway did not stand it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1_000_000, metavar="N", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), metavar="N", help="default: any")
    parser.add_argument("--calm-seconds", type=float, default=5.0, help="before it; default %(default)s")
    parser.add_argument("--innocent", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    if options.innocent:
        asyncio.run(innocent(options.innocent))
        return 0
    with tempfile.TemporaryDirectory(prefix="ledgerwire-batter-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        return batter(Path(folder), options.streams, options.seed, options.calm_seconds)


if __name__ == "__main__":
    sys.exit(main())
