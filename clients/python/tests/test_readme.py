"""The README's code is run as it stands, with another address."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import ledgerwire
from tests.support.gateway import GatewayProcess
from tests.support.waiting import WAIT_SECONDS

from .conftest import History

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
SOURCE = Path(ledgerwire.__file__).resolve().parents[1]
ADOPT, WATCH, PLAIN, SILENCE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
WATCHING = """
import asyncio, ledgerwire
async def main():
    {body}
asyncio.run(main())
"""


async def test_the_code_in_the_readme_runs(process: GatewayProcess, history: History) -> None:
    """A worker, two watchers that were there before, and a worker without a loop."""
    listening = WATCHING.format(body=SILENCE.replace("\n", "\n    "))
    plain = f'{PLAIN}\nimport_rows("task-2", ["a", "b"])\nworker.close()\n'
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as group:
        seen = group.create_task(run(WATCH, process.ws))
        heard = group.create_task(run(listening, process.ws))
        group.create_task(run(ADOPT, process.ws))
        group.create_task(run(plain, process.ws))
    assert len(await history(process, "task-1")) == 102
    assert seen.result().splitlines()[-1] == "102 completed 100"
    assert heard.result().splitlines()[-1] == "completed"
    transitions = await history(process, "task-2")
    assert [each["stage"] for each in transitions] == [None, "row 0", "row 1", "row 1"]
    assert transitions[-1]["result"] == {"rows": 2}


async def run(script: str, url: str) -> str:
    """What a script prints; it must end well."""
    assert "ws://127.0.0.1:8080/v1/ws" in script
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script.replace("ws://127.0.0.1:8080/v1/ws", url),
        env={"PYTHONPATH": str(SOURCE)},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()
