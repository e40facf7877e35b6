"""The JavaScript client for tests: its packages installed and its sources built, once for all that ask.

Skips with a sentence where there is no Node or its packages cannot be had; fails there where CI=true promises both.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NoReturn

import pytest

from tests.support.gateway import ROOT

CLIENT: Final = ROOT / "clients" / "js"
NODE_MAJOR: Final = 18
INSTALL_SECONDS: Final = 240
SOURCES: Final = ("package.json", "package-lock.json", "tsconfig.json", "scripts/**/*", "src/**/*")


def missing(reason: str) -> NoReturn:
    """What these tests need is not here."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    print(reason)  # noqa: T201 - the reason is shown with -s too
    pytest.skip(reason)


def node() -> str:
    """Where Node is."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        missing("Node and npm are not on PATH; on Debian: apt-get install nodejs npm")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE_MAJOR:
        missing(f"Node {version} is too old for the JavaScript client's tests; they need {NODE_MAJOR}")
    return found


def built() -> Path:
    """The folder of the client with its packages installed and its sources built."""
    node()
    lock = os.open(CLIENT, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _once("packages", ("package-lock.json",), "npm", "ci", "--no-fund", "--no-audit", "--loglevel=error")
        _once("build", SOURCES, "npm", "run", "--silent", "build")
    finally:
        os.close(lock)
    return CLIENT


def _once(what: str, patterns: tuple[str, ...], *command: str) -> None:
    """Run the command if these files have changed since it ran."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in CLIENT.glob(pattern) if path.is_file()):
        digest.update(str(path.relative_to(CLIENT)).encode() + b"\0" + path.read_bytes())
    stamp = CLIENT / "node_modules" / f".ledgerwire-{what}"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest.hexdigest():
        return
    done = subprocess.run(
        command, cwd=CLIENT, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )  # fmt: skip
    if done.returncode != 0:
        words = (done.stderr + done.stdout).strip()[-2_000:]
        if what == "packages":
            missing(f"the packages of the JavaScript client cannot be installed: {words}")
        pytest.fail(f"the JavaScript client cannot be built: {words}")
    stamp.write_text(digest.hexdigest(), encoding="utf-8")
