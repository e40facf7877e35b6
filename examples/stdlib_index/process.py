"""Starts `indexer.py` as a process of its own and reads its lines; leaves no process behind.

Knows nothing of tasks or gateways.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("indexer.py")
LINE_BYTES = 1024 * 1024
WORDS_BYTES = 500


class Crashed(Exception):
    """The indexer ended without a result."""


class Indexer:
    """A running indexer. Made by `indexing`."""

    def __init__(self, process: Process) -> None:
        if process.stdout is None or process.stderr is None:
            raise ValueError("the process was started without pipes")
        self._process = process
        self._killed = False
        self._stdout = process.stdout
        self._stderr = process.stderr

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """What it says, one object per line, until it ends or is killed."""
        while line := await self._stdout.readline():
            if line.endswith(b"\n"):  # the last line of a killed process may be cut
                yield json.loads(line)

    async def kill_when(self, event: asyncio.Event) -> None:
        """Kill it as soon as `event` is set; it writes nothing, so there is nothing to tidy up."""
        await event.wait()
        self.kill()

    def kill(self) -> None:
        """Kill it if it still runs; once, for a second kill would take its exit status away from the loop."""
        if not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def last_words(self) -> str:
        """How it ended, in a sentence, with the last line of what it wrote to standard error."""
        words = (await self._stderr.read())[-WORDS_BYTES:].decode("utf-8", "replace").strip().splitlines()
        status = await self._process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"The indexer {how} and left no result{': ' + words[-1] if words else '.'}"


@contextlib.asynccontextmanager
async def indexing(folder: Path, *, packages: tuple[str, ...], pace: str) -> AsyncIterator[Indexer]:
    """Run the indexer over a folder; it is gone when the block is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # so that no file beside the program stands in for a module of the standard library
        str(PROGRAM),
        f"--folder={folder}",
        f"--packages={','.join(packages)}",
        f"--pace={pace}",
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        limit=LINE_BYTES,
    )
    run = Indexer(process)
    try:
        yield run
    finally:
        run.kill()
        await process.communicate()
