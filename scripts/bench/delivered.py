"""What `delivery` has found, on paper: medians and the best of the runs, tables, and a drawing. Measures nothing."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from scripts.bench.paper import Paper, figure, median, ratio
from scripts.bench.servers import SERVERS
from scripts.bench.shapes import Shape, parse

Figures = dict[str, Any]
Found = Mapping[str, Mapping[str, list[Figures]]]
"""By server and shape, the figures of each run that was not refused."""

LIMIT: Final = "limit"
PLAIN: Final = "aiohttp"
HUB, DURABLE = "hub", "durable"
_MORE_IS_BETTER: Final = frozenset({"deliveries", "per_second", "published_per_second", "subscribed_per_second"})


def summed(found: Found) -> dict[str, Any]:
    """`median` and `best` of every figure, by server and shape: the best rate is the highest, the best cost least."""
    return {
        "median": {key: {name: median(runs) for name, runs in shapes.items()} for key, shapes in found.items()},
        "best": {key: {name: _best(runs) for name, runs in shapes.items()} for key, shapes in found.items()},
    }


def _best(runs: Sequence[Figures]) -> Figures:
    return {
        name: None if value is None else (max if name in _MORE_IS_BETTER else min)(run[name] for run in runs)
        for name, value in runs[0].items()
    }


def tables(paper: Paper, content: Mapping[str, Any]) -> None:
    """Print everything that was measured."""
    machine = content["machine"]
    paper.say(
        f"\n{machine['cores_usable']} cores, {machine['cpu']}, kernel {machine['kernel']}, load"
        f" {machine['load_before'][0]:.1f} before; PostgreSQL {machine['postgres']}"
    )
    for title, columns, rows in (costs(content), steady(content), durable(content)):
        if rows:
            paper.table(title, columns, rows)
    for sentence in remarks(content):
        paper.say(sentence)
    for what, reason in content["not_measured"].items():
        paper.say(f"{what}: not measured: {reason}")


Table = tuple[str, list[str], list[list[object]]]


def costs(content: Mapping[str, Any]) -> Table:
    """A row per server: CPU per delivery at saturation, memory per idle connection, accepts per second."""
    shapes = _shapes(content)
    columns = [name for name, shape in shapes.items() if shape.window and "w" not in name]
    idle = [name for name, shape in shapes.items() if shape.kind == "idle"]
    accept = [name for name, shape in shapes.items() if shape.kind == "accept"]
    read = [(name, "server_cpu_us") for name in columns]
    read += [(name, "kib_each") for name in idle] + [(name, "per_second") for name in accept]
    heads = [f"{name} us" for name in columns] + [f"{name} KiB" for name in idle] + [f"{name} /s" for name in accept]
    rows = [[name, *cells] for name, cells in _rows(content, read)]
    best = " (best)" if len(content["runs"]) > 1 else ""
    return (
        f"Server CPU per delivery, memory per idle connection, accepts: median{best}",
        ["", *heads],
        rows if read else [],
    )


def steady(content: Mapping[str, Any]) -> Table:
    """A row per server: what an equal rate costs and how late it is, and what it takes to keep idle ones alive."""
    shapes = _shapes(content)
    rates = [name for name, shape in shapes.items() if shape.rate and shape.channels == 1]
    beats = [name for name, shape in shapes.items() if shape.kind == "beat"]
    heads = [f"{name} {what}" for name in rates for what in ("core %", "p50 ms", "p99 ms", "p99 to limit")]
    rows = []
    for _, label, measured in _servers(content):
        cells: list[object] = []
        for name in rates:
            one, limit = measured.get(name), content["median"].get(LIMIT, {}).get(name)
            cells += [None] * 4 if one is None else [
                one["server_core"] * 100, one["p50_ms"], one["p99_ms"], limit and ratio(one["p99_ms"], limit["p99_ms"]),
            ]  # fmt: skip
        cells += [measured[name]["server_core"] * 100 if name in measured else None for name in beats]
        if any(cell is not None for cell in cells):
            rows.append([label, *cells])
    return "At an equal rate, and idle: % of a core", ["", *heads, *(f"{name} core %" for name in beats)], rows


def durable(content: Mapping[str, Any]) -> Table:
    """A row per shape: Ledgerwire from a report to its delivery, durable, beside the same without a ledger."""
    rows: list[list[object]] = []
    middle = content["median"]
    for name, shape in _shapes(content).items():
        one, other = middle.get(DURABLE, {}).get(name), middle.get(HUB, {}).get(name)
        if shape.kind != "delivery" or one is None:
            continue
        row = [name, *(one[what] for what in ("published_per_second", "p50_ms", "p99_ms", "server_cpu_us"))]
        row += [one["database_cpu_us"]]
        if other is None:
            row += [None] * 4
        else:
            compared = "p99_ms" if shape.rate else "per_second"
            row += [other["published_per_second"], other["p50_ms"], other["p99_ms"]]
            row += [ratio(one[compared], other[compared])]
        rows.append(row)
    heads = ["transitions/s", "p50 ms", "p99 ms", "us a delivery", "PG us", "hub only /s", "p50 ms", "p99 ms"]
    return "From a report to its delivery: durable, and beside it hub only", ["", *heads, "rate (or p99) to it"], rows


def remarks(content: Mapping[str, Any]) -> list[str]:
    """What must be said of the figures."""
    said = []
    middle = content["median"]
    for name, plain in middle.get(PLAIN, {}).items():
        for key, label, measured in _servers(content):
            if parse(name).kind == "accept" and key in (HUB, DURABLE) and name in measured:
                times = ratio(measured[name]["per_second"], plain["per_second"])
                said.append(f"{label}: accepts {times} of plain aiohttp's ({name})")
    for _, label, measured in _servers(content):
        for name, one in measured.items():
            if parse(name).window and one["client_core"] > 0.95 > one["server_core"]:
                said.append(f"{label}, {name}: the client was the limit, not the server: its rate is too low")
    return said


def plot(content: Mapping[str, Any], file: Path) -> None:
    """Draw the CPU per delivery at saturation, a group of bars per shape, on a logarithmic axis."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    shapes = [name for name, shape in _shapes(content).items() if shape.window and "w" not in name]
    servers = [
        (label, measured) for _, label, measured in _servers(content) if any(name in measured for name in shapes)
    ]
    drawing, axes = pyplot.subplots(figsize=(2 + 2.2 * len(shapes), 4.5), layout="constrained")
    width = 0.8 / max(1, len(servers))
    for place, (label, measured) in enumerate(servers):
        points = [(group, measured[name]["server_cpu_us"]) for group, name in enumerate(shapes) if name in measured]
        axes.bar([group + place * width for group, _ in points], [cost for _, cost in points], width, label=label)
    axes.set_yscale("log")
    axes.set_ylabel("server CPU per delivery, µs")
    axes.set_xticks([group + 0.4 - width / 2 for group in range(len(shapes))], shapes)
    axes.set_title("Delivery over WebSocket at saturation (less is better)")
    drawing.legend(loc="outside right upper", fontsize="small")
    drawing.savefig(file, dpi=150)


def _shapes(content: Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes that were measured, in the order in which they were."""
    return {name: parse(name) for measured in content["median"].values() for name in measured}


def _servers(content: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Figures]]]:
    """Key, name and medians of each server that was measured."""
    return [
        (server.key, server.name, content["median"][server.key])
        for server in SERVERS
        if server.key in content["median"]
    ]


def _rows(content: Mapping[str, Any], read: Sequence[tuple[str, str]]) -> list[tuple[str, list[object]]]:
    """Per server, each (shape, figure) as `median (best)`."""
    several = len(content["runs"]) > 1

    def cell(key: str, name: str, what: str) -> str | None:
        one = content["median"][key].get(name)
        if one is None:
            return None
        return figure(one[what]) + (f" ({figure(content['best'][key][name][what])})" if several else "")

    rows: list[tuple[str, list[object]]] = []
    for key, label, _ in _servers(content):
        cells: list[object] = [cell(key, name, what) for name, what in read]
        if any(each is not None for each in cells):
            rows.append((label, cells))
    return rows
