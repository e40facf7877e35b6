"""Faults that were found once, each as the sequence of events that showed it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.limits.rates import Limits
from ledger.model import task_key
from ledger.settings import LedgerSettings
from tests.support.gateway import Gateway, GatewayProcess, in_process
from tests.support.limits import QUICK
from tests.support.waiting import eventually


async def health(gateway: Gateway) -> dict[str, object]:
    """`/health/live`, over a bare socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return {"ok": b"200 OK" in answer}


async def test_a_flood_of_pings_waits_and_is_answered(database: str) -> None:
    """Where pings have no limit 50,000 are answered; who sends them is not cut, and others are served meanwhile."""
    limits = Limits(pings_per_second=0)
    async with in_process(database, limits=limits) as gateway, gateway.client() as flood, gateway.client() as innocent:
        frames, per_frame = 100, 500

        async def send_all() -> None:
            for _ in range(frames):
                await flood.send_many([{"type": "ping"}] * per_frame)

        sending = asyncio.create_task(send_all())
        for number in range(20):
            assert (await innocent.ask(id=number, type="report", task_id="calm", progress=number))["ok"]
            assert (await health(gateway))["ok"]
        for _ in range(frames * per_frame):
            await flood.expect("pong")
        await sending


async def test_who_is_gone_leaves_no_watch_behind(database: str) -> None:
    """A connection is reset with a subscribe still unread behind thousands of reports: the hub keeps nothing of it."""
    async with GatewayProcess(database) as gateway:
        for round_ in range(3):
            async with gateway.client() as peer:
                for first in range(0, 5_500, 500):
                    await peer.send_many([{"type": "report", "task_id": f"r-{round_}-{first + i}"} for i in range(500)])
                await peer.send(
                    type="subscribe", id=1, tasks=[{"task_id": f"w-{i}"} for i in range(500)], wait_ms=60_000
                )
                raw = peer.socket.transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.socket.transport.abort()
        async with gateway.client() as peer:
            await peer.ask(type="report", task_id="still-there")
        assert await gateway.stop() == 0
        drained = next(entry for entry in gateway.log if entry["event"] == "drained")
        assert drained["topics"] == 0


async def test_a_hole_in_the_ledger_is_told_and_harms_nobody_else(database: str) -> None:
    """Somebody deletes a transition: its watcher is told that it jumped; other tasks of the node go on."""
    async with GatewayProcess(database) as here, GatewayProcess(database) as there:
        async with here.client() as watcher, there.client() as worker:
            await watcher.ask(type="subscribe", tasks=[{"task_id": "holed"}, {"task_id": "whole"}], wait_ms=60_000)
            for _ in range(2):
                await watcher.expect("subscribed", waiting=True)
            connection = await asyncpg.connect(database)
            async with connection.transaction():  # so that no node sees it before it is holed
                key = task_key("default", "holed")
                await connection.execute("lock ledger.transition in access exclusive mode")
                report = asyncio.create_task(worker.ask(type="report", task_id="ignored"))
                await asyncio.wait([report], timeout=0.05)
                for seq in (1, 3):
                    await connection.execute(
                        "insert into ledger.transition (key, seq, status, attempt, digest)"
                        " values ($1, $2, 'running', 0, gen_random_uuid())", key, seq,
                    )  # fmt: skip
                await connection.execute(
                    "insert into ledger.task (key, tenant, task_id, created, status, seq, attempt, n, data_seq,"
                    " result_seq, error_seq) values ($1, 'default', 'holed', false, 'running', 3, 0, 0, 0, 0, 0)", key,
                )  # fmt: skip
            await connection.close()
            await report
            await watcher.expect("transition", task_id="holed", seq=1)
            await watcher.expect("subscribed", task_id="holed", recovered=False, seq=3)
            await watcher.expect("notice", kind="jumped", reason="not_in_ledger")
            await watcher.expect("snapshot")
            await worker.ask(id=2, type="report", task_id="whole")
            await watcher.expect("transition", task_id="whole", seq=1)
        assert any(entry["event"] == "ledger_hole" for entry in here.log)


async def test_a_pipelining_worker_loses_nothing_to_an_answer_to_come_again(database: str) -> None:
    """While n=2 could not be written, 3 and 4 sent behind it are told to come again too; then all are there."""
    connection = await asyncpg.connect(database)
    settings = LedgerSettings(database_url=database, **QUICK)
    async with in_process(database, ledger=settings) as gateway, gateway.client() as worker:
        assert (await worker.ask(id=0, type="report", task_id="line", attempt=1, n=1))["ok"]
        async with connection.transaction():
            await connection.execute("lock ledger.transition in access exclusive mode")
            await worker.send(type="report", id=2, task_id="line", attempt=1, n=2, data="second")
            while (first := await worker.receive())["type"] == "notice":
                pass
        assert first["error"]["retryable"], first
        for n in (3, 4):
            await worker.send(id=n, type="report", task_id="line", attempt=1, n=n)
            while (refused := await worker.receive())["type"] == "notice":
                pass
            assert refused["error"]["code"] == "unavailable"
        for n in (2, 3, 4):
            data = {"data": "second"} if n == 2 else {}
            await worker.send(id=n, type="report", task_id="line", attempt=1, n=n, **data)
            while (answer := await worker.receive())["type"] == "notice":
                pass
            assert (answer["ok"], answer["seq"]) == (True, n)
    await connection.close()


async def test_repeats_on_a_long_task_are_found_by_an_index(database: str) -> None:
    """500 repeats of early reports on a task of 30,000 transitions are answered, each with its place."""
    connection = await asyncpg.connect(database)
    async with in_process(database) as gateway, gateway.client() as worker:
        for n in range(1, 501):
            await worker.send(type="report", id=n, task_id="long", attempt=1, n=n)
        for n in range(1, 501):
            await worker.expect("reply", id=n, seq=n)
        key = task_key("default", "long")
        await connection.execute(
            "insert into ledger.transition (key, seq, status, attempt, n, digest)"
            " select $1, i, 'running', 1, i, gen_random_uuid() from generate_series(501, 30000) i", key,
        )  # fmt: skip
        await connection.execute("update ledger.task set seq = 30000, n = 30000 where key = $1", key)
        await worker.send_many(
            [{"type": "report", "id": n, "task_id": "long", "attempt": 1, "n": n} for n in range(1, 501)]
        )
        for n in range(1, 501):
            await worker.expect("reply", id=n, ok=True, seq=n, repeat=True)
    await connection.close()


async def test_a_stop_answers_what_was_asked_first(database: str) -> None:
    """Reports on their way when SIGTERM comes are answered before goodbye: none is committed without its answer."""
    async with GatewayProcess(database, environment={"LEDGERWIRE_DRAIN_SECONDS": "4"}) as gateway:
        async with gateway.client() as worker:
            for first in range(0, 5_000, 500):
                numbers = range(first + 1, first + 501)
                await worker.send_many([{"type": "report", "id": n, "task_id": "last", "progress": 1} for n in numbers])
            await worker.expect("reply", id=1)
            os.kill(gateway.pid, signal.SIGTERM)
            answered = 1
            while (frame := await worker.receive())["type"] == "reply":
                answered += 1
            assert frame["type"] == "bye"
            await worker.socket.close()
        connection = await asyncpg.connect(database)
        committed = await connection.fetchval("select count(*) from ledger.transition")
        await connection.close()
        assert answered == committed
        await eventually(lambda: not gateway.running)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where also the account can go that PostgreSQL runs as when the tests are root's."""
    with tempfile.TemporaryDirectory(prefix="ledgerwire-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def postmaster(folder: Path) -> int:
    """The pid of the PostgreSQL that works there."""
    return int(next(folder.glob("postgres-*/postmaster.pid")).read_text().splitlines()[0])


async def test_the_end_of_its_own_database_ends_the_gateway(folder: Path) -> None:
    """A PostgreSQL that was killed does not come back by itself, so the process says so and ends with 69."""
    async with GatewayProcess(None, "--data-dir", str(folder)) as gateway:
        os.kill(postmaster(folder), signal.SIGKILL)
        assert await gateway.wait() == 69


async def test_sigterm_ends_the_wait_for_a_database(unused_tcp_port: int) -> None:
    """A gateway whose database is not there yet stops when it is told to, with 0."""
    gateway = GatewayProcess(f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nothing")
    starting = asyncio.create_task(gateway.start())
    await eventually(lambda: any(entry["event"] == "waiting_for_database" for entry in gateway.log))
    assert await gateway.stop() == 0
    with pytest.raises(AssertionError, match="before it listened"):
        await starting
