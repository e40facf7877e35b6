"""Logs: one JSON object per line, a task under one name."""

from __future__ import annotations

import re
import subprocess
import sys

import orjson
import pytest

from gateway.telemetry import UNSAFE, one_name_for_a_task
from tests.support.gateway import ROOT

PROGRAM = """
import logging, structlog
from gateway.telemetry import configure_logging
configure_logging("info")
structlog.get_logger("a").info("reported", trace_id="t-1", text="line\\nbreak")
structlog.get_logger("a").debug("not shown")
logging.getLogger("b").warning("from the standard library")
def fail(token):
    raise ValueError("as it happens")
try:
    fail("very-secret-token")
except ValueError:
    structlog.get_logger("a").exception("fault")
    logging.getLogger("b").exception("fault there")
"""


def test_every_line_is_one_json_object() -> None:
    """What is not a terminal gets JSON lines, also for the standard library's logs."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, check=True, timeout=30)
    lines = [orjson.loads(line) for line in done.stderr.splitlines()]
    events = [line["event"] for line in lines]
    assert events == ["reported", "from the standard library", "fault", "fault there"]
    assert lines[0]["task_id"] == "t-1"
    assert lines[0]["text"] == "line\nbreak"
    assert "trace_id" not in lines[0]
    # A traceback names functions, not what was in their variables.
    assert lines[2]["exception"][0]["exc_value"] == lines[3]["exception"][0]["exc_value"] == "as it happens"
    assert b"very-secret-token" not in done.stderr


def test_a_task_id_that_is_there_wins_over_the_alias() -> None:
    """`trace_id` never overwrites `task_id`."""
    assert one_name_for_a_task(None, "info", {"trace_id": "old", "task_id": "t"}) == {"task_id": "t"}
    assert one_name_for_a_task(None, "info", {"event": "e"}) == {"event": "e"}


HOSTILE = "a\nb\x1b[31m\x7f\x9b31m\u202egnp\u2066\u2028\u200b\ufeffend"
TERMINAL = """
import ast, sys, structlog
from gateway.telemetry import configure_logging
configure_logging("info", json=sys.argv[1] == "json")
text = ast.literal_eval(sys.argv[2])
log = structlog.get_logger("a")
log.info("reported", stage=text, many=[text], half="\\ud800")
try:
    raise ValueError(text)
except ValueError:
    log.exception("fault")
"""


@pytest.mark.parametrize("form", ["json", "terminal"])
def test_text_from_outside_stays_in_its_line(form: str) -> None:
    """No line begins, no terminal is told anything, no text is reversed or unseen; and JSON gives back what it was."""
    command = [sys.executable, "-c", TERMINAL, form, ascii(HOSTILE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30)
    lines = done.stderr.decode().splitlines(keepends=True)
    ours = "".join(lines)
    if form == "terminal":
        ours = re.sub("\x1b\\[[0-9;]*m", "", ours)  # its own colours
    assert not UNSAFE.search(ours.replace("\n", ""))
    assert done.stderr.count(b"end") >= 3, "it is there"
    assert "[31m" in ours, "and can be read"
    assert b"Logging error" not in done.stderr
    if form == "json":
        first, second = [orjson.loads(line) for line in lines]
        assert (first["stage"], first["many"]) == (HOSTILE, [HOSTILE])
        assert second["exception"][0]["exc_value"] == HOSTILE
