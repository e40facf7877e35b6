"""The epoch: whoever followed a history that was taken back is told so, whatever else happens at that moment.

Everything here is real: gateway processes, databases that are swapped under them, and clients that hold cursors. What
a client was shown is compared with the tables of the history it was shown from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import pytest
from websockets.exceptions import ConnectionClosed

from ledger.model import task_key
from tests.integration.test_command_line import ledgerwire
from tests.support.backup import back_up, restore
from tests.support.gateway import Gateway, GatewayProcess, Peer
from tests.support.postgres import Cluster, drop_database
from tests.support.waiting import eventually

PATIENCE_SECONDS = 60.0
TASKS = ("one", "two", "three")
YOUNG = "born-after-the-backup"
CLIENTS = 3  # per task


async def epoch_of(dsn: str) -> str:
    """The epoch as it stands in the table."""
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        return str(await connection.fetchval("select epoch from ledger.epoch"))
    finally:
        await connection.close()


async def told_by(dsn: str, task_id: str) -> dict[int, str | None]:
    """What each transition of a task says, as it stands in the table."""
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        rows = await connection.fetch(
            "select seq, message from ledger.transition where key = $1::text::uuid order by seq",
            task_key("default", task_id),
        )
    finally:
        await connection.close()
    return {row["seq"]: row["message"] for row in rows}


class Stream:
    """What a client was shown without a jump: of one epoch, from `first` on, each with what it said."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.shown: dict[int, str | None] = {}

    @property
    def last(self) -> int:
        return max(self.shown, default=0)


class Client:
    """Follows one task over raw frames as docs/protocol.md says, through every end of a connection."""

    def __init__(self, gateway: Gateway, task_id: str) -> None:
        self.gateway = gateway
        self.task_id = task_id
        self.streams: list[Stream] = []
        self.byes: list[str] = []
        self.jumps: list[str] = []

    @property
    def cursor(self) -> dict[str, Any] | None:
        return {"epoch": self.streams[-1].epoch, "seq": self.streams[-1].last} if self.streams else None

    async def follow(self) -> None:
        """Until the task has ended."""
        ended = False
        while not ended:
            with contextlib.suppress(ConnectionClosed, OSError, EOFError):
                async with self.gateway.client() as peer:
                    ended = await self._follow(peer)

    async def _follow(self, peer: Peer) -> bool:
        after = self.cursor
        task = {"task_id": self.task_id} | ({} if after is None else {"after": after})
        await peer.send(type="subscribe", id=1, tasks=[task], wait_ms=60_000)
        while True:
            frame = await peer.receive(seconds=PATIENCE_SECONDS)
            match frame["type"]:
                case "subscribed" if frame["recovered"] and after is not None:
                    assert after["epoch"] == frame["epoch"], "to go on in another epoch is no recovery"
                case "subscribed":
                    self.streams.append(Stream(frame["epoch"]))
                case "notice" if frame["kind"] == "jumped":
                    assert frame["from"] == after
                    assert frame["to"]["epoch"] == self.streams[-1].epoch
                    self.jumps.append(frame["reason"])
                case "snapshot":
                    assert not self.streams[-1].shown
                    self.streams[-1].shown[frame["task"]["seq"]] = frame["task"]["message"]
                case "transition":
                    assert frame["seq"] == self.streams[-1].last + 1, "a stream has no hole"
                    self.streams[-1].shown[frame["seq"]] = frame["message"]
                case "bye":
                    assert frame["retry"]
                    self.byes.append(frame["reason"])
                    return False
            if (frame.get("task") or frame).get("status") == "completed":
                return True

    def check(self, histories: dict[str, dict[int, str | None]]) -> None:
        """All that was shown is true of the history that it was shown from, and each change of history was told."""
        for stream in self.streams:
            of_the_ledger = histories[stream.epoch]
            assert stream.shown == {seq: of_the_ledger.get(seq) for seq in stream.shown}, (self.task_id, stream.epoch)
        assert len(self.jumps) == len(self.streams) - 1, "whoever begins anew is told so"
        assert self.streams[-1].last == max(histories[self.streams[-1].epoch])


class Worker:
    """Reports numbers, each until it is answered, and keeps the answers."""

    def __init__(self, gateway: Gateway, task_id: str) -> None:
        self.gateway = gateway
        self.task_id = task_id
        self.accepted: list[tuple[int, int]] = []
        self.stop = asyncio.Event()

    async def work(self) -> None:
        """Until it is stopped; the last report completes the task."""
        n = 1
        while True:
            with contextlib.suppress(ConnectionClosed, OSError, EOFError):
                async with self.gateway.client() as peer:
                    while True:
                        last = self.stop.is_set()
                        reply = await self.report(peer, n, **({"status": "completed"} if last else {}))
                        if reply["type"] == "bye":
                            break
                        if not reply["ok"]:
                            assert reply["error"]["retryable"], reply
                            continue
                        self.accepted.append((n, reply["seq"]))
                        n += 1
                        if last:
                            return

    async def report(self, peer: Peer, n: int, **members: Any) -> dict[str, Any]:
        """The answer to a report of this number, or a bye."""
        await peer.send(type="report", id=n, task_id=self.task_id, attempt=1, n=n, message=f"said as {n}", **members)
        while (frame := await peer.receive())["type"] not in {"reply", "bye"}:
            pass
        return frame


@pytest.fixture
async def two(database: str) -> AsyncIterator[tuple[GatewayProcess, GatewayProcess]]:
    async with GatewayProcess(database) as here, GatewayProcess(database) as there:
        yield here, there


async def test_the_command_shows_the_epoch_and_begins_a_new_one(database: str) -> None:
    """`show` changes nothing; `new` prints the old and the new one; where there is no ledger, 78 and why."""
    before = await epoch_of(database)
    status, out, _ = await ledgerwire("epoch", "show", DATABASE_URL=database)
    assert (status, out.split()[0]) == (0, before)
    status, out, _ = await ledgerwire("epoch", "new", DATABASE_URL="", LEDGERWIRE_DIRECT_DATABASE_URL=database)
    after = await epoch_of(database)
    assert (status, out) == (0, f"{before} -> {after}\n")
    assert after != before
    _, out, _ = await ledgerwire("epoch", "--help")
    assert all(when in out for when in ("restoring a backup", "point-in-time recovery", "failover"))


async def test_the_command_says_what_is_wrong_with_the_database(empty_database: str) -> None:
    """No ledger: 78. Nobody there: 69. Neither tells the password."""
    status, _, error = await ledgerwire("epoch", "new", DATABASE_URL=empty_database)
    assert (status, "no ledger" in error) == (78, True), error
    nowhere = "postgresql://ledgerwire:secret@127.0.0.1:1/ledgerwire"
    status, _, error = await ledgerwire("epoch", "show", DATABASE_URL=nowhere)
    assert (status, "127.0.0.1:1" in error, "secret" in error) == (69, True, False), error


async def test_everyone_is_told_of_a_new_epoch(database: str) -> None:
    """Watcher, worker, event stream and waiting request: each hears of it, and what it asks next is in the new one."""
    sent = asyncio.Event()

    async def note_sent(_: object, __: object, request: aiohttp.TraceRequestHeadersSentParams) -> None:
        if "Prefer" in request.headers:
            sent.set()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(note_sent)
    async with GatewayProcess(database) as gateway, aiohttp.ClientSession(gateway.http, trace_configs=[trace]) as http:
        async with gateway.client() as watcher, gateway.client() as worker:
            before = watcher.epoch
            for n in (1, 2):
                assert (await worker.ask(id=n, type="report", task_id="t", attempt=1, n=n))["ok"]
            await watcher.ask(type="subscribe", tasks=[{"task_id": "t", "after": {"epoch": before, "seq": 2}}])
            await watcher.expect("subscribed", recovered=True)
            etag = (await http.get("/v1/tasks/t")).headers["ETag"]
            assert etag == f'"{before}:2"'
            events = await http.get("/v1/tasks/t/events", headers={"Last-Event-ID": f"{before}:2"})
            await read_until(events, b'"recovered":true')
            waiting = asyncio.create_task(
                http.get("/v1/tasks/t", params={"after": "2"}, headers={"Prefer": "wait=60", "If-None-Match": etag})
            )
            await asyncio.wait_for(sent.wait(), PATIENCE_SECONDS)
            assert (
                await http.get("/v1/tasks/t")
            ).status == 200  # which reads the ledger, as the one that waits did before
            assert (await ledgerwire("epoch", "new", DATABASE_URL=database))[0] == 0
            after = await epoch_of(database)
            for peer in (watcher, worker):
                bye = await peer.expect("bye", code=4006, reason="epoch_changed", retry=True)
                assert 0 <= bye["retry_after_ms"] <= 3_000
                assert await peer.closed() == 4006
            await read_until(events, b"event: bye")
            answer = await asyncio.wait_for(waiting, PATIENCE_SECONDS)
            assert (answer.status, answer.headers["ETag"]) == (200, f'"{after}:2"'), "the sequence is the same"
        polled = await (await http.get("/v1/poll", params={"ids": "t", "after": "2", "epoch": before})).json()
        assert (polled["epoch"], polled["tasks"][0]["task"]["seq"]) == (after, 2)
        async with gateway.client() as watcher:
            assert watcher.epoch == after
            await watcher.ask(type="subscribe", tasks=[{"task_id": "t", "after": {"epoch": before, "seq": 2}}])
            await watcher.expect("subscribed", recovered=False)
            await watcher.expect("notice", kind="jumped", reason="other_epoch", to={"epoch": after, "seq": 2})
            assert (await watcher.expect("snapshot"))["task"]["seq"] == 2
        again = await http.get("/v1/tasks/t/events", headers={"Last-Event-ID": f"{before}:2"})
        await read_until(again, b'"reason":"other_epoch"')
        again.close()


async def read_until(events: aiohttp.ClientResponse, words: bytes) -> None:
    got = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while words not in got:
            chunk = await events.content.readany()
            assert chunk, f"the stream ended before {words!r}: {got!r}"
            got += chunk


@pytest.mark.parametrize("declared", ["before", "after", "never"])
async def test_a_restore_under_running_gateways_misleads_nobody(
    two: tuple[GatewayProcess, GatewayProcess], database: str, cluster: Cluster, declared: str
) -> None:
    """Two nodes, workers that go on reporting, clients with cursors of what is lost.

    Declared before the database is put in place, afterwards, or never: nobody is shown a mixture of two histories.
    """
    clients = [Client(two[i % 2], task_id) for task_id in (*TASKS, YOUNG) for i in range(CLIENTS)]
    workers = [Worker(two[0], task_id) for task_id in TASKS]
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        for each in clients:
            group.create_task(each.follow())
        for worker in workers:
            group.create_task(worker.work())
        await eventually(lambda: min(len(worker.accepted) for worker in workers) > 20)
        backup = await back_up(cluster, database)
        workers.append(Worker(two[0], YOUNG))
        group.create_task(workers[-1].work())
        kept = [len(worker.accepted) for worker in workers]
        await eventually(lambda: all(len(w.accepted) > k + 20 for w, k in zip(workers, kept, strict=True)))
        await eventually(lambda: all(c.streams and c.streams[-1].last > 15 for c in clients))
        if declared == "before":
            assert (await ledgerwire("epoch", "new", DATABASE_URL=backup))[0] == 0
        lost = await restore(cluster, database, backup)
        if declared == "after":
            assert (await ledgerwire("epoch", "new", DATABASE_URL=database))[0] == 0
        reached = [len(worker.accepted) for worker in workers]
        await eventually(lambda: all(len(w.accepted) > r + 20 for w, r in zip(workers, reached, strict=True)))
        for worker in workers:
            worker.stop.set()
    old, new = await epoch_of(lost), await epoch_of(database)
    assert old != new
    for client in clients:
        before, after = await told_by(lost, client.task_id), await told_by(database, client.task_id)
        epochs = {stream.epoch for stream in client.streams}
        client.check({epoch: before if epoch == old else after for epoch in epochs})
        assert client.streams[0].epoch == old
        assert client.streams[-1].epoch == new
    assert {"epoch_changed"} <= {bye for client in clients for bye in client.byes}
    for worker in workers:
        ended = await told_by(database, worker.task_id)
        numbers = [int(str(message).rpartition(" ")[2]) for message in ended.values()]
        assert numbers == sorted(set(numbers)), "each number once, in the worker's order"
        assert numbers[-1] == worker.accepted[-1][0]
        assert len(numbers) < numbers[-1], "what was lost is not made up"
    loud = [entry for gateway in two for entry in gateway.log if entry["event"] == "ledger_rewound"]
    assert declared != "never" or "ledgerwire epoch new" in loud[0]["detail"]
    assert declared != "before" or not loud
    await drop_database(cluster, lost)


@pytest.mark.parametrize("task_id", ["kept-in-part", "lost-as-a-whole"])
async def test_a_rewind_that_nobody_speaks_of_is_seen_where_somebody_watches(
    database: str, cluster: Cluster, task_id: str
) -> None:
    """No report comes any more: the re-read finds the task behind what was sent, begins an epoch, tells the client."""
    async with GatewayProcess(database) as gateway:
        async with gateway.client() as worker:
            assert (await worker.ask(type="report", task_id="kept-in-part", progress=1))["ok"]
        backup = await back_up(cluster, database)
        async with gateway.client() as watcher:
            await watcher.ask(type="subscribe", tasks=[{"task_id": task_id}], wait_ms=60_000)
            while (await watcher.receive())["type"] != ("snapshot" if task_id == "kept-in-part" else "subscribed"):
                pass
            await eventually(lambda: reported(gateway, task_id), what="the ledger is back")
            seen = await watcher.receive()
            while seen["type"] == "notice":  # of the cut for the backup
                seen = await watcher.receive()
            assert seen["type"] == "transition"
            cursor = {"epoch": watcher.epoch, "seq": seen["seq"]}
            lost = await restore(cluster, database, backup)
            while (frame := await watcher.receive())["type"] == "notice":
                assert frame["kind"] in {"degraded", "restored"}
            assert (frame["type"], frame["reason"]) == ("bye", "epoch_changed")
        async with gateway.client() as watcher:
            assert watcher.epoch == await epoch_of(database) != cursor["epoch"]
            await watcher.ask(type="subscribe", tasks=[{"task_id": task_id, "after": cursor}])
            known = {"verdict": "live", "seq": 1} if task_id == "kept-in-part" else {"verdict": "unknown", "seq": 0}
            await watcher.expect("subscribed", recovered=False, **known)
            await watcher.expect("notice", kind="jumped", **{"from": cursor}, reason="other_epoch")
        (loud,) = [entry for entry in gateway.log if entry["event"] == "ledger_rewound"]
        assert (loud["level"], loud["known_seq"], loud["found_seq"]) == ("error", cursor["seq"], known["seq"])
        assert "`ledgerwire epoch new`" in loud["detail"]
    await drop_database(cluster, lost)


async def reported(gateway: Gateway, task_id: str) -> bool:
    """Whether a report on the task was accepted."""
    async with gateway.client() as worker:
        await worker.send(type="report", id=1, task_id=task_id, key="1", progress=2)
        while (frame := await worker.receive())["type"] != "reply":
            pass
        return bool(frame["ok"])
