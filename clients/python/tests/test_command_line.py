"""`ledgerwire watch | report | cancel` as programs: what they print, in which shape, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import ledgerwire
from gateway.__main__ import CLIENT_VERBS
from tests.support.gateway import Gateway, in_process
from tests.support.waiting import WAIT_SECONDS, eventually

SOURCE = Path(ledgerwire.__file__).resolve().parents[1]
ROOT = SOURCE.parents[2]
TOKEN = "a" * 40
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


async def start(
    *arguments: str | Path,
    module: str = "ledgerwire.cli",
    environment: Mapping[str, str] = MappingProxyType({}),
    stdout: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        env={"PYTHONPATH": str(SOURCE), **environment},
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Exit status, output and errors."""
    async with asyncio.timeout(WAIT_SECONDS):
        out, err = await process.communicate()
    return process.returncode, out.decode() if out else "", err.decode()


async def run(*arguments: str | Path, **environment: str) -> tuple[int | None, str, str]:
    """The same, of a program from its beginning."""
    return await ended(await start(*arguments, environment=environment))


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


async def test_a_report_is_committed_and_a_repeat_by_its_key_has_no_second_effect(gateway: Gateway) -> None:
    """For a person, and for a pipe; what the gateway does not take ends with 1."""
    there = {"LEDGERWIRE_URL": gateway.ws}
    report = ("report", "t", "--progress", "40", "--stage", "parsing", "--data", '{"file": "a.csv"}', "--key", "k")
    assert await run(*report, **there) == (0, "t: running, committed as 1\n", "")
    assert await run(*report, **there) == (0, "t: running, committed as 1, as before\n", "")
    end = ("report", "t", "--status", "completed", "--result", "[1, 2]", "--json")
    status, out, _ = await run(*end, **there)
    assert (status, objects(out)[0]["seq"], objects(out)[0]["status"]) == (0, 2, "completed")
    status, out, err = await run(*end, **there)
    assert (status, out) == (1, "")
    assert err.startswith("ledgerwire: task_ended: ")
    assert (await run("report", "t", "--result", "{", **there))[0] == 2


async def test_a_watch_ends_with_its_tasks_and_says_how_by_its_status(gateway: Gateway) -> None:
    """Of several the worst; the last line of each says how it ended."""
    async with ledgerwire.Worker(gateway.ws) as worker:
        for status in ("completed", "failed", "cancelled"):
            await worker.report(status, progress=50, message="half\x1b[31m\nof it")
            await worker.report(status, status=status)

    async def watch(*task_ids: str) -> int | None:
        status, out, err = await run("watch", *task_ids, "--url", gateway.ws, "--json")
        told = {each["task_id"]: each.get("status", each["type"]) for each in objects(out)}
        assert (told, err) == ({task_id: task_id for task_id in task_ids}, "")
        return status

    watches = (("completed",), ("completed", "cancelled"), ("cancelled", "failed"), ("unknown", "failed", "completed"))
    assert await asyncio.gather(*(watch(*task_ids) for task_ids in watches)) == [0, 3, 1, 5]
    ended_with, out, _ = await run("watch", "failed", "unknown", "--url", gateway.ws)
    assert ended_with == 5
    assert sorted(out.splitlines()) == [
        "failed  #2  failed  50 %  half�[31m of it",
        "unknown  nobody has created or reported this task",
    ]


async def test_a_watch_goes_on_from_the_cursor_that_it_has_printed(gateway: Gateway) -> None:
    """Also when the task had ended there: then nothing is printed, and the status is that of the task."""
    async with ledgerwire.Worker(gateway.ws) as worker:
        await worker.report("t", progress=1)
        watching = await start("watch", "t", "later", "--wait", "60", "--json", "--url", gateway.ws)
        assert watching.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            first = json.loads(await watching.stdout.readline())
            assert (first["seq"], first["type"], first["progress"]) == (1, "snapshot", 1)
            await worker.report("later", status="completed")
            await worker.report("t", progress=2)
            await worker.report("t", status="failed", error={"message": "no"})
            rest = objects((await watching.stdout.read()).decode())
            assert await watching.wait() == 1
        assert {(each["task_id"], each["seq"], each["status"]) for each in rest} == {
            ("later", 1, "completed"),
            ("t", 2, "running"),
            ("t", 3, "failed"),
        }
        assert [each["error"] for each in rest if each["status"] == "failed"] == [{"message": "no"}]
        status, out, _ = await run("watch", "t", "--after", first["cursor"], "--json", "--url", gateway.ws)
        assert (status, [each["type"] for each in objects(out)]) == (1, ["transition", "transition"])
        last = objects(out)[-1]["cursor"]
        assert await run("watch", "t", "--after", last, "--json", "--url", gateway.ws) == (1, "", "")
    wrong = await asyncio.gather(run("watch", "a", "b", "--after", last), run("watch", "a", "--after", "yesterday"))
    assert [status for status, _, _ in wrong] == [78, 2]


@pytest.mark.parametrize(("answer", "status"), [("honoured", 0), ("refused", 6), ("too_late", 7)])
async def test_a_cancel_shows_its_stages_and_ends_with_the_answer(gateway: Gateway, answer: str, status: int) -> None:
    """0 when the task is cancelled, 6 when its worker goes on, 7 when it had ended."""
    async with ledgerwire.Worker(gateway.ws) as worker, worker.task("t") as task:
        if answer == "too_late":
            await task.complete()
        cancelling = asyncio.create_task(run("cancel", "t", "--reason", "enough", "--json", "--url", gateway.ws))
        if answer != "too_late":
            async with asyncio.timeout(WAIT_SECONDS):
                await task.cancel_event.wait()
            assert task.cancel_requested is not None
            assert task.cancel_requested.reason == "enough"
            if answer == "refused":
                await task.refuse_cancel()
            else:
                await task.cancelled()
        cancelled = await cancelling
    assert cancelled[0] == status
    assert objects(cancelled[1])[-1]["stage"] == answer


async def test_a_token_comes_from_the_environment_or_a_file_that_others_cannot_read(
    database: str, tmp_path: Path
) -> None:
    """A wrong one is 77, a file that others can read 78; no option takes a token itself."""
    tokens, own, tokens_of_all = tmp_path / "tokens", tmp_path / "token", tmp_path / "readable"
    tokens.write_text(f"app alice {TOKEN}\n")
    own.write_text(f"{TOKEN}\n")
    tokens_of_all.write_text(f"{TOKEN}\n")
    tokens_of_all.chmod(0o644)
    for file in (tokens, own):
        file.chmod(0o600)
    async with in_process(database, token_file=tokens) as gateway:
        report = ("report", "t", "--url", gateway.ws)
        taken, also_taken, (status, _, err), (readable_status, _, said), abbreviated = await asyncio.gather(
            run(*report, LEDGERWIRE_TOKEN=TOKEN),
            run(*report, "--token-file", own),
            run(*report),
            run(*report, "--token-file", tokens_of_all),
            run(*report, "--token", TOKEN),
        )
    assert (taken[0], also_taken[0]) == (0, 0)
    assert status == 77
    assert "unauthenticated" in err
    assert "LEDGERWIRE_TOKEN" in err
    assert (readable_status, f"chmod 600 {tokens_of_all}" in said) == (78, True)
    assert abbreviated[0] == 2
    assert (await run("watch", "t", "--url", "http://127.0.0.1"))[0] == 78


async def test_an_interrupted_watch_ends_without_a_word_too_many(gateway: Gateway) -> None:
    """Status 130, no traceback; and when the reader of a pipe has gone, it ends as well."""
    async with ledgerwire.Worker(gateway.ws) as worker:
        await worker.report("t", progress=1)
        ours, theirs = os.pipe()
        watching = await start("watch", "t", "--url", gateway.ws)
        piped = await start("watch", "t", "--url", gateway.ws, stdout=theirs)
        os.close(theirs)
        async with asyncio.timeout(WAIT_SECONDS):
            assert watching.stdout is not None
            assert await watching.stdout.readline() == b"t  #1  running  1 %\n"
            watching.send_signal(signal.SIGINT)
            assert await ended(watching) == (130, "", "")
            assert await asyncio.to_thread(os.read, ours, 100) == b"t  #1  running  1 %\n"
            os.close(ours)  # as `| head -1` does
            await worker.report("t", progress=2)
            assert await ended(piped) == (141, "", "")


@pytest.mark.parametrize("environment", [{"TERM": "xterm-256color"}, {"TERM": "xterm", "NO_COLOR": "1"}])
async def test_in_a_terminal_there_is_a_live_view_that_fits(gateway: Gateway, environment: dict[str, str]) -> None:
    """80 columns wide, with bars; Ctrl-C gives the cursor back. Without colours it says the same."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    async with ledgerwire.Worker(gateway.ws) as worker:
        await worker.report("import-1", progress=62, stage="parsing", message="a long sentence " * 20)
        await worker.report("done-1", status="completed", result={"rows": 100})
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "ledgerwire.cli", "watch", "import-1", "done-1", "--url", gateway.ws),
            env={"PYTHONPATH": str(SOURCE), **environment},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = bytearray()

        def read() -> str:
            with suppress(BlockingIOError, OSError):
                while chunk := os.read(ours, 65_536):
                    shown.extend(chunk)
            return shown.decode(errors="replace")

        await eventually(lambda: "1 of 2 ended · connected" in read() and "62 %" in read())
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(WAIT_SECONDS):
            assert await process.wait() == 130
        text = read()
    os.close(ours)
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is there again"
    assert ("\x1b[36m" in text) == ("NO_COLOR" not in environment)
    lines = [line.rstrip("\r") for line in CONTROL.sub("", text).split("\n")]
    assert max(len(line.rpartition("\r")[2]) for line in lines) <= 80
    words = " ".join(lines)
    for word in ("import-1", "running", "━━━", "62 %", "parsing", "done-1", "completed", '{"rows":100}'):
        assert word in words
    assert "Traceback" not in words


async def test_the_gateways_command_finds_the_verbs_of_a_client_beside_it(gateway: Gateway, tmp_path: Path) -> None:
    """By the entry points that the client's package declares; without it one sentence says what to install."""
    project = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["ledgerwire.commands"]
    assert set(declared) == set(CLIENT_VERBS)
    installed = tmp_path / "ledgerwire_client-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ledgerwire-client\nVersion: 0.1.0\n")
    lines = [f"{name} = {target}" for name, target in declared.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[ledgerwire.commands]", *lines]))
    beside = os.pathsep.join(map(str, (ROOT, SOURCE, tmp_path)))
    alone, together = await asyncio.gather(
        start("watch", "t", module="gateway", environment={"PYTHONPATH": str(ROOT)}),
        start("report", "t", "--url", gateway.ws, module="gateway", environment={"PYTHONPATH": beside}),
    )
    status, out, err = await ended(alone)
    assert (status, out) == (69, "")
    assert "pip install './clients/python[cli]'" in err
    assert await ended(together) == (0, "t: running, committed as 1\n", "")
