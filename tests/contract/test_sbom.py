"""The bill of materials: valid CycloneDX 1.6, and all of a lock, no more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support.gateway import ROOT


def written(lock: str) -> str:
    command = [sys.executable, "scripts/sbom.py", lock]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("lock", ["server.txt", "dev.txt"])
def test_a_lock_as_a_bill_of_materials(lock: str) -> None:
    """Each package with its version, address and hashes; the same each time."""
    text = written(lock)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "ledgerwire"
    locked = Path(ROOT, "requirements", lock).read_text("utf-8")
    pins = set(re.findall(r"^([a-z0-9][^\s;\\]*==[^\s;\\]+)", locked, re.MULTILINE))
    assert len(pins) >= 20
    assert {f"{each['name']}=={each['version']}" for each in bill["components"]} == pins
    assert {each["purl"] for each in bill["components"]} == {f"pkg:pypi/{pin.replace('==', '@')}" for pin in pins}
    assert sum(len(each["hashes"]) for each in bill["components"]) == locked.count("--hash=sha256:")
    whole = next(each for each in bill["dependencies"] if each["ref"] == "ledgerwire")
    assert set(whole["dependsOn"]) == pins
    if lock == "server.txt":
        assert written(lock) == text
