"""`ledgerwire watch`: many tasks to their end, as a live view, as lines, or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import ledgerwire
from ledgerwire.cli import outcome
from ledgerwire.cli.options import Address, Wrong, clean, print_json
from ledgerwire.cli.row import Row
from ledgerwire.model import Change, Cursor, Jumped, Transition, WorkerLiveness


class Show(Protocol):
    """How the tasks are shown."""

    def change(self, row: Row, change: Change) -> None:
        """A task has changed; the row shows it already."""

    def liveness(self, row: Row, worker: WorkerLiveness) -> None:
        """A worker has fallen silent, or is heard of again."""

    def unknown(self, row: Row) -> None:
        """Nobody knows the task."""


def options(parser: argparse.ArgumentParser) -> None:
    """Options of `watch`."""
    parser.add_argument("task_ids", metavar="ID", nargs="+")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="for tasks that nobody has created yet")
    parser.add_argument(
        "--after",
        type=_cursor,
        metavar="CURSOR",
        help="go on from there (`cursor` of --json); for one ID",
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view; so it is in a pipe")


async def watch(address: Address, options: argparse.Namespace) -> int:
    """Watch until all have ended; the exit status says how."""
    rows = {task_id: Row(task_id) for task_id in options.task_ids}
    if options.after is not None and len(rows) > 1:
        raise Wrong("--after is for one task: each has a cursor of its own.")
    async with ledgerwire.Watcher(address.url, token=address.token) as watcher:
        with _shown(address, options, watcher, list(rows.values())) as show:

            async def follow(row: Row) -> int:
                def on_liveness(worker: WorkerLiveness) -> None:
                    row.hear(worker)
                    show.liveness(row, worker)

                changes = watcher.subscribe(
                    row.task_id, after=options.after, wait_seconds=options.wait, on_liveness=on_liveness
                )
                try:
                    async with contextlib.aclosing(changes):
                        async for change in changes:
                            row.take(change)
                            show.change(row, change)
                except ledgerwire.UnknownTask:
                    row.unknown = True
                    show.unknown(row)
                    return outcome.UNKNOWN
                if row.status is None:  # it had ended at the cursor
                    return await _how_it_ended(watcher, row.task_id)
                return outcome.of_status(row.status)

            try:
                async with asyncio.TaskGroup() as group:
                    following = [group.create_task(follow(row)) for row in rows.values()]
            except* (
                ledgerwire.LedgerwireError,
                BrokenPipeError,
            ) as failed:  # one for all
                raise failed.exceptions[0] from None
    return outcome.worst(each.result() for each in following)


async def _how_it_ended(watcher: ledgerwire.Watcher, task_id: str) -> int:
    async with contextlib.aclosing(watcher.subscribe(task_id)) as changes:
        return outcome.of_status((await anext(changes)).status)


@contextlib.contextmanager
def _shown(
    address: Address, options: argparse.Namespace, watcher: ledgerwire.Watcher, rows: list[Row]
) -> Iterator[Show]:
    if options.json:
        yield _Json()
        return
    if not options.plain and sys.stdout.isatty():
        try:
            from ledgerwire.cli.view import live  # noqa: PLC0415 - rich is an extra, and slow to import
        except ModuleNotFoundError:
            pass  # without rich there are lines
        else:
            logging.getLogger("ledgerwire").setLevel(logging.CRITICAL)  # the view says how the connection is
            with live(address.url, watcher, rows) as view:
                yield view
            return
    yield _Lines()


class _Lines:
    """A line per change."""

    def change(self, row: Row, change: Change) -> None:
        jumped = f"jumped ({change.reason})" if isinstance(change, Jumped) else ""
        words = [clean(row.task_id), f"#{change.seq}", jumped, change.status, row.percent, *row.remarks]
        self._say(words)

    def liveness(self, row: Row, worker: WorkerLiveness) -> None:
        self._say([clean(row.task_id), row.silence or f"the worker is {worker.liveness}"])

    def unknown(self, row: Row) -> None:
        self._say([clean(row.task_id), "nobody has created or reported this task"])

    def _say(self, words: list[str]) -> None:
        sys.stdout.write("  ".join(word for word in words if word) + "\n")
        sys.stdout.flush()


class _Json:
    """An object per change; `type` is snapshot, transition, jumped, liveness or unknown."""

    def change(self, row: Row, change: Change) -> None:
        shown: dict[str, Any] = {"task_id": change.task_id, "type": type(change).__name__.lower()}
        if isinstance(change, Jumped):
            shown |= {"reason": change.reason, "from": None if change.origin is None else str(change.origin)}
        shown |= {"seq": change.seq, "cursor": str(change.cursor), "status": change.status, "attempt": change.attempt}
        shown |= {name: getattr(change, name) for name in ("progress", "stage", "message", "forced")}
        sets = change.sets if isinstance(change, Transition) else ("data", "result", "error")
        shown |= {name: getattr(change, name) for name in ("data", "result", "error") if name in sets}
        if change.cancel is not None:
            shown["cancel"] = {"stage": change.cancel.stage, "reason": change.cancel.reason}
        shown["at"] = row.at
        print_json(shown)

    def liveness(self, row: Row, worker: WorkerLiveness) -> None:
        print_json(
            {"task_id": row.task_id, "type": "liveness", "liveness": worker.liveness, "beat_age_ms": worker.beat_age_ms}
        )

    def unknown(self, row: Row) -> None:
        print_json({"task_id": row.task_id, "type": "unknown"})


def _cursor(text: str) -> Cursor:
    try:
        return Cursor.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
