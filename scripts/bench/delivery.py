"""The verb `delivery`: from a commit to the sockets, beside servers that do nothing else, and a limit written in C."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from scripts.bench import cores, delivered, loading, provisions
from scripts.bench.machine import described
from scripts.bench.paper import Paper, plain, write_json
from scripts.bench.place import CannotMeasure, Place
from scripts.bench.servers import SERVERS, Server
from scripts.bench.shapes import Shape, parse

HELP = "delivery over WebSocket: Ledgerwire beside nchan, node ws, Socket.IO, Centrifugo and a limit written in C"
DESCRIPTION = """\
What one run measures, one server after the other, each started anew for each shape:

hub         Ledgerwire without its ledger: the gateway as it is, told by the client what was committed, in bursts
            as a group commit makes them. To be compared with the servers that have nothing durable.
durable     Ledgerwire: the client is a worker, too; each report goes through the writer into PostgreSQL
limit       an epoll server in C that does one send() of a ready frame per delivery; joined: one per burst
aiohttp     aiohttp and send_str, no more
nchan, ws, socketio, centrifugo
            as their small configurations in scripts/bench/peers have them. Node packages come by npm, nginx out of
            Debian's packages, into a cache folder; Centrifugo is measured when it is on PATH.

shapes      fN: N subscribers of one task. tN: N tasks, a subscriber each. Both at saturation, with a window of messages
            whose deliveries may be under way (f100: 64, f1000: 32, f5000: 16, t5000: 4,000; wW names another); rR is R
            messages a second instead, with latency from the scheduled time. idleN: memory of a subscribed connection.
            beatN: CPU to keep N idle ones alive, over one interval of --ping-seconds. acceptN: N connections opened,
            and nothing else.
us          CPU of the server's processes per delivery, from /proc, over the measured interval; PostgreSQL's apart
KiB         memory of the server's processes (PSS) per connection that has subscribed and waits
p50, p99    from the time at which a message was (open loop: was to be) published, to the last read of it

A delivery is about 230 bytes. Server and client have a core each where there are two; PostgreSQL has none of its own.
The client (load.c) is compiled on first use. It checks that every subscriber has got every message, in order; a run in
which one has not is refused, and told.
"""

PING_SECONDS: Final = 25.0
"""The keep-alive of Ledgerwire, Socket.IO and Centrifugo by default."""
USUAL: Final = ("f100", "f1000", "f5000", "t5000", "f1000r50", "idle10000", "beat15000", "accept2000")
ENDS: Final = ("t5000w500", "t5000w4000", "t5000r1000", "t5000r5000")
"""From a report to its delivery: of Ledgerwire's two only, unless they are asked for by name."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    keys = [server.key for server in SERVERS]
    parser.set_defaults(runs=3)
    parser.add_argument(
        "--servers", nargs="+", choices=keys, default=keys, metavar="NAME", help=f"of {', '.join(keys)} (default all)"
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=_shape,
        metavar="SHAPE",
        help=f"default {' '.join(USUAL)}; Ledgerwire: {' '.join(ENDS)}",
    )
    parser.add_argument(
        "--ping-seconds", type=float, default=PING_SECONDS, help="keep-alive in the shape beat (default %(default)s)"
    )
    parser.add_argument(
        "--reports-per-frame",
        type=int,
        default=1,
        metavar="N",
        help="durable: how many reports the worker sends as one array, at most (default 1; 300 fit into a frame)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the costs there (png, svg, pdf; needs matplotlib)"
    )


def _shape(name: str) -> Shape:
    try:
        return parse(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


async def measure(place: Place, options: argparse.Namespace, paper: Paper) -> int:
    """Run it `--runs` times, print the medians; 1 when Ledgerwire lost something or nothing could be measured."""
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise CannotMeasure("--plot needs matplotlib: pip install matplotlib, or the extra `bench`")
    plan = _plan(options)
    cores.allow_files(max((shape.subscribers for _, shape in plan), default=0))
    load = await asyncio.to_thread(provisions.compiled, "load")
    await place.prepare()
    server_core, client_core = cores.chosen()
    machine = described(place) | {"server_core": server_core, "client_core": client_core}
    runs: list[dict[str, dict[str, Any]]] = []
    reasons: dict[str, str] = {}
    broken = False
    for number in range(options.runs):
        run: dict[str, dict[str, Any]] = {}
        for server, shape in plan:
            paper.say(f"run {number + 1} of {options.runs}: {server.name}, {shape.name}")
            try:
                figures = await _measured(place, load, server, shape, options)
            except CannotMeasure as reason:
                paper.say(f"  not measured: {reason}")
                reasons[f"{server.name}, {shape.name}"] = str(reason)
                broken = broken or (server.needs_database and isinstance(reason, loading.Incomplete))
            else:
                run.setdefault(server.key, {})[shape.name] = plain(figures)
        runs.append(run)
    found = {key: _over(runs, key) for key in dict.fromkeys(key for run in runs for key in run)}
    content = {"verb": "delivery", "machine": machine, "runs": runs, "not_measured": reasons}
    content |= {"shapes": plain({shape.name: shape for _, shape in plan})}
    content |= {"versions": await asyncio.to_thread(provisions.versions), **delivered.summed(found)}
    write_json(options.json, content)
    delivered.tables(paper, content)
    if options.plot:
        delivered.plot(content, options.plot)
    return 1 if broken or not found else 0


def _plan(options: argparse.Namespace) -> list[tuple[Server, Shape]]:
    servers = [server for server in SERVERS if server.key in options.servers]
    if options.shapes:
        return [(server, shape) for shape in options.shapes for server in servers]
    usual = [(server, parse(name)) for name in USUAL for server in servers]
    return usual + [(server, parse(name)) for name in ENDS for server in servers if server.needs_database]


async def _measured(place: Place, load: Path, server: Server, shape: Shape, options: argparse.Namespace) -> Any:
    if not server.needs_database:
        return await asyncio.to_thread(_with_server, place, load, server, shape, options, "")
    async with place.workspace() as dsn:
        return await asyncio.to_thread(_with_server, place, load, server, shape, options, dsn)


def _with_server(place: Place, load: Path, server: Server, shape: Shape, options: argparse.Namespace, dsn: str) -> Any:
    server_core, client_core = cores.chosen()
    with server.running(
        place.folder,
        core=server_core,
        ping_seconds=options.ping_seconds if shape.kind == "beat" else PING_SECONDS,
        connections=shape.subscribers,
        dsn=dsn,
        postmaster=place.postmaster_pid,
    ) as running:
        grouped = options.reports_per_frame if server.durable else running.dialect.grouped
        target = replace(running, dialect=replace(running.dialect, grouped=grouped))
        return loading.measure(
            load, target, shape, seconds=options.seconds, ping_seconds=options.ping_seconds, core=client_core
        )


def _over(runs: list[dict[str, dict[str, Any]]], key: str) -> dict[str, list[Any]]:
    """By shape, what each run has found of a server."""
    shapes = dict.fromkeys(name for run in runs for name in run.get(key, {}))
    return {name: [run[key][name] for run in runs if name in run.get(key, {})] for name in shapes}
