"""What a run needs and may not find: built or fetched into a cache folder, never into the repository or the system.

C programs are compiled from their sources here, Node packages come by npm as the lock beside them says, and nginx with
nchan comes out of Debian's packages, unpacked and not installed, where the machine has none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from scripts.bench.place import CannotMeasure
from scripts.bench.programs import output_of

HERE: Final = Path(__file__).parent
PEERS: Final = HERE / "peers"
_COMPILE: Final = ("-O2", "-Wall", "-Wextra")
_NODE_FILES: Final = ("package.json", "package-lock.json", "ws.mjs", "socketio.mjs")
_NCHAN: Final = "usr/lib/nginx/modules/ngx_nchan_module.so"
_UNPACK: Final = 'for package in *.deb; do dpkg-deb -x "$package" . || exit 1; done'
_APART: Final = (
    "unshare", "--map-root-user", "--mount",
    "sh", "-c", 'mount -t tmpfs none /var/lib && mkdir /var/lib/nginx && exec "$@"', "sh",
)  # fmt: skip
NO_COMPILER: Final = (
    "There is no C compiler (cc, gcc or clang) for the client that measures; on Debian and Ubuntu:"
    " apt-get install gcc libc6-dev"
)


def cache_folder() -> Path:
    """Where things are kept for the next run; it may be removed at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ledgerwire-bench"


def compiled(name: str) -> Path:
    """The program of `NAME.c`. Raises `CannotMeasure` without a compiler, or with what the compiler says."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "cc", "gcc", "clang"))), None)
    if compiler is None:
        raise CannotMeasure(NO_COMPILER)
    sources = [HERE / f"{name}.c", *sorted(HERE.glob(f"{name}_*.h"))]

    def make(folder: Path) -> None:
        command: list[str | Path] = [compiler, *_COMPILE, "-o", folder / name, sources[0]]
        output_of(command, timeout_seconds=120)

    return _made(name, [compiler.encode(), *(source.read_bytes() for source in sources)], make) / name


def node_peers() -> Path:
    """A folder with the servers for Node and their packages. Raises `CannotMeasure` without Node, npm or a registry."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise CannotMeasure(f"{program} is not installed; on Debian and Ubuntu: apt-get install nodejs npm")
    files = [PEERS / name for name in _NODE_FILES]

    def make(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder)
        install: list[str | Path] = [
            "npm",
            "ci",
            "--prefix",
            folder,
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]
        output_of(install, timeout_seconds=300)

    return _made("node", [file.read_bytes() for file in files], make)


class Nginx(NamedTuple):
    """How nginx with nchan is called, where its module is, and the `user` its configuration has to name, if any."""

    command: list[str | Path]
    module: Path
    user: str


def nginx() -> Nginx:
    """nginx with nchan. Raises `CannotMeasure` where they are neither installed nor to be had from apt.

    nchan wants the folder /var/lib/nginx, which only an installation has: unpacked, it runs in name spaces of its own,
    where it sees an empty one.
    """
    installed = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if installed and (Path("/") / _NCHAN).exists():
        return Nginx([installed], Path("/") / _NCHAN, "")
    if any(shutil.which(program) is None for program in ("apt-get", "dpkg-deb", "unshare")):
        raise CannotMeasure("nginx with nchan is not installed; Debian has it as nginx and libnginx-mod-nchan")

    def make(folder: Path) -> None:
        folder.chmod(0o755)  # apt may download as another user
        for words in (["apt-get", "-qq", "download", "nginx", "libnginx-mod-nchan"], ["sh", "-c", _UNPACK]):
            output_of(words, timeout_seconds=120, folder=folder)

    folder = _made("nginx", [], make)
    return Nginx([*_APART, folder / "usr/sbin/nginx"], folder / _NCHAN, "user root;")


def versions() -> dict[str, str]:
    """Of what was compiled, fetched or installed here and can be asked; the rest is not in it."""
    asked: dict[str, list[str | Path]] = {
        "cc": [os.environ.get("CC") or "cc", "--version"],
        "node": ["node", "--version"],
        "centrifugo": ["centrifugo", "version"],
        "nginx, nchan": ["dpkg-query", "--show", "nginx", "libnginx-mod-nchan"],
    }
    found = dict(json.loads((PEERS / "package.json").read_text("utf-8"))["dependencies"])
    found |= {name: version(name) for name in ("aiohttp", "uvloop")}
    if unpacked := sorted(cache_folder().glob("nginx-*/*.deb")):
        found["nginx, nchan"] = " ".join(package.stem for package in unpacked)
    for name, command in asked.items():
        if name not in found:
            try:
                found[name] = " ".join(output_of(command, timeout_seconds=10).splitlines()[0].split())
            except (CannotMeasure, IndexError):
                pass  # it is not here
    return found


def _made(name: str, parts: Sequence[bytes], make: Callable[[Path], None]) -> Path:
    """The folder that was made of these parts, now or by a run before; whole, or not there."""
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    folder = cache_folder() / f"{name}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            make(unfinished)
            unfinished.rename(folder)
        except OSError as error:
            if not folder.exists():  # else another run was faster
                raise CannotMeasure(f"{folder}: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder
