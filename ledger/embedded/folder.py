"""The data folder: where it is, which account owns it, that one gateway has it, and where the socket goes.

    <data_dir>/ledgerwire.lock     held while a gateway uses the folder; holds its pid
               server.log          of this start, and server.log.1 of the one before
               postgres-18/        the data, one folder per major version
               binaries-18-…/      only where root had to copy them

Never changes the rights of a folder it did not make, but for an empty one that it was given.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ledger.embedded.child import Account, this_account
from ledger.errors import EmbeddedError, SettingsError

VARIABLE: Final = "LEDGERWIRE_DATA_DIR"
DATABASE: Final = "ledgerwire"
SYSTEM_FOLDER: Final = Path("/var/lib/ledgerwire")
SOCKET_NAME: Final = ".s.PGSQL.5432"
# sockaddr_un holds 108 bytes, the last of them zero.
LONGEST_SOCKET_PATH_BYTES: Final = 107
# A supervisor may start us while the one before, killed, is still on its way out and holds the lock.
LOCK_WAIT_SECONDS: Final = 1.0
_UNFINISHED: Final = ".unfinished-"


class DataFolder:
    """A data folder that this process has locked. Close it to let it go; the kernel does so when we die."""

    def __init__(self, path: Path, account: Account, lock: int, notes: tuple[str, ...]) -> None:
        self.path = path
        self.account = account
        self.notes = notes
        self._lock = lock
        self._socket_folder: Path | None = None

    @classmethod
    def take(cls, data_dir: Path | None, environment: Mapping[str, str], *, existing: bool = False) -> DataFolder:
        """Choose, make and lock the folder. With `existing` make nothing: the ledger in it is what is wanted.

        Raises `EmbeddedError` when it is in use (saying by which pid), cannot be made, or cannot be reached
        by the account that the server has to run as; `SettingsError` when an existing ledger is not there.
        """
        path, notes = (data_dir, ()) if data_dir else choose_folder(environment)
        path = path.absolute()
        try:
            if existing and _newest_cluster(path) is None:
                raise SettingsError(f"There is no ledger in {path}; is --data-dir right?")
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = path.resolve()
            account = _account_for(path)
            if account != this_account():
                if made or not any(path.iterdir()):
                    os.chown(path, account.uid, account.gid)
                if not account.can_reach(path / "postgres"):
                    raise EmbeddedError(
                        f"PostgreSQL refuses to run as root, so it runs as {account.name!r}, which cannot "
                        f"enter {path}. Choose another folder with {VARIABLE} (for example {SYSTEM_FOLDER}), "
                        "start as a normal user, or set DATABASE_URL."
                    )
            in_use = _existing_in_use if existing else _in_use
            return cls(path, account, _locked(path / "ledgerwire.lock", in_use), notes)
        except OSError as exc:
            raise EmbeddedError(
                f"the data folder {path} cannot be used: {exc}. Choose another with {VARIABLE}, or set DATABASE_URL."
            ) from exc

    def existing_cluster(self) -> tuple[int, Path] | None:
        """The data that is there: its major version and its folder; the newest, where there are several."""
        return _newest_cluster(self.path)

    def unfinished_cluster(self, major: int) -> Path:
        """A new folder to make a cluster in; `finish_cluster` puts it in place. Removes older attempts."""
        for stale in self.path.glob(f"postgres-*{_UNFINISHED}*"):
            shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"postgres-{major}{_UNFINISHED}", dir=self.path))
        os.chown(folder, self.account.uid, self.account.gid)
        return folder

    def finish_cluster(self, unfinished: Path, major: int) -> Path:
        """Put a complete cluster in its place in one step: a cluster is there as a whole or not at all."""
        cluster = self.path / f"postgres-{major}"
        unfinished.rename(cluster)  # replaces an empty folder, and no other
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return cluster

    def socket_folder(self, cluster: Path) -> Path:
        """Where the socket goes: in the cluster, or in a short private folder if that path is too long.

        A comma would split the path in a list of hosts, so such a path goes to the short folder too.
        """
        folder = _socket_place(cluster)
        if folder == cluster:
            return cluster
        try:
            folder.mkdir(mode=0o700)
            os.chown(folder, self.account.uid, self.account.gid)
        except FileExistsError:
            status = folder.lstat()
            ours = stat.S_ISDIR(status.st_mode) and status.st_uid == self.account.uid
            if not ours or status.st_mode & 0o077:
                raise EmbeddedError(
                    f"{folder} belongs to somebody else; remove it, or choose a shorter path with {VARIABLE}"
                ) from None
        self._socket_folder = folder
        return folder

    def rotate_log(self) -> Path:
        """Keep the log of the last start as `server.log.1`; the path for the new one."""
        log = self.path / "server.log"
        if log.exists():
            log.replace(log.with_name("server.log.1"))
        return log

    def close(self) -> None:
        """Remove the short socket folder, and unlock."""
        if self._socket_folder is not None:
            try:
                self._socket_folder.rmdir()
            except OSError:
                pass  # a server that was killed has left its socket; the next start uses the folder again
        os.close(self._lock)


def choose_folder(environment: Mapping[str, str]) -> tuple[Path, tuple[str, ...]]:
    """The folder for this user, and what there is to say about the choice.

    LEDGERWIRE_DATA_DIR, else `ledgerwire` under XDG_DATA_HOME or ~/.local/share; for root, where the server's
    account cannot get there, /var/lib/ledgerwire.
    """
    if named := environment.get(VARIABLE):
        return Path(named), ()
    # XDG says that a relative path is to be ignored.
    shared = Path(environment.get("XDG_DATA_HOME", ""))
    if not shared.is_absolute():
        shared = Path(environment.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir) / ".local" / "share"
    folder = shared / "ledgerwire"
    if this_account().uid == 0:
        first_there = next(parent for parent in folder.parents if parent.exists())
        account = _account_for(folder)
        if not account.can_reach(first_there / "x"):
            note = (
                f"the data is kept in {SYSTEM_FOLDER}, because the server runs as {account.name!r}, which "
                f"cannot enter {folder}; {VARIABLE} names another place"
            )
            return SYSTEM_FOLDER, (note,)
    return folder, ()


def _newest_cluster(path: Path) -> tuple[int, Path] | None:
    found = []
    for folder in path.glob("postgres-*"):
        if _UNFINISHED in folder.name or not folder.is_dir():
            continue
        version = folder / "PG_VERSION"
        if version.exists():
            found.append((int(version.read_text()), folder))
        elif any(folder.iterdir()):
            raise EmbeddedError(f"{folder} is no PostgreSQL data: PG_VERSION is missing. Move it away.")
    return max(found, default=None)


def _account_for(path: Path) -> Account:
    """Whom the server runs as: us; for root, the owner of the data that is there, else `nobody`."""
    ours = this_account()
    if ours.uid != 0:
        return ours
    for version in path.glob("postgres-*/PG_VERSION"):
        status = version.stat()
        if status.st_uid != 0:
            return Account(uid=status.st_uid, gid=status.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL refuses to run as root, and this machine has no account `nobody` to run it as; start "
            "as a normal user, or set DATABASE_URL"
        ) from None
    return Account(uid=nobody.pw_uid, gid=nobody.pw_gid)


def _socket_place(cluster: Path) -> Path:
    if len(os.fsencode(cluster / SOCKET_NAME)) <= LONGEST_SOCKET_PATH_BYTES and "," not in str(cluster):
        return cluster
    # The same name at each start, so that a killed gateway leaves one folder behind at most.
    name = f"ledgerwire-{hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]}"
    return Path("/tmp") / name  # noqa: S108 - short by need; made 0700 and checked by `socket_folder`


def _in_use(path: Path, holder: str) -> str:
    return (
        f"the data folder {path} is in use by the process with pid {holder}. Stop that one, give "
        f"this one a folder of its own with --data-dir or {VARIABLE}, or let both share a server with DATABASE_URL."
    )


def _existing_in_use(path: Path, holder: str) -> str:
    """For who wants this ledger and no other: another folder would be another ledger."""
    newest = _newest_cluster(path)
    host = quote(str(_socket_place(newest[1]) if newest else path))
    return (
        f"The own PostgreSQL in {path} is in use by the gateway with pid {holder}. Stop the gateway and run this "
        f"again; or, with it running, set DATABASE_URL='postgresql://postgres@/{DATABASE}?host={host}'."
    )


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked(path: Path, in_use: Callable[[Path, str], str]) -> int:
    """Lock `path` for this process and write our pid into it; the open descriptor holds the lock."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while not _try_lock(lock):
        if time.monotonic() > deadline:
            holder = os.pread(lock, 20, 0).decode().strip() or "unknown"
            os.close(lock)
            raise EmbeddedError(in_use(path.parent, holder))
        time.sleep(0.01)
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock
