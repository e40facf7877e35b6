"""The npm package `ledgerwire`: its own tests, its types, its sizes, and what it packs."""

from __future__ import annotations

import json
import subprocess

from tests.support.javascript import INSTALL_SECONDS, built, node


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=built(), capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8_000:]
    return done.stdout


def test_its_own_tests_pass() -> None:
    """The session under random faults, the client on real sockets, the built files where nothing else is."""
    tests = sorted(str(path) for path in (built() / "test").glob("*.test.mjs"))
    said = _run(node(), "--test", "--test-reporter=tap", *tests)
    figures = dict(line[2:].split(" ", 1) for line in said.splitlines() if line.startswith(("# tests ", "# pass ")))
    assert int(figures["pass"]) == int(figures["tests"]) >= 45


def test_a_mini_program_can_afford_it() -> None:
    """One ES5 file within 30 KB, 10 KB gzipped."""
    assert "bytes, gzipped" in _run(node(), "scripts/size.mjs")


def test_it_packs_what_it_names() -> None:
    """Every file that package.json points to is in the package, and no test."""
    (packed,) = json.loads(_run("npm", "pack", "--dry-run", "--json", "--ignore-scripts"))
    files = {one["path"] for one in packed["files"]}
    described = json.loads((built() / "package.json").read_text(encoding="utf-8"))
    named = {described[name] for name in ("main", "module", "types", "unpkg")}
    named |= {path for export in described["exports"].values() if isinstance(export, dict) for path in export.values()}
    assert {path.removeprefix("./") for path in named} | {"miniprogram_dist/index.js"} <= files
    assert {"README.md", "README.zh-CN.md", "LICENSE"} <= files
    assert not [path for path in files if path.startswith(("test/", "build/", "scripts/"))]
