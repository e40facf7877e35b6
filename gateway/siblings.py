"""The figures of all processes of one gateway, asked of any of them.

Each process answers on a Unix socket in a folder that their supervisor has made for this, with all its figures as JSON.
A process that replaces another takes over the name of its socket. One that does not answer is told as not up, and
holds up nobody for longer than `ANSWER_SECONDS`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.figures import Family

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 1.0
SUPERVISOR: Final = "supervisor"
FOLDER_PREFIX: Final = "ledgerwire-workers-"
LONGEST_FOLDER: Final = 60
"""Of the place for the folder: the path of a socket may have 107 bytes."""
LOCK: Final = "lock"

Figures = Callable[[], Sequence[Family]]


@contextmanager
def meeting_place() -> Iterator[str]:
    """A private folder for the sockets, removed at the end, and with it those that killed supervisors have left."""
    short = len(tempfile.gettempdir()) <= LONGEST_FOLDER
    parent = tempfile.gettempdir() if short else "/tmp"  # noqa: S108 - what is made there is closed to others
    for folder in Path(parent).glob(f"{FOLDER_PREFIX}*"):
        _remove_if_left(folder)
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, dir=parent) as name, Path(name, LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield name


@asynccontextmanager
async def answering(folder: str, name: str, figures: Figures) -> AsyncIterator[None]:
    """Answer under this name while the context is open."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(msgspec.json.encode(figures()))
            await writer.drain()
        except ConnectionError:
            pass  # whoever asked has gone
        except Exception:
            log.exception("figures_fault")
        finally:
            writer.close()

    own = f"{folder}/{name}.{os.getpid()}.new"
    server = await asyncio.start_unix_server(answer, own)
    inode = _take_name(own, _socket(folder, name))
    try:
        yield
    finally:
        server.close()
        _give_up_name(_socket(folder, name), inode)


async def all_figures(folder: str, name: str, figures: Figures) -> list[Family]:
    """The figures of all who answer in this folder, with a label `process`, and whether each is up.

    `name` is who asks: it is not asked itself. Those of the supervisor have no label.
    """
    others = [other for other in _names(folder) if other != name]
    answers = dict(zip(others, await asyncio.gather(*(_ask(_socket(folder, other)) for other in others)), strict=True))
    found = [*(answers.pop(SUPERVISOR, None) or ())]
    of_all: dict[str, Sequence[Family] | None] = {name: figures(), **answers}
    up: dict[str, float] = {}
    for number in sorted(of_all):
        families = of_all[number]
        up[number] = families is not None
        found += [family.of("process", number) for family in families or ()]
    help_ = "Whether a worker process answers, by its number."
    return [*found, Family.gauge("process_up", help_, up, "process")]


async def _ask(path: Path) -> list[Family] | None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                answer = await reader.read(-1)
            finally:
                writer.close()
        return msgspec.json.decode(answer, type=list[Family])
    except (OSError, TimeoutError, msgspec.DecodeError):
        return None


def _remove_if_left(folder: Path) -> None:
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by a supervisor as long as it lives
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # it is in use, somebody else's, or just being made


def _socket(folder: str, name: str) -> Path:
    return Path(folder, f"{name}.sock")


def _names(folder: str) -> list[str]:
    return [path.stem for path in Path(folder).glob("*.sock")]


def _take_name(own: str, name: Path) -> int:
    """Put a socket where the others look, in place of one that is there; what tells it from the next one."""
    Path(own).replace(name)
    return name.stat().st_ino


def _give_up_name(name: Path, inode: int) -> None:
    """Take the socket away, unless another process has the name by now."""
    try:
        if name.stat().st_ino == inode:
            name.unlink()
    except FileNotFoundError:
        pass
