"""One worker process as its supervisor sees it: what it says on its pipe, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

import msgspec

from gateway.place import Word


class Child:
    """One gateway process, from its start to its end."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, words: asyncio.StreamReader) -> None:
        self.number = number
        self.pid = process.pid
        self.ready = False
        self.sentence = ""
        self._silent_looks = 0
        self.ended = asyncio.Event()
        self._decided = asyncio.Event()  # whether it will be ready
        self._began = time.monotonic()
        self._process = process
        self._words = words

    @property
    def lived_seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def status(self) -> int:
        """The exit status; 128 and the signal's number when a signal has ended it, as shells have it."""
        status = self._process.returncode or 0
        return status if status >= 0 else 128 - status

    def send(self, signum: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signum)

    def look(self) -> int:
        """How many looks in a row, with this one, have found that it has said nothing since."""
        self._silent_looks += 1
        return self._silent_looks

    async def become_ready(self, seconds: float) -> bool:
        """Wait until it says that it serves; one that does not in time is killed. False when it has ended."""
        try:
            async with asyncio.timeout(seconds):
                await self._decided.wait()
        except TimeoutError:
            self.sentence = f"It was not ready within {seconds:g} s."
            self.send(signal.SIGKILL)
            await self.ended.wait()
        return self.ready

    async def watch(self) -> None:
        """Hear what it says, until it has ended."""
        while line := await self._words.readline():
            word = msgspec.json.decode(line, type=Word)
            self._silent_looks = 0
            self.ready = self.ready or word.ready
            self.sentence = word.sentence
            if self.ready:
                self._decided.set()
        await self._process.wait()
        self.ended.set()
        self._decided.set()
