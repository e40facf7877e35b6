"""One child process: tethered to this one, its output line by line to whoever listens, stopped or killed by pid.

Never outlives this process on Linux (see `tether`), never reads a terminal, and never takes part in its
Ctrl-C: who stops first is for the supervisor to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TETHER = Path(__file__).with_name("tether.py")
LINE_BYTES = 1024 * 1024


class Child:
    """A running process. Made by `Child.start`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, hear: Callable[[str, str], None]) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._hear = hear
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        hear: Callable[[str, str], None],
    ) -> Child:
        """Run this Python with `arguments`; `hear` gets the name and each line of both outputs."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(TETHER),
            str(os.getpid()),
            sys.executable,
            *arguments,
            cwd=folder,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_BYTES,
            start_new_session=True,
        )
        return cls(name, process, hear)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet, as far as is known."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Its exit status once it has ended and said its last line; negative: the signal it died of."""
        status = await self._process.wait()
        await asyncio.shield(self._listening)  # whoever stops waiting must not stop the listening
        return status

    def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        self._send(signal.SIGKILL)

    async def stop(self, *, grace_seconds: float) -> None:
        """Ask it to end, and kill it when it has not after `grace_seconds`."""
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._process.wait()
        except TimeoutError:
            self._hear("demo", f"{self.name} did not stop within {grace_seconds:g} s and is killed")
            self.kill()
        await self.wait()

    def _send(self, number: signal.Signals) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _listen(self) -> None:
        output = self._process.stdout
        if output is None:
            raise ValueError("the process was started without a pipe")
        while True:
            try:
                line = await output.readline()
            except ValueError:  # longer than LINE_BYTES; what was read of it is dropped
                line = b"(a line that is too long)\n"
            if not line:
                return
            self._hear(self.name, line.decode("utf-8", "replace").rstrip("\n"))


def described(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    return f"died of signal {-status} ({signal.Signals(-status).name})"
