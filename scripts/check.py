"""The checks that need no server: lint, format, types, layers, ceiling, locks, wheel, coverage, advisories.

Runs in the development environment (`dev.py check`), every step even when an earlier one failed, and ends
with a list of verdicts. A step that this machine cannot perform is "not run", with the reason: neither good
nor a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CORE = ",".join((
    "gateway/principal.py", "gateway/auth/keyring.py", "gateway/auth/tokens.py", "gateway/limits/*",
    "gateway/protocol/*", "gateway/outbox.py", "gateway/admission.py",
    "gateway/bus/hints.py", "gateway/bus/unsent.py", "gateway/bus/servers.py",
    "ledger/machine.py", "ledger/model.py", "ledger/errors.py", "ledger/decide.py", "ledger/receipts.py",
    "ledger/batch.py", "ledger/arguments.py", "ledger/literals.py", "ledger/turns.py", "ledger/tally.py",
))  # fmt: skip
CORE_TESTS = ("tests/unit", "tests/property")
ADVISORY_SERVICES = ("pypi", "osv")
ADVISORY_LIMIT_SECONDS = 180


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a step found: `good` is None when it could not be run."""

    good: bool | None
    remark: str = ""

    def __str__(self) -> str:
        word = {True: "ok", False: "FAILED", None: "not run"}[self.good]
        return f"{word}: {self.remark}" if self.remark else word


def called(*command: str, environment: dict[str, str] | None = None) -> bool:
    """Run a command at the root with its output shown; whether it ended with 0."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | (environment or {}), check=False)
    return done.returncode == 0


def python(*arguments: str) -> Callable[[], Verdict]:
    """A step that is one command of this Python."""
    return lambda: Verdict(good=called(sys.executable, *arguments))


def core_coverage() -> Verdict:
    """Every line and branch of the pure core is reached by the unit and property tests alone."""
    with tempfile.TemporaryDirectory(prefix="ledgerwire-coverage-") as scratch:
        environment = {"COVERAGE_FILE": str(Path(scratch, "data"))}
        coverage = [sys.executable, "-m", "coverage"]
        tests = ["-m", "pytest", "-q", "-n=2", "--dist=worksteal", *CORE_TESTS]
        if not called(*coverage, "run", *tests, environment=environment):
            return Verdict(good=False, remark="the tests did not pass")
        if not called(*coverage, "combine", "--quiet", environment=environment):
            return Verdict(good=False, remark="the processes' data could not be combined")
        report = [*coverage, "report", f"--include={CORE}", "--fail-under=100"]
        return Verdict(good=called(*report, environment=environment))


def audited(service: str) -> list[dict[str, Any]]:
    """What an advisory service knows of each locked package; empty, with the reason printed, when nothing."""
    command = [sys.executable, "-m", "pip_audit", f"--vulnerability-service={service}", "--format=json"]
    command += ["--requirement=requirements/dev.txt", "--disable-pip", "--require-hashes"]
    command += ["--progress-spinner=off", "--timeout=15"]
    limit = ADVISORY_LIMIT_SECONDS
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"{service}: no answer within {limit} s")
        return []
    except (ValueError, KeyError):
        last_words = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        print(f"{service}: {last_words[:110]}")
        return []
    known = [package for package in packages if "skip_reason" not in package]
    print(f"{service}: knows {len(known)} of {len(packages)} locked packages")
    return known


def advisories() -> Verdict:
    """No locked package has a known vulnerability, says the first advisory service that knows any of them."""
    for service in ADVISORY_SERVICES:
        known = audited(service)
        flaws = [(package, flaw) for package in known for flaw in package["vulns"]]
        for package, flaw in flaws:
            fixed = ", ".join(flaw["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {flaw['id']}, fixed in {fixed}")
        if known:
            return Verdict(good=not flaws, remark=f"{len(flaws)} vulnerabilities known to {service}")
    return Verdict(good=None, remark="no advisory service could be reached from this machine")


STEPS: dict[str, Callable[[], Verdict]] = {
    "lint": python("-m", "ruff", "check", "."),
    "format": python("-m", "ruff", "format", "--check", "."),
    "types": python("-m", "mypy", "--strict"),
    "layers": python(str(BIN / "lint-imports"), "--no-cache", "--no-logo"),
    "ceiling": python("scripts/ceiling.py"),
    "locks": python("scripts/lock.py", "--check"),
    "wheel": python("scripts/pack.py"),
    "coverage": core_coverage,
    "advisories": advisories,
}


def main() -> int:
    """Run the steps asked for, all by default; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="dev.py check", description=__doc__)
    parser.add_argument("step", nargs="*", help=f"only these: {', '.join(STEPS)}")
    wanted = parser.parse_args().step or list(STEPS)
    if unknown := [name for name in wanted if name not in STEPS]:
        parser.error(f"no such step: {', '.join(unknown)}")
    verdicts: dict[str, Verdict] = {}
    for name in wanted:
        print(f"── {name} " + "─" * (70 - len(name)), flush=True)
        began = time.monotonic()
        verdicts[name] = STEPS[name]()
        print(f"   {name}: {verdicts[name]} ({time.monotonic() - began:.1f} s)\n", flush=True)
    for name, verdict in verdicts.items():
        print(f"{name:>10}  {verdict}")
    failed = [name for name, verdict in verdicts.items() if verdict.good is False]
    print(f"\ncheck: {'failed: ' + ', '.join(failed) if failed else 'no step failed'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
