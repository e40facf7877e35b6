"""`ledgerwire report` and `ledgerwire cancel`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from dataclasses import asdict
from typing import Any, Final

import ledgerwire
from ledgerwire.cli import outcome
from ledgerwire.cli.options import Address, clean, json_value, print_json
from ledgerwire.model import CancelState
from ledgerwire.single import OPEN_STAGES

_SENTENCES: Final = {
    "recorded": "recorded; the worker is told",
    "delivered": "the worker has heard of it",
    "honoured": "cancelled",
    "forced": "cancelled, because nobody has answered; its worker may be at work still",
    "refused": "refused, the work goes on",
    "too_late": "too late, the task had ended",
}
_STATUSES: Final = {"refused": outcome.CANCEL_REFUSED, "too_late": outcome.CANCEL_TOO_LATE}
TIMEOUT_SECONDS: Final = 30.0


def report_options(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("task_id", metavar="ID")
    parser.add_argument("--status", choices=("pending", "running", "completed", "failed", "cancelled"))
    parser.add_argument("--progress", type=float, metavar="0-100")
    parser.add_argument("--stage", help="what it is at")
    parser.add_argument("--message", help="a sentence for those who wait")
    for name in ("data", "result", "error"):
        parser.add_argument(f"--{name}", type=json_value, metavar="JSON", help="JSON, or @FILE, or - for stdin")
    parser.add_argument("--key", help="the same report with the same key again has no second effect")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, metavar="SECONDS", help="default %(default)g")


async def report(address: Address, options: argparse.Namespace) -> int:
    """Send one report, and say where it was committed."""
    names = ("progress", "stage", "message", "data", "result", "error")
    given: dict[str, Any] = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    # Nothing goes on being sent when this has ended.
    timing = ledgerwire.Timing(close_seconds=0.5)
    async with ledgerwire.Worker(address.url, token=address.token, timing=timing) as worker:
        receipt = await worker.report(
            options.task_id, key=options.key, status=options.status, timeout_seconds=options.timeout, **given
        )
    if options.json:
        print_json(asdict(receipt))
    else:
        repeat = ", as before" if receipt.repeat else ""
        sys.stdout.write(f"{receipt.task_id}: {receipt.status}, committed as {receipt.seq}{repeat}\n")
    return 0


def cancel_options(parser: argparse.ArgumentParser) -> None:
    """Options of `cancel`."""
    parser.add_argument("task_id", metavar="ID")
    parser.add_argument("--reason", help="a sentence for the worker")
    parser.add_argument("--no-wait", action="store_true", help="return when the request is recorded")
    parser.add_argument(
        "--timeout", type=float, default=300.0, metavar="SECONDS", help="for the worker's answer; default %(default)g"
    )


async def cancel(address: Address, options: argparse.Namespace) -> int:
    """Ask for a cancel, and show its stages until the last."""
    state: CancelState | None = None
    stages = ledgerwire.cancel_stages(options.task_id, url=address.url, token=address.token, reason=options.reason)
    try:
        async with asyncio.timeout(options.timeout), contextlib.aclosing(stages):
            async for state in stages:
                _show(options, state)
                if options.no_wait:
                    break
    except TimeoutError as error:
        raise ledgerwire.Unreachable(f"no answer to the cancel in {options.timeout:g} s") from error
    if state is None or (state.stage in OPEN_STAGES and not options.no_wait):
        return outcome.FAILED
    return _STATUSES.get(state.stage, 0)


def _show(options: argparse.Namespace, state: CancelState) -> None:
    if options.json:
        print_json({"task_id": options.task_id, **asdict(state)})
    else:
        sys.stdout.write(f"{clean(options.task_id)}: {_SENTENCES.get(state.stage, state.stage)}\n")
        sys.stdout.flush()
