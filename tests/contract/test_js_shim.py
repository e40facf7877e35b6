"""The shim of the JavaScript client's tests is what WeChat's own typings say."""

from __future__ import annotations

import subprocess

from tests.support.javascript import INSTALL_SECONDS, built, node


def test_the_shim_has_the_shape_of_wx() -> None:
    """The compiler accepts it, and refuses those in strays.ts that stray from the official typings."""
    command = [node(), "node_modules/typescript/bin/tsc", "-p", "test/tsconfig.json"]
    done = subprocess.run(
        command, cwd=built(), capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
