"""Keep product and script files under the ceiling: past it, a file is a design question."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CEILING_LINES = 350
FOLDERS = ("gateway", "ledger", "clients", "scripts", "examples", "deploy")
SUFFIXES = frozenset({".py", ".js", ".mjs", ".ts", ".css", ".html", ".sql", ".c", ".h"})
# Not written here, generated, or tests, which are long where a promise has many cases.
SKIPPED = frozenset({"vendor", "dist", "miniprogram_dist", "build", "node_modules", "tests", "__pycache__"})


def measured() -> Iterator[tuple[int, Path]]:
    """Line count and path of every file that the ceiling is for."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT)
            if path.suffix in SUFFIXES and path.is_file() and not SKIPPED.intersection(relative.parts):
                yield len(path.read_text("utf-8").splitlines()), relative


def main() -> int:
    """Print the files over the ceiling; 1 when there are any."""
    lengths = list(measured())
    over = [(lines, path) for lines, path in lengths if lines > CEILING_LINES]
    for lines, path in over:
        print(f"{path}: {lines} lines, {lines - CEILING_LINES} over the ceiling of {CEILING_LINES}")
    longest = max(lengths, default=(0, Path()))
    print(f"{len(lengths)} files, the longest {longest[1]} with {longest[0]} lines")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
