"""pgbench with the statement that the writer sends for one report: what PostgreSQL does without group commit.

The script is the writer's own SQL with each argument replaced by what the writer gives for one numbered report of a
running task, in sessions with the writer's settings for plans. Each client works in turn on tasks of its own, so that
it knows the sequence that the compare-and-set expects without asking: every statement appends exactly one transition.
The key is computed from the task's id in SQL, which costs about two microseconds.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ledger.arguments import advance_arguments
from ledger.batch import Entry, fold
from ledger.machine import Status
from ledger.model import State, task_key
from ledger.pool.dial import INDEX_PLANS
from ledger.sql import query
from scripts.bench import programs
from scripts.bench.meter import tree_cpu_seconds
from scripts.bench.place import CannotMeasure, Place
from scripts.bench.workloads import TENANT, Workload, numbered
from scripts.bench.writing import accepted, running_writer

CLIENTS: Final = (1, 2, 4, 8, 16, 32)
OPENING_SEQ: Final = 2
"""Where a task of a workload stands after its opening; its `n` is 1 there."""
_SET: Final = re.compile(r"set (\w+) = (\w+)")
_PLACEHOLDER: Final = re.compile(r"\$(\d+)\b")
# Numbers that cannot occur by chance; in the script each becomes the variable of pgbench that stands for it.
_NEXT, _N = 1_000_000_002, 1_000_000_003


class PgbenchPoint(Struct, frozen=True, kw_only=True):
    """One number of clients. `applied` is the share of statements that appended a transition: 1."""

    clients: int
    per_second: float
    latency_ms: float
    postgres_cpu_us: float | None
    applied: float


async def measure_pgbench(place: Place, *, seconds: float, clients: Sequence[int], tasks: int) -> list[PgbenchPoint]:
    """Each number of clients for so long, on fresh tasks. Raises `CannotMeasure` without pgbench."""
    program = programs.find("pgbench")
    if program is None:
        raise CannotMeasure("pgbench is not installed; on Debian and Ubuntu: apt-get install postgresql")
    async with place.workspace() as dsn:
        return [await _point(place, dsn, program, seconds=seconds, clients=count, tasks=tasks) for count in clients]


async def _point(place: Place, dsn: str, program: Path, *, seconds: float, clients: int, tasks: int) -> PgbenchPoint:
    workload = Workload("steady", f"pgbench{clients}-{secrets.token_hex(4)}", tasks=tasks)
    async with running_writer(place, dsn) as bench:
        await accepted(bench, workload.opening())
        await bench.connection.execute("checkpoint", timeout=600)
        stored = await bench.stored()
        script = place.folder / f"append-{clients}.sql"
        script.write_text(script_for(workload, span=max(1, tasks // clients)), "utf-8")
        whole_seconds = max(1, round(seconds))
        options = ["--no-vacuum", "--protocol=prepared", "--define=k=-1", f"--client={clients}", "--jobs=1"]
        command: list[str | Path] = [program, *options, f"--time={whole_seconds}", f"--file={script}", dsn]
        cpu = place.postmaster_pid and tree_cpu_seconds(place.postmaster_pid)
        said = await asyncio.to_thread(
            programs.output_of,
            command,
            timeout_seconds=whole_seconds + 60,
            environment={"PGOPTIONS": session_options()},
        )
        cpu = place.postmaster_pid and tree_cpu_seconds(place.postmaster_pid) - (cpu or 0)
        appended = await bench.stored() - stored
    done = int(_figure(said, r"number of transactions actually processed: (\d+)"))
    return PgbenchPoint(
        clients=clients,
        per_second=round(_figure(said, r"tps = ([\d.]+)"), 1),
        latency_ms=_figure(said, r"latency average = ([\d.]+) ms"),
        postgres_cpu_us=None if cpu is None else round(cpu / max(1, done) * 1e6, 1),
        applied=round(appended / max(1, done), 4),
    )


def script_for(workload: Workload, *, span: int) -> str:
    """A pgbench script that appends one report a time, to `span` tasks of the client's own in turn."""
    task_id, key = workload.task_id(0), task_key(TENANT, workload.task_id(0))
    before = State(
        tenant=TENANT, task_id=task_id, kind="import", owner="user-0", created=True, status=Status.RUNNING,
        seq=_NEXT - 1, attempt=1, n=_N - 1, progress=1.0, stage="encoding chunk 17 of 40", data_seq=_NEXT - 1,
    )  # fmt: skip
    report = numbered(task_id, 17)
    entry = Entry(key=key, request=replace(report, n=_N), digest=report.digest or "")
    arguments = advance_arguments(fold([entry], {key: before}, {}).growth)
    of_task = f"'{task_id.removesuffix(f'{0:06}')}' || lpad((:place)::text, 6, '0')"
    of_key = f"substr(encode(sha256(convert_to('{TENANT}' || chr(31) || {of_task}, 'UTF8')), 'hex'), 1, 32)"

    def argument(match: re.Match[str]) -> str:
        if int(match[1]) > len(arguments):
            return "null"  # in whatever epoch
        literal = "'" + arguments[int(match[1]) - 1].replace("'", "''") + "'"
        for number, expression in ((key, of_key), (str(_NEXT), ":next"), (str(_N), ":n")):
            literal = literal.replace(number, f"' || {expression} || '")
        return f"({literal})"

    sql = "\n".join(line for line in query("advance").splitlines() if not line.lstrip().startswith("--"))
    return "\n".join((
        r"\set k :k + 1",
        rf"\set place {span} * :client_id + :k % {span}",
        rf"\set next {OPENING_SEQ} + 1 + :k / {span}",
        r"\set n :next - 1",
        f"{_PLACEHOLDER.sub(argument, sql)};",
    ))  # fmt: skip


def session_options() -> str:
    """The settings of the writer's sessions that shape its plans, as libpq takes them."""
    return " ".join(f"-c {name}={value}" for name, value in _SET.findall(f"set jit = off; {INDEX_PLANS}"))


def _figure(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise CannotMeasure(f"pgbench said nothing like {pattern!r}: {text[-300:]}")
    return float(found[1])
