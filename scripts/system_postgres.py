"""Run one command against a throw-away server of the PostgreSQL that this machine has installed.

    python3 scripts/system_postgres.py python3 scripts/dev.py test tests/integration/ledger

Makes a cluster in a temporary folder, in memory where there is room, as another user when called by root, on a
free loopback port with a random password; gives the command its address as `DATABASE_URL` and its programs
as `LEDGERWIRE_POSTGRES_BIN`, so that servers which the command starts itself are of the same version; then stops
the server by its pid, removes the folder and ends with the command's exit status. It never touches a server that is
already there. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

INSTALLED = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
SERVER_USERS = ("postgres", "nobody")
START_LIMIT_SECONDS = 30.0
STOP_LIMIT_SECONDS = 20.0
# Nothing here outlives the command, so nothing waits for a disk.
MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is made by tempfile, for its owner alone
MEMORY_BYTES = 2 * 1024**3
FORGETFUL = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
OPTIONS = (*FORGETFUL, "max_connections=200", "listen_addresses=127.0.0.1")


def programs() -> Path | None:
    """The folder with `initdb` and `postgres` of the newest installed version, or None."""
    folders = [path for pattern in INSTALLED for path in Path("/").glob(pattern[1:])]
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    complete = [path for path in folders if (path / "initdb").exists() and (path / "postgres").exists()]
    return max(complete, key=lambda path: int((re.findall(r"\d+", str(path)) or ["0"])[-1]), default=None)


def server_user() -> pwd.struct_passwd | None:
    """Whom the server runs as: None for the caller; PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    found = next((known[name] for name in SERVER_USERS if name in known), None)
    if found is None:
        sys.exit(f"PostgreSQL does not run as root, and there is no user {' or '.join(SERVER_USERS)}.")
    return found


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def await_ready(server: subprocess.Popen[Any], data: Path, log: Path) -> None:
    """Return once the server accepts connections. Exits with its log when it does not come up."""
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, IndexError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            if lines[7].strip() == "ready" and int(lines[0]) == server.pid:
                return
        time.sleep(0.05)
    sys.exit(f"PostgreSQL did not start within {START_LIMIT_SECONDS:.0f} s:\n{log.read_text('utf-8')}")


def stop(server: subprocess.Popen[Any]) -> None:
    """End the server, first asking (SIGINT: no waiting for clients), then not."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def memory() -> str | None:
    """A file system in memory, where there is one with room; None: the usual place for temporary files."""
    try:
        room = os.statvfs(MEMORY)
    except OSError:
        return None
    return MEMORY if room.f_bavail * room.f_frsize > MEMORY_BYTES else None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """A new server for as long as the context lasts; yields its DATABASE_URL."""
    user = server_user()
    password = secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory(prefix="ledgerwire-pg-", dir=memory()) as scratch:
        home, data, log = Path(scratch), Path(scratch, "data"), Path(scratch, "log")
        (home / "password").write_text(password, "utf-8")
        log.touch()
        if user:
            for path in (home, home / "password", log):
                os.chown(path, user.pw_uid, user.pw_gid)
        uid, gid, groups = (user.pw_uid, user.pw_gid, list[int]()) if user else (None, None, None)
        environment = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "HOME": scratch}
        port = free_port()
        make = [str(folder / "initdb"), f"--pgdata={data}", f"--pwfile={home / 'password'}", "--no-sync"]
        make += ["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]
        serve = [str(folder / "postgres"), "-D", str(data), "-p", str(port), "-k", scratch]
        serve += [word for option in OPTIONS for word in ("-c", option)]
        with log.open("ab") as sink:
            start = functools.partial(
                subprocess.Popen,
                cwd=scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                user=uid,
                group=gid,
                extra_groups=groups,
                start_new_session=True,  # Ctrl-C is for the command; the server is stopped after it
            )
            if start(make).wait():
                sys.exit(f"initdb failed:\n{log.read_text('utf-8')}")
            server = start(serve)
        try:
            await_ready(server, data, log)
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        finally:
            stop(server)


def leave(number: int, _frame: FrameType | None) -> None:
    """Turn SIGTERM into an exit that stops the server on its way."""
    sys.exit(128 + number)


def main() -> int:
    """Find, start, run, stop; the command's exit status."""
    parser = argparse.ArgumentParser(description="Run a command with its own PostgreSQL in DATABASE_URL.")
    parser.add_argument("--find", action="store_true", help="only say where it is installed; 1 if nowhere")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    folder = programs()
    if folder is None:
        print("No PostgreSQL server here; on Debian and Ubuntu: apt-get install postgresql", file=sys.stderr)
        return 1
    if options.find:
        print(folder)
        return 0
    if not options.command:
        parser.error("name the command to run")
    signal.signal(signal.SIGTERM, leave)
    with running(folder) as url:
        environment = os.environ | {"DATABASE_URL": url, "LEDGERWIRE_POSTGRES_BIN": str(folder)}
        return subprocess.run(options.command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
