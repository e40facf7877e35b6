"""Parses every module below a folder and says what it finds, one JSON line per step on standard output.

Runs as a process of its own, so that its CPU time is nobody else's and killing it is a complete cancel. Uses
only the standard library, reads only below the folder, runs none of the code it reads, writes nothing, and
never sleeps: its pace is how deeply it reads.

Lines: {"kind": "step", "stage", "message", "progress", "data"}, then one {"kind": "result", "result"} or
{"kind": "failure", "error": {"code", "message"}}.
"""

from __future__ import annotations

import argparse
import ast
import dis
import heapq
import io
import json
import os
import platform
import sys
import time
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import CodeType

PACES = ("auto", "quick", "steady", "thorough")
"""Quick: syntax trees; steady: tokens too; thorough: bytecode too, compiled and counted by instructions.

Auto is thorough when there is little to read, and steady otherwise.
"""

LITTLE_BYTES = 20 * 1024 * 1024  # a standard library that was installed without its tests

STEPS = 80  # about so many steps of equal size, and one more for each package that is smaller than a step
FILES_MAX = 50_000
FILE_BYTES_MAX = 4 * 1024 * 1024  # a generated table of that size is no module that somebody wrote
LARGEST = 10
UNREADABLE_LISTED = 12
REASON_CHARACTERS = 200
LOOSE = "modules"
"""The modules that belong to no package, grouped by their first letter."""

SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__"})
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Refusal(Exception):
    """The folder cannot be indexed. `code` is for programs, the sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Counts:
    """What was found so far."""

    files: int = 0
    lines: int = 0
    classes: int = 0
    functions: int = 0
    imports: int = 0
    docstrings: int = 0
    names: int = 0
    tokens: int = 0
    instructions: int = 0
    failed: int = 0

    def add(self, other: Counts) -> None:
        """Add every count of another."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class Step:
    """Some modules of one package, reported together; it is `part` of the package's `parts`."""

    package: str
    part: int
    parts: int
    files: tuple[tuple[Path, int], ...]
    size: int

    def sentence(self) -> str:
        """What was read, for people: `test_io.py to test_json.py, part 13 of 49`."""
        first, last = self.files[0][0].name, self.files[-1][0].name
        names = first if len(self.files) == 1 else f"{first} to {last}"
        return names if self.parts == 1 else f"{names}, part {self.part} of {self.parts}"


@dataclass(slots=True)
class Findings:
    """Everything the result is made of; bounded whatever the folder holds."""

    counts: Counts = field(default_factory=Counts)
    largest: list[tuple[int, str, int, int]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)

    def take(self, module: str, found: Counts) -> None:
        """Count a module that was read."""
        self.counts.add(found)
        entry = (found.lines, module, found.classes, found.functions)
        if len(self.largest) < LARGEST:
            heapq.heappush(self.largest, entry)
        else:
            heapq.heappushpop(self.largest, entry)

    def miss(self, module: str, reason: str) -> None:
        """Count a module that could not be read."""
        self.counts.files += 1
        self.counts.failed += 1
        if len(self.unreadable) < UNREADABLE_LISTED:
            self.unreadable.append({"file": module, "reason": reason[:REASON_CHARACTERS]})


# ── what there is to read ───────────────────────────────────────────────────────────────────────────────────


def modules_below(folder: Path) -> Iterator[Path]:
    """Every Python file below a folder in a stable order, without installed packages and caches."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - SKIPPED)
        yield from (Path(parent, name) for name in sorted(names) if name.endswith(".py"))


def packages_of(folder: Path, wanted: frozenset[str]) -> dict[str, list[tuple[Path, int]]]:
    """The files with their sizes by package or group. Raises Refusal when there is nothing to read."""
    if not folder.exists():
        raise Refusal("folder_missing", f"The folder {folder} is not there.")
    if not folder.is_dir():
        raise Refusal("not_a_folder", f"{folder} is not a folder.")
    found: set[str] = set()
    packages: dict[str, list[tuple[Path, int]]] = {}
    for number, path in enumerate(modules_below(folder)):
        if number >= FILES_MAX:
            raise Refusal("too_many_files", f"The folder {folder} holds more than {FILES_MAX:,} modules.")
        relative = path.relative_to(folder)
        package = relative.parts[0] if len(relative.parts) > 1 else LOOSE
        if not wanted or package in wanted:
            found.add(package)
            group = f"{LOOSE} {path.name[0].lower()}" if package == LOOSE else package
            packages.setdefault(group, []).append((path, path.stat().st_size))
    absent = wanted - found
    if absent:
        raise Refusal("package_missing", f"The folder {folder} has no package {', '.join(sorted(absent))}.")
    if not packages:
        raise Refusal("no_modules", f"The folder {folder} holds no Python modules.")
    return packages


def steps_of(packages: dict[str, list[tuple[Path, int]]]) -> list[Step]:
    """Cut the packages into steps of about equal size; no step crosses a package."""
    whole = sum(size for files in packages.values() for _, size in files)
    step_bytes = max(1, whole // STEPS)
    steps = []
    for package, files in sorted(packages.items()):
        cut: list[list[tuple[Path, int]]] = [[]]
        filled = 0
        for entry in files:
            if cut[-1] and filled + entry[1] > step_bytes:
                cut.append([])
                filled = 0
            cut[-1].append(entry)
            filled += entry[1]
        for part, chunk in enumerate(cut, start=1):
            steps.append(Step(package, part, len(cut), tuple(chunk), sum(size for _, size in chunk)))
    return steps


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────


def examine(source: bytes, name: str, pace: str) -> Counts:
    """Count what a module holds. Raises what the parser raises for a module it cannot read."""
    tree = ast.parse(source, filename=name)
    found = Counts(files=1, lines=source.count(b"\n") + (not source.endswith(b"\n") and bool(source)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.names += 1
        elif isinstance(node, ast.ClassDef):
            found.classes += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.functions += 1
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.imports += len(node.names)
        if isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            found.docstrings += 1
    if pace != "quick":
        found.tokens = sum(1 for _ in tokenize.tokenize(io.BytesIO(source).readline))
    if pace == "thorough":
        found.instructions = instructions_of(compile(tree, name, "exec", dont_inherit=True))
    return found


def instructions_of(code: CodeType) -> int:
    """Bytecode instructions of a code object and of all that are nested in it."""
    own = sum(1 for _ in dis.get_instructions(code))
    return own + sum(instructions_of(const) for const in code.co_consts if isinstance(const, CodeType))


def read(path: Path, module: str, size: int, pace: str, findings: Findings) -> None:
    """Examine one file; a file that cannot be read or parsed is counted as such, with the reason."""
    if size > FILE_BYTES_MAX:
        findings.miss(module, f"larger than {FILE_BYTES_MAX // 1024 // 1024} MiB")
        return
    try:
        findings.take(module, examine(path.read_bytes(), module, pace))
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        findings.miss(module, str(error))
    except (RecursionError, MemoryError):
        findings.miss(module, "nested too deeply for this Python's parser")
    except OSError as error:
        findings.miss(module, error.strerror or type(error).__name__)


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────


def say(kind: str, **members: object) -> None:
    """One line to whoever started this process; a reader that is gone ends it (BrokenPipeError)."""
    sys.stdout.write(json.dumps({"kind": kind, **members}) + "\n")
    sys.stdout.flush()


def index(folder: Path, wanted: frozenset[str], pace: str) -> dict[str, object]:
    """Read everything, telling each step before the next begins; the result. Raises Refusal."""
    began = time.monotonic()
    packages = packages_of(folder, wanted)
    steps = steps_of(packages)
    whole = max(1, sum(step.size for step in steps))
    if pace == "auto":
        pace = "thorough" if whole < LITTLE_BYTES else "steady"
    findings = Findings()
    done_bytes = done_packages = 0
    for step in steps:
        for path, size in step.files:
            read(path, path.relative_to(folder).as_posix(), size, pace, findings)
        done_bytes += step.size
        done_packages += step.part == step.parts
        data = {**asdict(findings.counts), "packages_done": done_packages, "packages": len(packages)}
        progress = round(100 * done_bytes / whole, 2)
        say("step", stage=step.package, message=step.sentence(), progress=progress, data=data)
    return {
        **asdict(findings.counts),
        "packages": len(packages),
        "largest": [
            {"module": module, "lines": lines, "classes": classes, "functions": functions}
            for lines, module, classes, functions in sorted(findings.largest, reverse=True)
        ],
        "failed_files": findings.unreadable,
        "seconds": round(time.monotonic() - began, 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "folder": str(folder),
        "pace": pace,
    }


def main() -> int:
    """Index what the arguments name; 0 with a result, 1 with a failure, 141 when nobody reads any more."""
    parser = argparse.ArgumentParser(description="Index the modules below a folder, in JSON lines.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--packages", default="", help="only these top-level packages, separated by commas")
    parser.add_argument("--pace", choices=PACES, default="auto")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # what the compiler thinks of a module's style is nobody's question here
    try:
        wanted = frozenset(filter(None, options.packages.split(",")))
        say("result", result=index(options.folder, wanted, options.pace))
    except Refusal as refusal:
        say("failure", error={"code": refusal.code, "message": str(refusal)})
        return 1
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # where the flush at exit goes
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())
