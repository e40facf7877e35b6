"""The bench, run for real and for a moment: that it does the work it reports. What it measures here means nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from scripts.bench.kinds import KINDS
from scripts.bench.paper import median
from tests.support.gateway import ROOT
from tests.support.limits import ENVIRONMENT
from tests.support.postgres import Cluster, own_server

PARTS = ("--parts", "writer", "pgbench", "copy")


async def bench(*arguments: str | Path) -> tuple[int, str]:
    """Run a verb to its end; the exit status, and what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | ENVIRONMENT
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "scripts/bench",
        *map(str, arguments),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(280):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def measured(file: Path, *arguments: str | Path) -> dict[str, Any]:
    """Run a verb that ends well, and read its JSON."""
    status, out = await bench(*arguments, "--json", file)
    assert status == 0, out
    return figures_in(file)


def figures_in(file: Path) -> dict[str, Any]:
    """What a verb has written."""
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def on(cluster: Cluster) -> tuple[str, ...]:
    """Measure in databases made on the server of the tests, which forgets."""
    return "--database-url", cluster.dsn, "--allow-unsafe"


async def test_the_writer_is_measured_on_a_durable_server_of_its_own(tmp_path: Path) -> None:
    """`ledger` without a database starts one with its default settings, and every workload commits what it sends."""
    arguments = ("ledger", "--seconds", "0.3", "--tasks", "200", "--window", "100", "--clients", "2", *PARTS)
    content = await measured(tmp_path / "figures", *arguments)
    machine = content["machine"]
    assert machine["postgres_embedded"]
    assert all(machine["postgres_settings"][name] == "on" for name in ("fsync", "synchronous_commit"))
    for name in ("steady", "short", "hot"):
        written = content["median"]["writer"][name]
        assert written["refused"] == {}
        assert written["closed"]["units"] > 0
        assert written["open_latency"]["count"] > 0
        assert written["closed"]["postgres_cpu_us"] > 0
        assert written["closed"]["wal_bytes"] > 0
    assert [(each["streams"], each["rows_per_commit"]) for each in content["median"]["copy"]] == [
        (1, 500), (1, 0), (2, 500), (2, 0),
    ]  # fmt: skip
    if "pgbench" not in content["runs"][0]["not_measured"]:
        (point,) = content["median"]["pgbench"]
        assert point["applied"] == 1.0


async def test_a_peer_is_measured_or_named_as_not_measured(tmp_path: Path, cluster: Cluster) -> None:
    """A server that is not installed is in the table, with the reason."""
    status, out = await bench(
        "ledger", "--seconds", "0.2", "--parts", "redis", "nats", *on(cluster), "--json", tmp_path / "figures"
    )
    run = figures_in(tmp_path / "figures")["runs"][0]
    for part in ("redis", "nats"):
        if part in run["not_measured"]:
            assert f"{part}: not measured: " in out
        else:
            assert all(point["per_second"] > 0 for point in run[part])
    assert status == (1 if len(run["not_measured"]) == 2 else 0)


async def test_poison_harms_nobody_but_itself(tmp_path: Path, cluster: Cluster) -> None:
    """Every kind of bad report among good ones: all good ones are committed, each bad one is told once."""
    content = await measured(tmp_path / "figures", "poison", "--good", "300", "--bad", "10", *on(cluster))
    assert [each["kind"] for each in content["kinds"]] == [kind.name for kind in KINDS]
    for each in content["kinds"]:
        assert each["good_committed"] == each["good"] == 300
        assert sum(each["outcomes"].values()) == each["bad"] == 10
    assert content["broken"] == []


async def test_growth_and_reads_work_on_a_filled_ledger(tmp_path: Path, cluster: Cluster) -> None:
    """The ledger is filled to at least what was asked for, and measured at each size."""
    arguments = ("growth", "--rows", "200", "2500", "--tasks", "50", "--seconds", "0.2", "--workloads", "steady")
    growth = await measured(tmp_path / "growth", *arguments, *on(cluster))
    assert [size["stored_rows"] for size in growth["sizes"]] == [200, 3_000]
    assert all(size["median"]["steady"]["closed"]["units"] > 0 for size in growth["sizes"])
    reads = await measured(tmp_path / "reads", "reads", "--rows", "20000", "--calls", "5", *on(cluster))
    assert len(reads["median"]) == 10
    assert all(read["count"] == 5 and read["python_cpu_us"] > 0 for read in reads["median"].values())


def test_a_server_that_may_forget_is_refused() -> None:
    """Figures of a server with fsync off would be of something else."""
    with own_server() as server:
        status, out = asyncio.run(bench("ledger", "--database-url", server.dsn))
    assert status == 1
    assert "fsync=off" in out
    assert "--allow-unsafe" in out


def test_the_median_is_taken_of_each_figure() -> None:
    """Runs are dictionaries of one shape; a part that was missing in one run is decided by the others."""
    runs = [{"a": {"x": 3, "name": "n"}, "b": [1.0]}, {"a": {"x": 1, "name": "n"}}, {"a": {"x": 2, "name": "n"}}]
    assert median(runs) == {"a": {"x": 2, "name": "n"}, "b": [1.0]}
