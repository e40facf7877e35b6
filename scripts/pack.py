"""Build the wheel and see that it holds every file of the packages: code, `py.typed`, SQL, console.

Builds from a copy in a temporary folder, so the tree stays clean, with the setuptools that is installed: no
build isolation, no network. `--out` keeps the wheel.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "ledger")
PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def build(out: Path) -> Path:
    """The wheel, built into `out`. Raises CalledProcessError, with the build's own words printed."""
    with tempfile.TemporaryDirectory(prefix="ledgerwire-pack-") as scratch:
        for name in PROJECT_FILES:
            shutil.copy2(ROOT / name, scratch)
        for name in PACKAGES:
            shutil.copytree(ROOT / name, Path(scratch, name), ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-c", BUILD, str(out.resolve())]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
            done.check_returncode()
        return out / str(done.stdout.splitlines()[-1])


def in_tree() -> set[str]:
    """Every file of the packages, as a path inside the wheel."""
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def main() -> int:
    """Build and compare; 0 when wheel and tree agree."""
    parser = argparse.ArgumentParser(description="Build the wheel and compare it with the tree.")
    parser.add_argument("--out", type=Path, help="folder to keep the wheel in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ledgerwire-wheel-") as scratch:
        out: Path = options.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        wheel = build(out)
        with zipfile.ZipFile(wheel) as archive:
            packed = {name for name in archive.namelist() if ".dist-info/" not in name}
            entry_points = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
            command = archive.read(entry_points[0]).decode() if entry_points else ""
    here = in_tree()
    for name in sorted(here - packed):
        print(f"not in the wheel: {name}")
    for name in sorted(packed - here):
        print(f"in the wheel, not in the tree: {name}")
    for marker in (f"{name}/py.typed" for name in PACKAGES):
        if marker not in packed:
            print(f"not in the wheel: {marker} (type checkers would ignore the annotations)")
            here.add(marker)
    if "ledgerwire = gateway.__main__:main" not in command:
        print("the wheel declares no console script `ledgerwire`")
        return 1
    print(f"{wheel.name}: {len(packed)} files")
    return 1 if here != packed else 0


if __name__ == "__main__":
    sys.exit(main())
