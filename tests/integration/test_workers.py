"""`serve --workers`: several processes on one port, as an operator meets them. Real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from gateway.drain import MARGIN_SECONDS
from gateway.listening import CannotServe
from gateway.place import VARIABLE
from gateway.settings import GatewaySettings, default_bus
from gateway.siblings import meeting_place
from gateway.workers import GaveUp, Plan, reserve, supervise
from ledger.errors import SettingsError
from ledger.settings import LedgerSettings
from tests.support.gateway import Gateway, GatewayProcess, Peer
from tests.support.limits import ENVIRONMENT as LIMITS
from tests.support.postgres import temporary_folder
from tests.support.waiting import eventually

WINDOW_SECONDS = 4
ENVIRONMENT = {"LEDGERWIRE_DRAIN_SECONDS": str(WINDOW_SECONDS)}


def entries(gateway: GatewayProcess, event: str) -> list[dict[str, Any]]:
    """What the log holds of this event."""
    return [entry for entry in gateway.log if entry["event"] == event]


def pids(gateway: GatewayProcess) -> dict[int, int]:
    """The pid of each place's newest process that was ready."""
    return {entry["process"]: entry["pid"] for entry in entries(gateway, "process_ready")}


def is_there(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def process_of(gateway: GatewayProcess, peer: Peer) -> int:
    """To which process this client is connected."""

    def found() -> int:
        opened = [entry for entry in entries(gateway, "session_opened") if entry["session"] == peer.welcome["session"]]
        return int(opened[0]["process"]) if opened else 0

    return int(await eventually(found, what="the session in the log"))


@asynccontextmanager
async def client_at(gateway: GatewayProcess, number: int) -> AsyncIterator[Peer]:
    """A client of this process: the kernel deals connections out, so it may take some tries."""
    for _ in range(100):
        async with gateway.client() as peer:
            if await process_of(gateway, peer) == number:
                yield peer
                return
    raise AssertionError(f"the kernel never chose process {number}")


async def test_what_one_process_is_told_the_other_shows(database: str) -> None:
    """Two processes serve one port; a task is reported to one and watched on the other."""
    async with GatewayProcess(database, "--workers", "2", environment=ENVIRONMENT) as gateway:
        (listening,) = entries(gateway, "listening")
        assert (listening["port"], listening["workers"]) == (gateway.port, 2)
        assert sorted(pids(gateway)) == [1, 2]
        async with client_at(gateway, 1) as worker, client_at(gateway, 2) as watcher:
            assert (await worker.ask(id=1, type="report", task_id="far", attempt=1, n=1))["ok"]
            await watcher.ask(type="subscribe", tasks=[{"task_id": "far"}])
            await watcher.expect("subscribed", verdict="live")
            await watcher.expect("snapshot")
            assert (await worker.ask(id=2, type="report", task_id="far", attempt=1, n=2, progress=7))["ok"]
            await watcher.expect("transition", seq=2, progress=7)
        for pid in pids(gateway).values():
            command = await asyncio.to_thread(Path(f"/proc/{pid}/cmdline").read_bytes)
            assert b"serve" in command
            assert b"postgresql:" not in command  # its password is nobody's business
        with pytest.raises(CannotServe, match="Another program may be using the port"):
            reserve("127.0.0.1", gateway.port)


async def test_a_killed_process_is_started_again(database: str) -> None:
    """The others go on meanwhile; the new one has the same place."""
    kills = 3
    async with GatewayProcess(database, "--workers", "2", environment=ENVIRONMENT) as gateway:
        async with client_at(gateway, 1) as steady:
            for kill in range(kills):
                before = pids(gateway)
                os.kill(before[2], signal.SIGKILL)
                assert (await steady.ask(id=kill, type="report", task_id="on", attempt=1, n=kill + 1))["ok"]
                await eventually(lambda was=before[2]: pids(gateway)[2] != was, within_seconds=30)  # type: ignore[misc]
                assert pids(gateway)[1] == before[1]
        ended = entries(gateway, "process_ended")
        assert [(entry["process"], entry["status"]) for entry in ended] == [(2, 128 + signal.SIGKILL)] * kills
        async with client_at(gateway, 2) as peer:
            assert (await peer.ask(id=9, type="report", task_id="on", attempt=1, n=kills + 1))["seq"] == kills + 1


async def test_a_process_that_hangs_is_replaced(database: str) -> None:
    """The kernel would deal connections to it for ever. Those that give signs of life are left alone."""
    held, port = reserve("127.0.0.1", 0)

    async def nothing() -> None:
        pass

    with meeting_place() as folder, structlog.testing.capture_logs() as log:
        serving = Plan(
            workers=2,
            host="127.0.0.1",
            port=port,
            arguments=("serve", "--port", str(port)),
            environment={**ENVIRONMENT, **LIMITS, "DATABASE_URL": database, "LEDGERWIRE_BUS": "local"},
            folder=folder,
            drain_seconds=WINDOW_SECONDS,
            start_seconds=30.0,
            facts={},
            silent_looks=6,
        )

        def told(event: str) -> list[int]:
            return [entry["pid"] for entry in log if entry["event"] == event]

        supervising = asyncio.create_task(supervise(serving, prepare=nothing, database_runs=lambda: True))
        try:
            await eventually(lambda: len(told("process_ready")) == 2)
            hangs, lives = told("process_ready")
            os.kill(hangs, signal.SIGSTOP)
            await eventually(lambda: len(told("process_ready")) == 3)
            assert told("process_hangs") == told("process_ended") == [hangs]
            assert not is_there(hangs)
            assert is_there(lives)
            async with Gateway(port).client() as peer:
                assert (await peer.ask(id=1, type="report", task_id="on"))["ok"]
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await supervising
        assert told("process_hangs") == [hangs]
    for each in held:
        each.close()


async def test_a_stop_reaches_every_client_of_every_process(database: str) -> None:
    """All drain at once: each client hears when to come back, and nothing is left."""
    async with (
        GatewayProcess(database, "--workers", "3", environment=ENVIRONMENT) as gateway,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(gateway.client()) for _ in range(30)]
        served = {await process_of(gateway, peer) for peer in clients}
        assert len(served) > 1, "the kernel chose one process for all 30"
        left = pids(gateway)
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        byes = await asyncio.gather(*(peer.expect("bye", code=4000, reason="shutting_down") for peer in clients))
        assert await gateway.wait() == 0
        assert time.monotonic() - began < WINDOW_SECONDS + MARGIN_SECONDS
        hints = [bye["retry_after_ms"] for bye in byes]
        assert all(0 <= hint <= 1000 * WINDOW_SECONDS for hint in hints)
        assert len(set(hints)) > len(clients) / 2
        assert [entry["left"] for entry in entries(gateway, "drained")] == [0, 0, 0]
        assert not any(is_there(pid) for pid in left.values())
        assert not [entry for entry in gateway.log if entry.get("level") == "error"], gateway.log


async def test_a_second_signal_ends_all_at_once(database: str) -> None:
    """Also where a process would take its time."""
    environment = {"LEDGERWIRE_DRAIN_SECONDS": "120"}
    async with GatewayProcess(database, "--workers", "2", environment=environment) as gateway, gateway.client() as peer:
        peer.socket.transport.pause_reading()  # it does not take its goodbye
        gateway.signal(signal.SIGTERM)
        await eventually(lambda: entries(gateway, "stopping"))
        gateway.signal(signal.SIGTERM)
        began = time.monotonic()
        assert await gateway.wait() == -signal.SIGTERM
        await eventually(lambda: not any(is_there(pid) for pid in pids(gateway).values()))
        assert time.monotonic() - began < 5


async def test_nothing_outlives_a_killed_supervisor() -> None:
    """Neither a process nor the PostgreSQL that is the supervisor's; it can be started again at once."""
    with temporary_folder() as folder, temporary_folder() as meeting:
        arguments = ("--workers", "2", "--data-dir", str(folder))
        environment = {**ENVIRONMENT, "TMPDIR": str(meeting)}
        async with GatewayProcess(None, *arguments, environment=environment) as gateway:
            async with gateway.client() as peer:
                assert (await peer.ask(id=1, type="report", task_id="kept", attempt=1, n=1))["ok"]
            (postmaster,) = folder.glob("postgres-*/postmaster.pid")
            left = [*pids(gateway).values(), int(postmaster.read_text().split()[0])]
            assert all(is_there(pid) for pid in left)
            await gateway.stop(signal.SIGKILL)
            await gateway.start()
            assert not any(is_there(pid) for pid in left)
            assert len([*meeting.glob("ledgerwire-workers-*")]) == 1
            async with gateway.client() as peer:
                assert (await peer.ask(id=1, type="report", task_id="kept", attempt=1, n=2))["seq"] == 2
            assert await gateway.stop() == 0
        assert [*meeting.glob("ledgerwire-workers-*")] == []


async def test_a_reload_replaces_one_process_after_the_other(database: str, tmp_path: Path) -> None:
    """With the token file as it is then; somebody serves at every moment; a wrong file changes nothing."""
    old, new = secrets.token_hex(20), secrets.token_hex(20)
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"default alice {old}\n")
    options = ("--workers", "2", "--token-file", str(tokens))
    async with GatewayProcess(database, *options, environment=ENVIRONMENT) as gateway:
        first = pids(gateway)
        tokens.write_text(f"default alice {new}\n")
        done = asyncio.Event()

        async def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{gateway.http}/v1/tasks", headers=headers) as answer,
            ):
                return answer.status

        async def knock() -> list[int]:
            """Somebody who connects again and again."""
            seen = []
            while not done.is_set():
                try:
                    seen.append(await status(new))
                except (aiohttp.ServerDisconnectedError, ConnectionResetError) as error:
                    seen.append(0)
                    print(f"cut off: {error!r}")  # noqa: T201
            return seen

        assert (await status(old), await status(new)) == (200, 401)
        knocking = asyncio.create_task(knock())
        async with client_with(gateway, old) as peer:
            gateway.signal(signal.SIGHUP)
            bye = await peer.receive(seconds=60)
            assert (bye["type"], bye["reason"]) == ("bye", "shutting_down")
        await eventually(lambda: entries(gateway, "reloaded"), within_seconds=60)
        done.set()
        answers = await knocking
        # The kernel may complete a connection to a process in the instant in which that one closes its socket.
        assert answers.count(0) <= 2
        assert set(answers) <= {0, 200, 401}
        assert answers[-1] == 200
        assert len(answers) > 10
        assert (await status(old), await status(new)) == (401, 200)
        second = pids(gateway)
        assert set(first.values()).isdisjoint(second.values())
        assert not any(is_there(pid) for pid in first.values())

        tokens.write_text("default alice short\n")
        gateway.signal(signal.SIGHUP)
        (failed,) = await eventually(lambda: entries(gateway, "reload_failed"), within_seconds=60)
        assert failed["status"] == 78
        assert "token" in failed["detail"]
        assert await status(new) == 200
        assert all(is_there(pid) for pid in second.values())
        assert await gateway.stop() == 0


@asynccontextmanager
async def client_with(gateway: GatewayProcess, token: str) -> AsyncIterator[Peer]:
    async with gateway.client(hello=False) as peer:
        await peer.send(type="hello", v=1, token=token)
        await peer.expect("welcome")
        yield peer


def plan(program: Path, folder: str) -> Plan:
    """A plan for another program than the gateway: one that fails."""
    return Plan(
        workers=2,
        host="127.0.0.1",
        port=1,
        arguments=(),
        environment={},
        folder=folder,
        drain_seconds=1.0,
        start_seconds=0.0,
        facts={},
        program=program,
    )


@pytest.mark.parametrize(
    ("status", "sentence", "starts"),
    [(78, "The port is a colour.", {1, 2}), (69, "", {3, 4, 5, 6})],
    ids=["a wrong setting", "again and again"],
)
async def test_what_cannot_start_ends_all(tmp_path: Path, status: int, sentence: str, starts: set[int]) -> None:
    """With the process's own exit status and sentence: a wrong setting at once, anything else after three tries."""
    program, count = tmp_path / "program.py", tmp_path / "count"
    program.write_text(
        "import json, os, sys\n"
        f"open({str(count)!r}, 'a').write('x')\n"
        f"pipe = json.loads(os.environ[{VARIABLE!r}])['pipe']\n"
        f"os.write(pipe, json.dumps({{'status': {status}, 'sentence': {sentence!r}}}).encode() + b'\\n')\n"
        f"sys.exit({status})\n"
    )

    async def nothing() -> None:
        pass

    with meeting_place() as folder, pytest.raises(GaveUp) as gave_up:
        async with asyncio.timeout(30):
            await supervise(plan(program, folder), prepare=nothing, database_runs=lambda: True)
    assert gave_up.value.status == status
    assert gave_up.value.sentence == sentence or "again and again (status 69)" in gave_up.value.sentence
    assert len(count.read_text()) in starts


def test_a_port_is_reserved_before_anybody_listens() -> None:
    """Also one that the system chooses; a stranger cannot have it, a process of ours can listen beside."""
    held, port = reserve("127.0.0.1", 0)
    try:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        with pytest.raises(CannotServe):
            reserve("127.0.0.1", port)
        with socket.socket() as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            ours.bind(("127.0.0.1", port))
            ours.listen()
            for _ in range(20):  # none of them is dealt to the socket that does not listen
                with socket.create_connection(("127.0.0.1", port), timeout=5):
                    ours.accept()[0].close()
    finally:
        for each in held:
            each.close()


def test_the_number_of_workers_is_checked() -> None:
    """One by default, and no slip of the pen."""
    ledger = LedgerSettings()
    assert GatewaySettings(ledger=ledger).workers == 1
    assert GatewaySettings.compose({"LEDGERWIRE_WORKERS": "4"}).workers == 4
    for wrong in (0, -1, 10_000):
        with pytest.raises(SettingsError, match="workers"):
            GatewaySettings(ledger=ledger, workers=wrong)


def test_one_process_needs_no_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tell each other by NOTIFY; more by a NATS server, where there is one."""
    program = tmp_path / "nats-server"
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert [default_bus(workers, tmp_path) for workers in (1, 2, 3)] == ["local", "postgres", "postgres"]
    program.touch(mode=0o700)
    assert [default_bus(workers, tmp_path) for workers in (1, 2, 3)] == ["local", "postgres", "nats"]


async def test_a_place_is_given_by_a_supervisor_only(database: str) -> None:
    """A variable of ours that somebody has set by hand is refused with its name."""
    for wrong in ("2", '{"number":1,"pipe":999,"folder":"/"}'):
        with pytest.raises(AssertionError, match="LEDGERWIRE_PLACE is for"):
            await GatewayProcess(database, environment={VARIABLE: wrong}).start()
