"""What a figure was measured on: the machine, its load, and the programs. Reads; changes nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from scripts.bench.place import Place


def described(place: Place) -> dict[str, object]:
    """Cores, CPU, kernel, memory, load, Python, PostgreSQL and its settings: what a reader needs to compare."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "cpu": _value_in("/proc/cpuinfo", "model name"),
        "memory": _value_in("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": list(os.getloadavg()),
        "postgres": place.version,
        "postgres_embedded": place.embedded,
        "postgres_settings": place.settings,
        "stored_rows": place.stored_rows,
        "commit": _commit(),
    }


def _value_in(file: str, name: str) -> str:
    try:
        lines = Path(file).read_text("utf-8", "replace").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")


def _commit() -> str:
    """The commit of the sources, with `+` when they were changed since; "" outside a clone."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
