"""Child processes that run as another account and get a signal when this process dies, however it dies.

A small Python program stands between us and the child: it lowers its rights, asks the kernel for the signal,
and becomes the child by exec. So nothing runs between fork and exec in this process, which may have threads.
Linux only. This module knows nothing of PostgreSQL, and never runs a shell.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from ledger.errors import EmbeddedError

# PR_SET_PDEATHSIG is 1. It comes after the change of credentials, because that clears it; and the parent is
# looked at after that, because it may have died before.
_BECOME: Final = """
import ctypes, os, sys
parent, number, uid, gid = map(int, sys.argv[1:5])
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0 and uid != 0:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
if libc.prctl(1, number, 0, 0, 0) != 0:
    sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
if os.getppid() != parent:
    sys.exit("the parent is gone")
os.execv(sys.argv[5], sys.argv[5:])
"""

# All that the child sees of our environment: the rest may hold secrets, or settings for clients (PGPORT).
_PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH", "TZ")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who a child runs as."""

    uid: int
    gid: int

    @property
    def name(self) -> str:
        """The account's name, or its number where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def can(self, rights: int, path: Path) -> bool:
        """Whether the mode bits of `path` give this account `rights` (4 read, 2 write, 1 enter or run)."""
        status = path.stat()
        if self.uid == status.st_uid:
            granted = status.st_mode >> 6
        elif self.gid == status.st_gid:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & rights == rights

    def can_reach(self, path: Path) -> bool:
        """Whether this account may enter every folder above `path`."""
        return all(self.can(1, parent) for parent in path.parents)


def this_account() -> Account:
    """The account that we run as."""
    return Account(uid=os.geteuid(), gid=os.getegid())


def require_main_thread() -> None:
    """The kernel's signal is bound to the thread that forks: when that thread ends, the child dies.

    Raises `EmbeddedError` off the main thread and off Linux.
    """
    if sys.platform != "linux":
        raise EmbeddedError(f"the embedded PostgreSQL runs on Linux, not on {sys.platform}; set DATABASE_URL")
    if threading.get_native_id() != os.getpid():
        raise EmbeddedError("start the embedded PostgreSQL on the main thread; it would die with this one")


def start_child(
    command: Sequence[str | Path],
    *,
    account: Account,
    folder: Path,
    death_signal: signal.Signals,
    output: int | IO[bytes],
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start `command` as `account` in `folder`; it gets `death_signal` when this process dies.

    It has a session of its own, so that a Ctrl-C in our terminal reaches us first and only.
    """
    account_and_signal = [str(os.getpid()), str(int(death_signal)), str(account.uid), str(account.gid)]
    return subprocess.Popen(  # noqa: S603 - fixed commands, no shell
        [sys.executable, "-I", "-S", "-c", _BECOME, *account_and_signal, *map(str, command)],
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        start_new_session=True,
    )


def run_child(
    command: Sequence[str | Path],
    *,
    account: Account,
    folder: Path,
    timeout_seconds: float,
    stdin: bytes = b"",
) -> tuple[int, str]:
    """Run `command` to its end; its exit code and its output. It is killed when the time is up or we die."""
    child = start_child(
        command,
        account=account,
        folder=folder,
        death_signal=signal.SIGKILL,
        output=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )
    with child:
        try:
            output, _ = child.communicate(stdin, timeout=max(timeout_seconds, 0.1))
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
            output += f"\n(killed: not done after {timeout_seconds:.0f} s)".encode()
    return child.returncode, output.decode(errors="replace")
