"""The command line of the bench."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from pathlib import Path

import structlog
import uvloop

from gateway.runtime import collect_garbage_rarely
from ledger.errors import LedgerError
from scripts.bench import delivery, growth, ledger, poison, reads, said
from scripts.bench.drive import Unanswered
from scripts.bench.paper import Paper
from scripts.bench.place import CannotMeasure, Place, folder_on_disk, look_at, own_server

VERBS = {"ledger": ledger, "growth": growth, "reads": reads, "poison": poison, "delivery": delivery, "sql": said}


def main() -> int:
    """Parse, make a place, measure; the exit status."""
    options = _parser().parse_args()
    paper = Paper()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started and made goes, too
    try:
        with folder_on_disk(options.folder, allow_unsafe=options.allow_unsafe) as folder:
            if options.database_url:
                return uvloop.run(_measure(options, paper, options.database_url, folder, embedded=False))
            with own_server(folder) as server:
                return uvloop.run(_measure(options, paper, server.dsn, folder, embedded=True))
    except (CannotMeasure, Unanswered, LedgerError) as error:
        paper.say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


async def _measure(options: argparse.Namespace, paper: Paper, dsn: str, folder: Path, *, embedded: bool) -> int:
    collect_garbage_rarely()
    place: Place = await look_at(dsn, folder, embedded=embedded, allow_unsafe=options.allow_unsafe)
    try:
        return int(await VERBS[options.verb].measure(place, options, paper))
    finally:
        await asyncio.shield(place.close())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 scripts/bench",
        description="What Ledgerwire costs and how fast it is. `VERB --help` says what each figure is.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _common(verb)
        module.configure(verb)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a measurement (default %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=1, help="medians over so many runs are printed (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, every run and the medians there")
    parser.add_argument(
        "--database-url",
        default=os.environ.get("DATABASE_URL"),
        help="measure on this server, in databases made for it (default: DATABASE_URL, else a server of its own)",
    )
    parser.add_argument("--folder", type=Path, help="where the run's own servers keep their data (default /var/tmp)")
    parser.add_argument(
        "--allow-unsafe", action="store_true", help="measure a server that may forget a commit, or data in memory"
    )
