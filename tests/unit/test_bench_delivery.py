"""What the bench says of delivery: shapes by name, what the client is called with, and the tables."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.bench import delivered
from scripts.bench.shapes import Shape, parse
from scripts.bench.wire import BARE, DURABLE, HUB_ONLY

FIGURES = {
    "deliveries": 100, "per_second": 1_000.0, "published_per_second": 10.0, "server_cpu_us": 4.0, "server_core": 0.5,
    "database_cpu_us": None, "client_core": 0.2, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0, "checked": 200,
}  # fmt: skip


def figures(**some: float | None) -> dict[str, Any]:
    """What one run found, with these in place of the usual."""
    return FIGURES | some


def content(found: dict[str, dict[str, list[dict[str, Any]]]], runs: int = 1) -> dict[str, Any]:
    """As the verb writes it."""
    return {"runs": [{}] * runs, "not_measured": {}, **delivered.summed(found)}


@pytest.mark.parametrize(
    ("name", "subscribers", "channels", "window", "rate"),
    [
        ("f100", 100, 1, 64, None),
        ("f1000", 1_000, 1, 32, None),
        ("f5000", 5_000, 1, 16, None),
        ("t5000", 5_000, 5_000, 4_000, None),
        ("t30", 30, 30, 30, None),
        ("t5000w500", 5_000, 5_000, 500, None),
        ("f1000r50", 1_000, 1, None, 50),
    ],
)
def test_a_shape_is_read_from_its_name(
    name: str, subscribers: int, channels: int, window: int | None, rate: int | None
) -> None:
    """Kind, subscribers, and a window or a rate where the usual window is not meant."""
    assert parse(name) == Shape(
        name=name, kind="delivery", subscribers=subscribers, channels=channels, window=window, rate=rate
    )


def test_idle_connections_have_a_task_each() -> None:
    """Nothing is published to them, so they have neither window nor rate."""
    assert parse("idle50") == Shape(name="idle50", kind="idle", subscribers=50, channels=50)
    assert parse("beat50").kind == "beat"
    assert parse("accept50").kind == "accept"


@pytest.mark.parametrize("name", ["", "f", "f0", "x100", "f100x", "idle10w5", "accept5r2", "t10w", "f-1"])
def test_what_is_no_shape_is_refused(name: str) -> None:
    """The error shows how shapes look."""
    with pytest.raises(ValueError, match="for example f1000"):
        parse(name)


def test_the_client_publishes_only_where_the_shape_does() -> None:
    """A closed loop has a window, an open one a rate, idle connections neither; accepted ones say nothing."""
    how = {"seconds": 2.0, "warmup": 1.0, "patience": 9.0}
    closed = BARE.arguments(parse("f10w5"), **how)
    assert closed[closed.index("-w") + 1] == "5"
    assert "-r" not in closed
    assert "-r" in DURABLE.arguments(parse("f10r5"), **how)
    idle = DURABLE.arguments(parse("idle10"), **how)
    assert "-i" in idle
    assert "-M" not in idle
    assert idle.count("-m") == 2
    assert "-m" not in DURABLE.arguments(parse("accept10"), **how)


def test_hub_only_tells_what_was_committed_in_groups() -> None:
    """Its subscribers are those of the product; only its publisher is not a worker."""
    assert (HUB_ONLY.path, HUB_ONLY.says, HUB_ONLY.ready) == (DURABLE.path, DURABLE.says, DURABLE.ready)
    assert HUB_ONLY.grouped > DURABLE.grouped == 1


def test_the_best_rate_is_the_highest_and_the_best_cost_the_lowest() -> None:
    """Of three runs the middle one is quoted, and the best beside it."""
    runs = [figures(per_second=float(rate), server_cpu_us=cost) for rate, cost in ((10, 3.0), (30, 1.0), (20, 2.0))]
    summed = delivered.summed({"limit": {"f100": runs}})
    assert summed["median"]["limit"]["f100"]["per_second"] == 20
    assert summed["median"]["limit"]["f100"]["server_cpu_us"] == 2.0
    assert summed["best"]["limit"]["f100"]["per_second"] == 30
    assert summed["best"]["limit"]["f100"]["server_cpu_us"] == 1.0
    assert summed["best"]["limit"]["f100"]["database_cpu_us"] is None


def test_costs_stand_in_a_row_for_each_server() -> None:
    """Saturation, memory and accepts side by side; a dash where a server was not measured."""
    idle = {"connections": 5, "subscribed_per_second": 1.0, "kib_each": 12.5, "server_core": 0.0, "kept_alive": 0}
    accept = {"connections": 5, "per_second": 4_000.0, "server_cpu_us": 250.0}
    found = {"hub": {"f100": [figures(), figures(server_cpu_us=6.0)], "idle10": [idle]}, "limit": {"accept5": [accept]}}
    _, columns, rows = delivered.costs(content(found, runs=2))
    assert columns == ["", "f100 us", "idle10 KiB", "accept5 /s"]
    assert rows == [
        ["ledgerwire, hub only", "5.00 (4.00)", "12.5 (12.5)", None],
        ["C limit", None, None, "4,000 (4,000)"],
    ]


def test_an_equal_rate_is_compared_with_the_limit() -> None:
    """Share of a core, median and slowest, and how many times the limit's slowest."""
    found = {"hub": {"f10r50": [figures(p99_ms=3.0)]}, "limit": {"f10r50": [figures(p99_ms=2.0)]}}
    _, _, rows = delivered.steady(content(found))
    assert rows == [["ledgerwire, hub only", 50.0, 1.0, 3.0, "1.50x"], ["C limit", 50.0, 1.0, 2.0, "1.00x"]]


def test_durable_stands_beside_hub_only() -> None:
    """The rate of a closed loop and the p99 of an open one are compared with the same run's without a database."""
    found = {
        "hub": {"t10w5": [figures()], "t10r5": [figures()]},
        "durable": {
            "t10w5": [figures(per_second=500.0, database_cpu_us=7.0)],
            "t10r5": [figures(p99_ms=8.0, database_cpu_us=7.0)],
            "f10": [figures(database_cpu_us=7.0)],
        },
    }
    _, _, rows = delivered.durable(content(found))
    assert [(row[0], row[5], row[-1]) for row in rows] == [
        ("t10w5", 7.0, "0.50x"), ("t10r5", 7.0, "4.00x"), ("f10", 7.0, None),
    ]  # fmt: skip


def test_what_makes_a_figure_doubtful_is_said() -> None:
    """A client that was busier than its server has measured itself; accepts are held against plain aiohttp's."""
    accept = {"connections": 5, "per_second": 4_000.0, "server_cpu_us": 250.0}
    found = {
        "hub": {"accept5": [accept | {"per_second": 6_000.0}]},
        "joined": {"f100": [figures(client_core=0.99)]},
        "aiohttp": {"accept5": [accept]},
    }
    said = delivered.remarks(content(found))
    assert any("accepts 1.50x of plain aiohttp's" in sentence for sentence in said)
    assert any("C limit, joined, f100: the client was the limit" in sentence for sentence in said)
