"""The demo that plays itself: what `scripts/dev.py run --once` starts, and what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"
LIMIT_SECONDS = 240


def test_the_stream_and_the_ledger_agree_across_a_killed_gateway(tmp_path: Path) -> None:
    """`demo.py --once` ends with 0, and has really killed the gateway in the middle of the job."""
    done = subprocess.run(
        [sys.executable, DEMO, "--once"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    print(done.stdout, done.stderr)  # noqa: T201 - pytest shows it with a failure
    assert done.returncode == 0
    before, after = map(int, found(r"(\d+) transitions before the kill, (\d+) after it", done.stdout))
    streamed, stored = found(r"stream: (.+); ledger: (.+)", done.stdout)
    assert before > 0
    assert after > 0
    assert streamed == stored == f"1 – {before + after}, {before + after} transitions"
    assert "stream and ledger agree: no hole, no repeat" in done.stdout
    assert "WRONG" not in done.stdout


def found(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of the one place that matches."""
    match = re.search(pattern, text)
    assert match is not None, f"{pattern!r} is not in the output"
    return match.groups()
