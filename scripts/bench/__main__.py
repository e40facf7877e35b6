"""`python3 scripts/bench VERB`: finds its environment (that of scripts/dev.py), starts a server, measures, prints.

Standard library only until the environment is there. Exit status: 0 measured · 1 a promise was broken or nothing could
be measured.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("aiohttp", "asyncpg", "msgspec", "orjson", "rich", "structlog", "uvloop")


def enter_environment() -> None:
    """Become this program in `.venv`, which is made if need be, unless what it needs is here already."""
    if all(importlib.util.find_spec(name) for name in NEEDED):
        return
    sys.path.insert(0, str(ROOT / "scripts"))
    dev = importlib.import_module("dev")  # a script beside this folder, of the standard library only
    dev.prepare("runtime.txt")
    os.execv(dev.PYTHON, [str(dev.PYTHON), str(Path(__file__).parent), *sys.argv[1:]])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    enter_environment()
    # Not the folder of this file, where a module `ledger` would hide the ledger.
    sys.path[0] = str(ROOT)
    from scripts.bench.command import main

    sys.exit(main())
