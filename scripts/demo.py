"""Tries Ledgerwire: a gateway, a real job, a page to watch it, and an invitation to break it.

`demo.py` runs until Ctrl-C, and starts a gateway that dies again. `demo.py --once` plays it without a person,
kills the gateway itself, and says whether the stream and the ledger agree. `scripts/dev.py run` starts it in
its environment. It stops only what it started, and what it started does not outlive it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "clients" / "python" / "src"))

from examples.stdlib_index.indexer import PACES
from ledger.embedded.folder import choose_folder
from scripts.stage.lines import is_refusal, painted, readable, refusal_shortened
from scripts.stage.rehearsal import rehearse
from scripts.stage.supervisor import Plan, Stage, StageError

ONCE_SECONDS = 120
SAID_COLUMNS = 88

# What every Python has of its standard library: enough to be interrupted half-way, little enough for a machine
# with two busy cores.
ONCE_PACKAGES = "modules,asyncio,collections,concurrent,email,html,http,importlib,json,logging,urllib,xml"
ONCE_PACE = "steady"

BANNER = """
  {title}

    page      {page}
    gateway   {gateway}
    health    {health}
    data      {data}

  Start a job on the page, and then break it:   kill -9 {pid}
  That is the gateway; it is started again at once, and the page carries on. Ctrl-C stops everything.
  Or silence the worker:   kill -STOP {backend_pid}   (kill -CONT brings it back)
  {afresh}
"""


def main() -> int:
    """Read the options and play; 0 when all went well, 1 when something did not, 130 when it was interrupted."""
    options = parse()
    try:
        return asyncio.run(until_signal(once() if options.once else serve(options)))
    except StageError as error:
        print(readable("demo", str(error), colour=False), file=sys.stderr)
    except TimeoutError:
        print(readable("demo", f"not done within {ONCE_SECONDS} s", colour=False), file=sys.stderr)
    return 1


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="dev.py run", description="Try Ledgerwire with a real job and a page to watch it."
    )
    parser.add_argument("--once", action="store_true", help="play it without a person, on free ports, and compare")
    parser.add_argument("--port", type=int, default=8080, help="of the gateway (default %(default)s)")
    parser.add_argument("--page-port", type=int, default=8000, help="of the page (default %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where the gateway's own PostgreSQL keeps its data")
    parser.add_argument("--pace", choices=PACES, help="how deeply the job reads")
    return parser.parse_args()


async def until_signal(play: Coroutine[None, None, int]) -> int:
    """Play to the end, or until a signal asks to stop; then everything is stopped in order."""
    playing = asyncio.ensure_future(play)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
    try:
        return await playing
    except asyncio.CancelledError:
        return 130


async def serve(options: argparse.Namespace) -> int:
    """Run until a signal comes."""
    for option, port in (("--port", options.port), ("--page-port", options.page_port)):
        check_port(port, option)
    job_options = (f"--pace={options.pace}",) if options.pace else ()
    data_dir = options.data_dir.absolute() if options.data_dir else None
    plan = Plan(port=options.port, page_port=options.page_port, data_dir=data_dir, job_options=job_options)
    hear = printer()
    hear("demo", "starting the gateway; the first start also makes its database")
    async with Stage(plan, hear) as stage:
        print(banner(stage), flush=True)
        try:
            await stage.broken()
        except asyncio.CancelledError:
            hear("demo", "stopping: first the page and its jobs, then the gateway")
    return 0


async def once() -> int:
    """Play one job with the gateway killed half-way; 0 when the stream and the ledger agree."""
    began = time.monotonic()
    hear = printer()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[Listener(hear)])
    job_options = (f"--packages={ONCE_PACKAGES}", f"--pace={ONCE_PACE}")
    port, page_port = free_ports(2)
    with ExitStack() as stack:
        data_dir = None
        if not os.environ.get("DATABASE_URL"):
            folder = tempfile.TemporaryDirectory(prefix="ledgerwire-demo-", ignore_cleanup_errors=True)
            data_dir = Path(stack.enter_context(folder))
        plan = Plan(port=port, page_port=page_port, data_dir=data_dir, job_options=job_options, hints=False)
        packages = ONCE_PACKAGES.replace(",", ", ")
        say(f"the job reads only a part of the standard library, at the pace {ONCE_PACE}: {packages}")
        async with asyncio.timeout(ONCE_SECONDS), Stage(plan, hear) as stage:
            say(f"the gateway and the page are ready after {time.monotonic() - began:.1f} s")
            wrong = await first_of(rehearse(stage, say), stage.broken())
    for sentence in wrong:
        say(f"WRONG: {sentence}")
    verdict = "stream and ledger do not agree" if wrong else "stream and ledger agree: no hole, no repeat"
    say(f"{verdict} ({time.monotonic() - began:.1f} s)")
    return 1 if wrong else 0


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────


def banner(stage: Stage) -> str:
    """What a person needs to know, and what to try."""
    plan = stage.plan
    data, afresh = whereabouts(plan)
    return BANNER.format(
        title=painted("Ledgerwire is running.", "1", colour=sys.stdout.isatty()),
        page=plan.page_url,
        gateway=plan.gateway_url,
        health=f"{plan.http_url}/health/ready",
        data=data,
        afresh=afresh,
        pid=stage.gateway_pid,
        backend_pid=stage.backend_pid,
    )


def whereabouts(plan: Plan) -> tuple[str, str]:
    """Where the ledger's data is kept, and how to begin without it."""
    if os.environ.get("DATABASE_URL"):
        return "the database that DATABASE_URL names", "To begin afresh, let DATABASE_URL name an empty database."
    folder = plan.data_dir or choose_folder(os.environ)[0]
    return str(folder), "To begin afresh, stop it and remove the data folder, or name another one: --data-dir FOLDER."


def say(sentence: str) -> None:
    """A line of the demo itself, to standard output; the children's go to standard error."""
    for line in textwrap.wrap(sentence, SAID_COLUMNS):
        print(readable("demo", line, colour=False), flush=True)


def printer() -> Callable[[str, str], None]:
    """Prints what the children say, and "connection refused" once for each outage."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    newest: dict[str, str] = {}

    def hear(name: str, line: str) -> None:
        line = refusal_shortened(line)
        if not (is_refusal(line) and newest.get(name) == line):
            print(readable(name, line, colour=colour), file=sys.stderr, flush=True)
        newest[name] = line

    return hear


class Listener(logging.Handler):
    """Gives what this process logs to whoever hears the children."""

    def __init__(self, hear: Callable[[str, str], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        """One line, under the name of the only one here who logs."""
        self._hear("watcher", self.format(record))


def check_port(port: int, option: str) -> None:
    """Raises StageError when a port cannot be had, naming the option that chooses another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise StageError(f"Port {port} cannot be used ({error}); choose another one with {option}.") from None


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses just now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


async def first_of(play: Coroutine[None, None, list[str]], trouble: Coroutine[None, None, None]) -> list[str]:
    """What the play gives; or what `trouble` raises, if that comes first."""
    playing, watching = asyncio.ensure_future(play), asyncio.ensure_future(trouble)
    try:
        await asyncio.wait({playing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            watching.result()
        return playing.result()
    finally:
        playing.cancel()
        watching.cancel()
        await asyncio.wait({playing, watching})


if __name__ == "__main__":
    sys.exit(main())
