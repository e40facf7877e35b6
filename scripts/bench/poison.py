"""The verb `poison`: bad reports among good ones, each kind in its turn, and what the good ones notice of it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import secrets

from msgspec import Struct
from msgspec.structs import replace

from ledger.model import Request
from scripts.bench.drive import ClosedLoop, Tally, open_loop
from scripts.bench.fill import disagreeing
from scripts.bench.kinds import COMMITTED, KINDS, Kind
from scripts.bench.machine import described
from scripts.bench.meter import Latency, latency
from scripts.bench.paper import Paper, plain, ratio, write_json
from scripts.bench.place import Place
from scripts.bench.workloads import TASKS, Workload, numbered
from scripts.bench.writing import Bench, accepted, running_writer, set_supply_aside

HELP = "bad reports among good ones: every good one committed, every bad one told once, and what the good ones notice"
DESCRIPTION = """\
For each kind of scripts/bench/kinds.py: --good numbered reports of running tasks, and evenly among them, for the same
tasks, --bad reports of the kind.

good        how many of the good ones were committed: all
outcomes    what the bad ones were answered; each exactly once, and as its kind says
p50, p99    latency of the good ones, and how it compares with runs without a bad one, just before and just after

A closed loop of --window in flight, or with --rate an open one whose latencies count from the scheduled time.
Exit status 1 when a promise is broken: a good report that was not committed, a bad one with no or another outcome, a
ledger that holds more or less than was acknowledged, a hole.
"""
ATTEMPT = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this verb; `--seconds` and `--runs` mean nothing here."""
    parser.add_argument("--good", type=int, default=100_000, help="good reports for each kind (default %(default)s)")
    parser.add_argument("--bad", type=int, default=1_000, help="bad reports of each kind (default %(default)s)")
    parser.add_argument("--window", type=int, default=1_000, help="requests in flight (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0, help="sent per second; 0: as fast as they are answered")
    parser.add_argument("--kinds", nargs="+", metavar="WORD", help="only kinds whose name has one of these words")


class Suffered(Struct, frozen=True, kw_only=True):
    """One kind (or none: "") among good reports: what became of all of them. `broken` names broken promises."""

    kind: str
    good: int
    good_committed: int
    good_refused: dict[str, int]
    bad: int
    outcomes: dict[str, int]
    good_latency: Latency
    broken: list[str]
    without_p50_ms: float = 0.0
    without_p99_ms: float = 0.0
    """Latency of good ones alone, just before and just after: the mean of the two runs."""


async def measure(place: Place, options: argparse.Namespace, paper: Paper) -> int:
    """Every kind once; 1 when a promise is broken."""
    chosen = [kind for kind in KINDS if not options.kinds or any(word in kind.name for word in options.kinds)]
    await place.prepare()
    machine = described(place)
    async with place.workspace() as dsn, running_writer(place, dsn) as bench:
        await _suffered(bench, None, options)  # to warm up
        without = [await _suffered(bench, None, options)]
        results: list[Suffered] = []
        for kind in chosen:
            paper.say(f"{len(results) + 1} of {len(chosen)}: {kind.name}")
            suffered = await _suffered(bench, kind, options)
            without.append(await _suffered(bench, None, options))
            results.append(_compared(suffered, [each.good_latency for each in without[-2:]]))
        holes = await disagreeing(bench.connection)
    broken = [f"{each.kind or 'without poison'}: {why}" for each in (*without, *results) for why in each.broken]
    if holes:
        broken.append(f"{holes} tasks have a hole or a wrong head")
    if not results:
        broken.append("no kind has such a name")
    _print(paper, results)
    for why in broken:
        paper.say(f"BROKEN: {why}")
    paper.say("every promise was kept" if not broken else "")
    write_json(
        options.json,
        {"verb": "poison", "machine": machine, "without": plain(without), "kinds": plain(results), "broken": broken},
    )
    return 1 if broken else 0


async def _suffered(bench: Bench, kind: Kind | None, options: argparse.Namespace) -> Suffered:
    workload = Workload("steady", f"poison-{secrets.token_hex(4)}", tasks=min(TASKS, max(1, options.good // 4)))
    creates = workload.opening()[: workload.tasks]
    firsts: list[Request] = [numbered(workload.task_id(at), 1, attempt=ATTEMPT) for at in range(workload.tasks)]
    await accepted(bench, [*creates, *firsts])
    supply, bad_places = _supply(workload, kind, options)
    stored = await bench.stored()
    good, bad = Tally(), Tally()
    set_supply_aside()
    sort = (lambda at: bad if at in bad_places else good) if bad_places else (lambda _at: good)
    if options.rate:
        await open_loop(bench.writer.post, supply, options.rate, sort)
    else:
        loop = ClosedLoop(bench.writer.post, supply, options.window, sort)
        await loop.run(seconds=600)
        await loop.finish()
    gc.unfreeze()
    await asyncio.sleep(0)
    outcomes = dict(bad.outcomes) | ({COMMITTED: bad.committed} if bad.committed else {})
    return Suffered(
        kind=kind.name if kind else "",
        good=len(supply) - len(bad_places),
        good_committed=good.committed,
        good_refused=dict(good.outcomes),
        bad=len(bad_places),
        outcomes=outcomes,
        good_latency=latency(good.latencies),
        broken=_broken(kind, good, outcomes, await bench.stored() - stored, len(supply), len(bad_places)),
    )


def _compared(suffered: Suffered, neighbours: list[Latency]) -> Suffered:
    return replace(
        suffered,
        without_p50_ms=round(sum(each.p50_ms for each in neighbours) / len(neighbours), 3),
        without_p99_ms=round(sum(each.p99_ms for each in neighbours) / len(neighbours), 3),
    )


def _supply(workload: Workload, kind: Kind | None, options: argparse.Namespace) -> tuple[list[Request], set[int]]:
    """Good reports in turn and, each behind a good one of its task, bad ones; and the places of these."""
    supply: list[Request] = []
    bad_places: set[int] = set()
    numbers = [1] * workload.tasks
    every = max(1, options.good // options.bad) if options.bad else 0
    for place in range(options.good):
        task = place % workload.tasks
        numbers[task] += 1
        supply.append(numbered(workload.task_id(task), numbers[task], attempt=ATTEMPT))
        if kind is not None and every and place % every == every - 1 and len(bad_places) < options.bad:
            numbers[task] += 1
            bad_places.add(len(supply))
            supply.append(kind.spoil(numbered(workload.task_id(task), numbers[task], attempt=ATTEMPT)))
    return supply, bad_places


def _broken(kind: Kind | None, good: Tally, outcomes: dict[str, int], stored: int, sent: int, bad: int) -> list[str]:
    broken = []
    if good.committed != sent - bad:
        broken.append(f"{good.committed} of {sent - bad} good reports committed, the others: {dict(good.outcomes)}")
    if sum(outcomes.values()) != bad:
        broken.append(f"{sum(outcomes.values())} outcomes of {bad} bad reports")
    wrong = {name: count for name, count in outcomes.items() if kind is None or name not in kind.outcomes}
    if wrong:
        broken.append(f"outcomes that the kind does not have: {wrong}")
    if stored != good.committed + outcomes.get(COMMITTED, 0):
        broken.append(f"{stored} transitions stored, {good.committed + outcomes.get(COMMITTED, 0)} acknowledged")
    return broken


def _print(paper: Paper, results: list[Suffered]) -> None:
    rows: list[list[object]] = []
    for each in results:
        at = each.good_latency
        rows.append([
            each.kind, "all" if each.good_committed == each.good else each.good_committed,
            ", ".join(f"{count:,} {name}" for name, count in each.outcomes.items()),
            at.p50_ms, ratio(at.p50_ms, each.without_p50_ms), at.p99_ms, ratio(at.p99_ms, each.without_p99_ms),
        ])  # fmt: skip
    paper.table(
        "Good reports among bad ones", ("kind", "good", "outcomes", "p50 ms", "to alone", "p99 ms", "to alone"), rows
    )
