"""The life of our own PostgreSQL: found, made, started, watched until it is ready, and stopped.

It is a child of this process with a Unix socket and nothing else, and it dies with us: after a `kill -9` of
the gateway the kernel asks it to shut down cleanly. Starting is synchronous and belongs on the main thread,
before the event loop runs. Never used when DATABASE_URL is set.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from ledger.embedded import binaries as programs
from ledger.embedded.child import require_main_thread, run_child, start_child
from ledger.embedded.folder import DATABASE, DataFolder
from ledger.errors import EmbeddedError

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 60
"""Where nothing else is asked for: what one gateway needs, twice, and some for people."""
_POLL_SECONDS: Final = 0.01
_LOG_TAIL_BYTES: Final = 2_000
# How long the server of a killed gateway may take to shut down before it is told to stop at once.
_PREDECESSOR_SECONDS: Final = 5.0
_MARK: Final = "ledgerwire"
_SETTINGS: Final = {
    "listen_addresses": "",
    "port": "5432",  # only part of the socket's name; given, as PGPORT in the environment would change it
    "unix_socket_permissions": "0700",
    "cluster_name": _MARK,
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Keeps the log small without anybody to rotate it while we run, and people's data out of it. Errors of
    # statements are reported by whoever sent them.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "log_autovacuum_min_duration": "-1",
    "logging_collector": "off",
}
_DURABILITY: Final = ("fsync", "full_page_writes", "synchronous_commit")


class EmbeddedPostgres:
    """A running server of our own. Made by `start`; a context manager that stops it at the end."""

    def __init__(self, folder: DataFolder, cluster: Path, sockets: Path, process: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self._process = process
        self._stopped = False
        self.data_dir = folder.path
        self.cluster_dir = cluster
        self.log_path = folder.path / "server.log"
        self.pid = process.pid
        self.dsn = f"postgresql://postgres@/{DATABASE}?host={quote(str(sockets), safe='')}&port=5432"
        """For asyncpg. Only this account (and root) can reach the socket, so there is no password."""

    @classmethod
    def start(
        cls,
        data_dir: Path | None = None,
        *,
        existing: bool = False,
        durable: bool = True,
        max_connections: int = MAX_CONNECTIONS,
        start_timeout_seconds: float = 30.0,
    ) -> Self:
        """Start the server on `data_dir` and wait until it takes connections; the first time, make its data.

        Without `data_dir` a folder of this user is taken, see `folder.choose_folder`. The data is kept
        between runs. `existing` is for who wants the ledger that is there: none is made, and `SettingsError`
        says that there is none. `durable=False` is for tests only: a crash of the machine may then destroy it. Blocks
        for a moment, the first time for a second or two; at most `start_timeout_seconds`.

        Raises `EmbeddedError`, which says what to do: no binaries, a folder in use or out of reach, data of
        another version, a server that does not come up (with the end of its log).
        """
        require_main_thread()
        deadline = time.monotonic() + start_timeout_seconds
        folder = DataFolder.take(data_dir, os.environ, existing=existing)
        try:
            for note in folder.notes:
                logger.info(note)
            newest = folder.existing_cluster()
            found = programs.find_binaries(os.environ, major=newest[0] if newest else None)
            usable = programs.readable_for(folder.account, found, folder.path)
            cluster = newest[1] if newest else _make_cluster(folder, usable, deadline, durable=durable)
            _wait_for_predecessor(cluster, deadline)
            socket_folder = folder.socket_folder(cluster)
            process = _start_server(folder, usable, cluster, socket_folder, durable, max_connections)
            try:
                _wait_until_ready(process, cluster, folder.path / "server.log", deadline)
            except BaseException:
                _end(process, timeout_seconds=2.0)
                raise
        except BaseException:
            folder.close()
            raise
        return cls(folder, cluster, socket_folder, process)

    @property
    def running(self) -> bool:
        """Whether the server is still there."""
        return self._process.poll() is None

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Shut down: cut the sessions off and write everything out; after the time, harder. Repeatable.

        Takes at most twice `timeout_seconds`. A server that is stopped the hard way recovers at the next
        start; no commit is lost.
        """
        if self._stopped:
            return
        self._stopped = True
        try:
            _end(self._process, timeout_seconds)
        finally:
            self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _make_cluster(folder: DataFolder, found: programs.Binaries, deadline: float, *, durable: bool) -> Path:
    """Make the data beside its place, with our database in it, and put it there when it is whole."""
    unfinished = folder.unfinished_cluster(found.major)
    options = ["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"]
    initdb: list[str | Path] = [found.initdb, "-D", unfinished, *options, *([] if durable else ["--no-sync"])]
    single: list[str | Path] = [found.postgres, "--single", "-D", unfinished, *([] if durable else ["-F"])]
    for command, stdin in ((initdb, ""), ([*single, "template1"], f"create database {DATABASE};\n")):
        code, output = run_child(
            command,
            account=folder.account,
            folder=folder.path,
            timeout_seconds=deadline - time.monotonic(),
            stdin=stdin.encode(),
        )
        # A single-user server ends with 0 whatever became of the statement.
        if code != 0 or any(word in output for word in ("ERROR:", "FATAL:", "PANIC:")):
            raise EmbeddedError(
                f"a new database could not be made in {folder.path} as {folder.account.name!r}; set "
                f"DATABASE_URL to use another server. It said: {output[-_LOG_TAIL_BYTES:].strip()}"
            )
    return folder.finish_cluster(unfinished, found.major)


def _start_server(
    folder: DataFolder,
    found: programs.Binaries,
    cluster: Path,
    socket_folder: Path,
    durable: bool,
    max_connections: int,
) -> subprocess.Popen[bytes]:
    # A list, whose members may be quoted: spaces and quotes in a path survive.
    quoted = '"' + str(socket_folder).replace('"', '""') + '"'
    settings = {
        **_SETTINGS,
        "unix_socket_directories": quoted,
        "max_connections": str(max_connections),
        # Given here, they win over whatever somebody wrote into the folder's postgresql.conf.
        **dict.fromkeys(_DURABILITY, "on" if durable else "off"),
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with folder.rotate_log().open("ab") as log:
        return start_child(
            [found.postgres, "-D", cluster, *options],
            account=folder.account,
            folder=folder.path,
            death_signal=signal.SIGINT,
            output=log,
        )


def _end(process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
    """Ask for a fast shutdown; when that takes too long, for an immediate one; then kill."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        process.send_signal(number)
        try:
            process.wait(timeout_seconds)
            return
        except subprocess.TimeoutExpired:
            logger.warning("PostgreSQL has not stopped %.1f s after %s", timeout_seconds, number.name)
    process.kill()
    process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], cluster: Path, log: Path, deadline: float) -> None:
    """Wait until the server says `ready` on the last line of its pid file, and the file is this child's."""
    while process.poll() is None:
        if _pid_file(cluster) == (process.pid, "ready"):
            return
        if time.monotonic() > deadline:
            raise EmbeddedError(f"PostgreSQL was not ready in time. The end of {log}:\n{_tail(log)}")
        time.sleep(_POLL_SECONDS)
    raise EmbeddedError(
        f"PostgreSQL ended with code {process.returncode} while starting; set DATABASE_URL to use another "
        f"server. The end of {log}:\n{_tail(log)}"
    )


def _pid_file(cluster: Path) -> tuple[int, str]:
    """The pid and the state that postmaster.pid names; (0, "") while it is not complete."""
    try:
        lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return 0, ""
    return (int(lines[0]), lines[-1].strip()) if len(lines) >= 8 else (0, "")


def _wait_for_predecessor(cluster: Path, deadline: float) -> None:
    """Wait for the server of a gateway that was killed: it is shutting down. Then remove what it left.

    We hold the folder's lock, so no other gateway is starting one. A server of ours that does not get on with
    it is told to stop at once: one that was recovering when its gateway died can miss the request and stay
    (seen with PostgreSQL 18). One that somebody else started is left alone. A pid file of a dead server is
    removed here, because PostgreSQL only looks whether its pid is alive, and in a container that is soon
    another's.
    """
    patience = time.monotonic() + _PREDECESSOR_SECONDS
    while pids := _servers_in(cluster):
        if time.monotonic() > patience:
            patience = deadline
            for pid in filter(_is_ours, pids):
                logger.warning("stopping PostgreSQL %d, left behind by a gateway that was killed", pid)
                _send(pid, signal.SIGQUIT)
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"a PostgreSQL that no gateway holds works in {cluster} (pid {', '.join(map(str, pids))}). "
                "Stop it, or choose another folder with LEDGERWIRE_DATA_DIR."
            )
        time.sleep(_POLL_SECONDS)
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _servers_in(cluster: Path) -> list[int]:
    """The pids of all PostgreSQL processes whose current folder is this one, as it is of all that use it."""
    pids = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "comm").read_text() == "postgres\n" and (process / "cwd").readlink() == cluster:
                    pids.append(int(process.name))
            except OSError:
                continue  # it has ended, or it is another account's
    return sorted(pids)


def _is_ours(pid: int) -> bool:
    """Whether this is a postmaster that an `EmbeddedPostgres` started: its command line says so."""
    try:
        return f"cluster_name={_MARK}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has just ended


def _tail(log: Path) -> str:
    try:
        return log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError as exc:
        return f"({exc})"
