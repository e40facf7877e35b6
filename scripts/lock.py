"""Recompile the hash-locked files in `requirements/` from what the two `pyproject.toml` files declare.

Existing pins stay unless `--upgrade` asks for newer ones. `--check` needs neither uv nor a network: it says
whether the locks still belong to the declarations, agree with each other, hash every file and name no index:
where packages come from is the business of the machine that installs them.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = "3.11"
PIN = re.compile(r"^[a-z0-9][a-z0-9._-]*==[^\s;\\]+", re.MULTILINE)
FOREIGN = re.compile(r"://|^\s*-[^-]|^\s*--(?!hash=)|\s@\s|(^|\s)/", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """One locked file: which declared requirements go in, and for whom it is."""

    file: str
    purpose: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    server: bool = True
    client: bool = False
    build: bool = False


# The widest comes first: the others are compiled within its pins, so every file is a part of `dev.txt`.
LOCKS = (
    Lock(
        file="dev.txt",
        purpose="everything: `dev.py test` and `dev.py check`",
        extras=("embedded", "nats", "dev"),
        groups=("installer",),
        client=True,
        build=True,
    ),
    Lock(
        file="runtime.txt",
        purpose="`dev.py run`: server, embedded PostgreSQL, client",
        extras=("embedded",),
        client=True,
    ),
    Lock(file="server.txt", purpose="the container image: the server alone"),
    Lock(file="installer.txt", purpose="`dev.py`, to install the others", groups=("installer",), server=False),
    Lock(file="build.txt", purpose="building the wheel in the container image", server=False, build=True),
)


def declared(lock: Lock) -> list[str]:
    """The requirement strings, sorted, that `lock` must satisfy."""
    server = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted: set[str] = set()
    if lock.server:
        wanted.update(server["project"]["dependencies"])
    for extra in lock.extras:
        wanted.update(server["project"]["optional-dependencies"][extra])
    for group in lock.groups:
        wanted.update(server["dependency-groups"][group])
    if lock.client:
        client = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text("utf-8"))
        wanted.update(client["project"].get("dependencies", []))
    if lock.build:
        wanted.update(server["build-system"]["requires"])
    return sorted(wanted)


def header(lock: Lock) -> str:
    """Two comment lines; the digest ties the lock to the declarations it was compiled from."""
    digest = hashlib.sha256("\n".join(declared(lock)).encode()).hexdigest()
    return f"# Compiled by scripts/lock.py for {lock.purpose}.\n# Declarations: sha256 {digest}\n"


def compile_lock(uv: str, lock: Lock, *, upgrade: bool) -> None:
    """Write `requirements/<lock.file>`. Raises CalledProcessError when uv finds no solution."""
    target = Path("requirements", lock.file)
    command = [uv, "pip", "compile", "--quiet", "--universal", f"--python-version={OLDEST_PYTHON}"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", f"--output-file={target}"]
    if upgrade and lock is LOCKS[0]:
        command.append("--upgrade")
    if lock is not LOCKS[0]:
        command += ["--constraints", f"requirements/{LOCKS[0].file}"]
        (ROOT / target).unlink(missing_ok=True)  # its old pins would fight the constraints
    subprocess.run([*command, "-"], cwd=ROOT, input="\n".join(declared(lock)), text=True, check=True)
    body = (ROOT / target).read_text("utf-8")
    (ROOT / target).write_text(header(lock) + body, "utf-8")


def versions(lock: Lock) -> set[str]:
    """`name==version` of every locked package."""
    path = ROOT / "requirements" / lock.file
    return set(PIN.findall(path.read_text("utf-8"))) if path.is_file() else set()


def faults(lock: Lock) -> list[str]:
    """What is wrong with one lock, in sentences."""
    path = ROOT / "requirements" / lock.file
    if not path.is_file():
        return [f"requirements/{lock.file} is missing: run scripts/lock.py"]
    text = path.read_text("utf-8")
    found = []
    if not text.startswith(header(lock)):
        found.append("was compiled from other declarations than now stand: run scripts/lock.py")
    body = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    if foreign := FOREIGN.search(body):
        found.append(f"holds an address, a path or an option: {foreign.group().strip()!r}")
    entries = [entry for entry in re.split(r"\n(?=\S)", body.strip()) if entry]
    found += [f"{entry.split()[0]} has no hash" for entry in entries if "--hash=sha256:" not in entry]
    strangers = sorted(versions(lock) - versions(LOCKS[0]))
    found += [f"{pin} is not what {LOCKS[0].file} holds" for pin in strangers]
    return [f"requirements/{lock.file}: {fault}" for fault in found]


def main() -> int:
    """Recompile, or check; 0 when all is well."""
    parser = argparse.ArgumentParser(description="Recompile requirements/*.txt with uv.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions allowed")
    parser.add_argument("--check", action="store_true", help="only say whether the locks are in order")
    options = parser.parse_args()
    if options.check:
        found = [fault for lock in LOCKS for fault in faults(lock)]
        print("\n".join(found) or f"{len(LOCKS)} locks in order")
        return 1 if found else 0
    uv = shutil.which("uv")
    if uv is None:
        print("lock.py needs uv on PATH (for instance `pipx install uv`).", file=sys.stderr)
        return 2
    (ROOT / "requirements").mkdir(exist_ok=True)
    for lock in LOCKS:
        compile_lock(uv, lock, upgrade=options.upgrade)
        print(f"requirements/{lock.file}: {len(versions(lock))} packages for {lock.purpose}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
