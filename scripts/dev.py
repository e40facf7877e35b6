"""Two commands on a bare machine: `python3 scripts/dev.py run` tries the product, `… dev.py test` tests it.

Makes `.venv` in the repository (also where ensurepip is missing), installs a hash-locked requirements file
into it when that file has changed, puts the source tree on its path, and hands over to its Python. An
environment whose making was cut short is made anew. Standard library only; installs nothing outside `.venv`.
Written so that Python 3.6 can still parse it, and say that it is too old.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if os.name != "posix" or sys.version_info < (3, 11):
    sys.exit(
        "Ledgerwire needs Python 3.11 or newer on Linux, macOS or WSL; "
        f"this is Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform} ({sys.executable})."
    )

import fcntl

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "ledgerwire-installed.json"
UNFINISHED = VENV / "ledgerwire-unfinished"
SOURCES = (ROOT, ROOT / "clients" / "python" / "src")

# What each verb hands over to, and the locked file it needs. `dev.txt` holds all that `runtime.txt` holds.
VERBS = {
    "run": ("runtime.txt", ["scripts/demo.py"]),
    "test": ("dev.txt", ["-m", "pytest"]),
    "check": ("dev.txt", ["scripts/check.py"]),
}
ENOUGH = {"runtime.txt": ("runtime.txt", "dev.txt"), "dev.txt": ("dev.txt",)}

# Settings of a user's own that would make pip install somewhere else than into `.venv`.
ELSEWHERE = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV")

WHO = "import sys, sysconfig; print(*sys.version_info[:2], sep='.'); print(sysconfig.get_path('purelib'))"

NO_INSTALLER = """\
This Python ({python}) has neither ensurepip nor pip, and uv is not on PATH, so nothing can be installed.
Install one of them and run this again; on Debian and Ubuntu: apt-get install python3-venv"""

CONSOLE_SCRIPT = """\
#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
import sys
from gateway.__main__ import main
sys.exit(main())
"""


def say(sentence: str) -> None:
    """One line to standard error; standard output belongs to the program handed over to."""
    print(f"dev.py: {sentence}", file=sys.stderr, flush=True)


def digest(lock: str) -> str:
    """Identity of a locked file's content."""
    return hashlib.sha256((REQUIREMENTS / lock).read_bytes()).hexdigest()


def installed() -> dict[str, str]:
    """Locked files that are in `.venv`, with the digest they had; empty when none or unreadable."""
    try:
        stamp = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def satisfied(lock: str) -> bool:
    """Whether `.venv` already holds what `lock` asks for."""
    have = installed()
    return any(have.get(wider) == digest(wider) for wider in ENOUGH[lock])


def present() -> tuple[str, Path] | None:
    """Python version ("3.11") and library folder of `.venv`; None when there is none that starts."""
    try:
        answer = subprocess.run([PYTHON, "-I", "-c", WHO], capture_output=True, text=True, check=True)
        version, folder = answer.stdout.splitlines()
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return (version, Path(folder)) if Path(folder).is_dir() else None


def environment_folder() -> Path:
    """The library folder of a `.venv` of this Python: the one there if it is sound, else a new one."""
    mine = "{}.{}".format(*sys.version_info[:2])
    found = present()
    if VENV.is_symlink() or (VENV.exists() and not VENV.is_dir()):
        sys.exit(f"{VENV} is not a folder; move it away and run this again.")
    if found and not UNFINISHED.exists():
        if found[0] == mine:
            return found[1]
        if not STAMP.exists():
            sys.exit(f"dev.py did not make {VENV}, which is of Python {found[0]}; move it away first.")
    if VENV.exists():
        say("making .venv anew: it is unfinished, damaged or of another Python version")
        shutil.rmtree(VENV)
    # Without pip: that works where ensurepip is missing, and `installers` finds a pip when one is needed.
    base = getattr(sys, "_base_executable", sys.executable)  # not the Python in the folder just removed
    subprocess.run([base, "-m", "venv", "--without-pip", VENV], check=True)
    made = present()
    if made is None:
        sys.exit(f"`{base} -m venv {VENV}` made an environment that does not start.")
    return made[1]


def installing_environment() -> dict[str, str]:
    """Our environment without what would lead an installer astray."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment["PIP_ROOT_USER_ACTION"] = "ignore"
    # Trust what the machine trusts, as pip does; the second name is for older versions of uv.
    environment["UV_SYSTEM_CERTS"] = environment["UV_NATIVE_TLS"] = "true"
    return environment


def pips() -> Iterator[list[str]]:
    """Ways to call a pip on `.venv`: this Python's own, else the one that ensurepip puts there."""
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if importlib.util.find_spec("ensurepip"):
        made = subprocess.run([PYTHON, "-I", "-m", "ensurepip"], capture_output=True, check=False)
        if made.returncode == 0:
            yield [str(PYTHON), "-I", "-m", "pip"]


def installers(environment: dict[str, str]) -> Iterator[list[str]]:
    """Commands that can install into `.venv`, the quickest first; each takes pip's arguments.

    pip reads the index page of every package, with every file of every version: that is most of its time. So where
    uv is missing, pip fetches only uv; but not where pip is set to another index, which uv would not know of.
    """
    uv = shutil.which("uv")
    uv_options = ["pip", "install", "--quiet", "--compile-bytecode", "--python", str(PYTHON)]
    if uv:
        yield [uv, *uv_options]
    for pip in pips():
        order = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-user"]
        settings = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
        if not uv and "index" not in settings:
            fetch = [*order, "--only-binary=:all:", "--require-hashes", "-r", str(REQUIREMENTS / "installer.txt")]
            if subprocess.run(fetch, env=environment, check=False).returncode == 0:
                uv = str(VENV / "bin" / "uv")
                yield [uv, "--no-cache", *uv_options]
        yield order


def install(lock: str) -> None:
    """Bring `.venv` to what `requirements/<lock>` says. Exits with a sentence when no installer can."""
    say(f"installing requirements/{lock} into .venv")
    began = time.monotonic()
    UNFINISHED.touch()
    STAMP.unlink(missing_ok=True)
    environment = installing_environment()
    failed = []
    for command in installers(environment):
        whole = [*command, "--require-hashes", "-r", str(REQUIREMENTS / lock)]
        if subprocess.run(whole, env=environment, check=False).returncode == 0:
            break
        failed.append(command)
        say(f"this did not install it: {shlex.join(command)}")
    else:
        if not failed:
            sys.exit(NO_INSTALLER.format(python=sys.executable))
        sys.exit("The requirements could not be installed; what the installers said stands above.")
    STAMP.write_text(json.dumps({lock: digest(lock)}), "utf-8")
    UNFINISHED.unlink()
    say(f"installed in {time.monotonic() - began:.0f} s")


def link_sources(folder: Path) -> None:
    """Make `import gateway`, `ledger`, `ledgerwire` and the command `.venv/bin/ledgerwire` mean this tree."""
    lines = "".join(os.path.relpath(source, folder) + "\n" for source in SOURCES)
    script = CONSOLE_SCRIPT.format(python=shlex.quote(str(PYTHON)))
    for path, text in ((folder / "ledgerwire-tree.pth", lines), (VENV / "bin" / "ledgerwire", script)):
        if not path.is_file() or path.read_text("utf-8") != text:
            path.unlink(missing_ok=True)
            path.write_text(text, "utf-8")
    (VENV / "bin" / "ledgerwire").chmod(0o755)


def prepare(lock: str) -> None:
    """Leave `.venv` ready for `lock`; one dev.py at a time, the others wait."""
    folder_lock = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another dev.py to finish installing")
            fcntl.flock(folder_lock, fcntl.LOCK_EX)
        folder = environment_folder()
        if not satisfied(lock):
            install(lock)
        link_sources(folder)
    finally:
        os.close(folder_lock)


def main() -> None:
    """Prepare the environment and become the program that the verb names."""
    parser = argparse.ArgumentParser(
        prog="dev.py",
        description="Make .venv from the hash-locked requirements, then run, test or check Ledgerwire in it.",
        epilog="verbs: run - try the product (scripts/demo.py); test - pytest; check - lint, types and more. "
        "Arguments after the verb go to what it starts: `dev.py run --help`, `dev.py test -k catchup`.",
    )
    parser.add_argument("verb", choices=sorted(VERBS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on as they are")
    options = parser.parse_args()
    lock, program = VERBS[options.verb]
    try:
        prepare(lock)
    except subprocess.CalledProcessError as error:
        sys.exit(f"This failed with exit status {error.returncode}: {shlex.join(map(str, error.cmd))}")
    except OSError as error:
        sys.exit(f"Cannot make {VENV}: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped; the next run makes .venv anew.")
    os.chdir(ROOT)
    os.execv(PYTHON, [str(PYTHON), *program, *options.arguments])  # noqa: S606 - replaces itself; no shell is wanted


if __name__ == "__main__":
    main()
