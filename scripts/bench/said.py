"""The verb `sql`: what an attached table costs those who write to it, and how soon what is said in SQL is seen."""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from array import array
from collections.abc import Awaitable, Callable

import aiohttp
import asyncpg
import orjson
from msgspec import Struct

from gateway.runtime import running
from gateway.settings import GatewaySettings
from ledger.settings import LedgerSettings
from scripts.bench import programs
from scripts.bench.machine import described
from scripts.bench.meter import Latency, latency
from scripts.bench.paper import Paper, plain, write_json
from scripts.bench.place import CannotMeasure, Place

HELP = "an attached table's cost for those who write to it, and how soon what is said in SQL is seen"
DESCRIPTION = """\
plain, attached   one-row updates of a column that is mirrored, per second, by --clients of pgbench, in turns; a gateway
                  is running and makes the transitions of it meanwhile
cost              how much longer a update takes where the table is attached; the median of all turns
p50, p99          from the beginning of a transaction with one change to the frame at a subscriber, one at a time
"""
TABLE = """
    create table job (task_id text primary key, status text, progress int, error_message text, filler text)
        with (fillfactor = 70);
    insert into job select 'task-' || i, 'running', 0, null, repeat('x', 200) from generate_series(1, 1000) i;
"""
ATTACH = """
    select ledger.attach('job', id => 'task_id', status => 'status', error => 'error_message', progress => 'progress',
        map => '{"queued": "pending", "running": "running", "done": "completed"}')
"""
UPDATE = r"""
\set i random(1, 1000)
update job set progress = (progress + 1) % 100 where task_id = 'task-' || :i;
"""


class Turn(Struct, frozen=True, kw_only=True):
    """Updates a second without and with the trigger, one just after the other."""

    plain: float
    attached: float

    @property
    def cost(self) -> float:
        """How much longer one takes; 0.25 is a quarter."""
        return self.plain / self.attached - 1


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this verb; `--runs` are turns."""
    parser.add_argument("--clients", type=int, default=8, help="of pgbench (default %(default)s)")
    parser.add_argument(
        "--changes", type=int, default=300, help="whose way is timed, of each kind (default %(default)s)"
    )


async def measure(place: Place, options: argparse.Namespace, paper: Paper) -> int:
    """Turns, then latencies."""
    program = programs.find("pgbench")
    if program is None:
        raise CannotMeasure("pgbench is not installed; on Debian and Ubuntu: apt-get install postgresql")
    await place.prepare()
    async with place.workspace() as dsn:
        connection = await asyncpg.connect(dsn)
        await connection.execute(TABLE + "select ledger.bind(current_user, 'default')")
        script = place.folder / "update.sql"
        script.write_text(UPDATE, "utf-8")
        flags = ["--no-vacuum", "--protocol=prepared", f"--client={options.clients}", "--jobs=1", f"--file={script}"]

        async def updates() -> float:
            said = await asyncio.to_thread(
                programs.output_of,
                [program, *flags, f"--time={max(1, round(options.seconds))}", dsn],
                timeout_seconds=options.seconds + 60,
            )
            return float(said.split("tps = ")[1].split()[0])

        settings = GatewaySettings(ledger=LedgerSettings(database_url=dsn), port=0, drain_seconds=1.0)
        async with running(settings, dsn) as port:
            turns = []
            for _ in range(options.runs):
                before = await updates()
                await connection.execute(ATTACH)
                turns.append(Turn(plain=before, attached=await updates()))
                await connection.execute("select ledger.detach('job')")
            await connection.execute(ATTACH)
            seen = {
                "ledger.report": await _way(port, options.changes, lambda i: _reported(connection, i)),
                "attached": await _way(port, options.changes, lambda i: _updated(connection, i)),
            }
        await connection.close()
    _print(paper, turns, seen)
    write_json(options.json, {"machine": plain(described(place)), "turns": plain(turns), "seen": plain(seen)})
    return 0


async def _reported(connection: asyncpg.Connection[asyncpg.Record], place: int) -> None:
    await connection.fetch("select ledger.report('task-1', message => $1)", f"{place}")


async def _updated(connection: asyncpg.Connection[asyncpg.Record], place: int) -> None:
    await connection.execute("update job set progress = $1 where task_id = 'task-1'", place % 100)


async def _way(port: int, changes: int, change: Callable[[int], Awaitable[None]]) -> Latency:
    """From the change to the frame, one at a time."""
    seconds = array("d")
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/v1/ws") as socket:
        await socket.send_json({"type": "hello", "v": 1})
        wanted = {"type": "subscribe", "id": 1, "tasks": [{"task_id": "task-1"}], "wait_ms": 60_000}
        await change(-1)
        await socket.send_json(wanted)
        await _frame(socket, "snapshot")
        for place in range(changes):
            await asyncio.sleep(random.uniform(0.005, 0.15))  # noqa: S311 - spreads, guards nothing
            began = time.monotonic()
            await change(place)
            await _frame(socket, "transition")
            seconds.append(time.monotonic() - began)
    return latency(seconds)


async def _frame(socket: aiohttp.ClientWebSocketResponse, kind: str) -> None:
    async with asyncio.timeout(10):
        while orjson.loads(await socket.receive_str())["type"] != kind:
            pass


def _print(paper: Paper, turns: list[Turn], seen: dict[str, Latency]) -> None:
    paper.table(
        "One-row updates a second",
        ("turn", "plain", "attached", "cost %"),
        [(f"{place}", turn.plain, turn.attached, round(100 * turn.cost, 1)) for place, turn in enumerate(turns, 1)],
    )
    paper.say(f"cost: {100 * statistics.median(turn.cost for turn in turns):.0f} %")
    rows = [(name, each.p50_ms, each.p99_ms, each.max_ms) for name, each in seen.items()]
    paper.table("From SQL to a subscriber, ms", ("said by", "p50", "p99", "longest"), rows)
