"""The command line, as an operator meets it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.embedded import EmbeddedPostgres
from ledger.migrate import migrations
from tests.support.gateway import ROOT, GatewayProcess, in_process
from tests.support.postgres import temporary_folder
from tests.support.waiting import WAIT_SECONDS


async def ledgerwire(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a command to its end: status, stdout, stderr."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        cwd=ROOT,
        env={**inherited, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_SECONDS):
        out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def test_help_names_every_command() -> None:
    """`--help` shows the commands; `serve --help` shows the options."""
    status, out, _ = await ledgerwire("--help")
    assert status == 0
    assert all(command in out for command in ("serve", "migrate", "healthcheck", "DATABASE_URL"))
    status, out, _ = await ledgerwire("serve", "--help")
    assert status == 0
    assert all(option in out for option in ("--host", "--port", "--allow-origin", "--token-file", "--data-dir"))


async def test_migrate_tells_what_is_missing_and_applies_it_once(empty_database: str) -> None:
    """`migrate --check` fails while something is missing and changes nothing; `migrate` applies it, once."""
    names = [migration.file_name for migration in migrations()]
    missing, applied = ("".join(f"{word} {name}\n" for name in names) for word in ("missing", "applied"))
    assert (await ledgerwire("migrate", "--check", DATABASE_URL=empty_database))[:2] == (1, missing)
    assert (await ledgerwire("migrate", DATABASE_URL=empty_database))[:2] == (0, applied)
    assert (await ledgerwire("migrate", DATABASE_URL=empty_database))[:2] == (0, "up to date\n")
    assert (await ledgerwire("migrate", "--check", DATABASE_URL=empty_database))[:2] == (0, "up to date\n")


async def test_migrate_without_a_database_says_what_to_set() -> None:
    """Without DATABASE_URL there is nothing to migrate."""
    status, _, error = await ledgerwire("migrate")
    assert status == 78
    assert "DATABASE_URL" in error


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that the server's account can reach."""
    with temporary_folder() as made:
        yield made


async def test_epoch_wants_the_ledger_that_is_there(folder: Path) -> None:
    """It makes none, and while a gateway uses it the command names that gateway and the way to its PostgreSQL."""
    epoch_show = ("epoch", "show", "--data-dir", str(folder))
    assert await ledgerwire(*epoch_show) == (
        78,
        "",
        f"ledgerwire: There is no ledger in {folder}; is --data-dir right?\n",
    )
    assert await asyncio.to_thread(os.listdir, folder) == []
    with EmbeddedPostgres.start(folder, durable=False) as server:
        status, _, error = await ledgerwire(*epoch_show)
        url = f"postgresql://postgres@/ledgerwire?host={server.cluster_dir}"
        assert status == 69
        assert f"in use by the gateway with pid {os.getpid()}. Stop the gateway" in error
        assert error.endswith(f"set DATABASE_URL='{url}'.\n")
        assert "LEDGERWIRE_DATA_DIR" not in error
        status, _, _ = await ledgerwire("migrate", DATABASE_URL=url)
        assert status == 0
        shown = await ledgerwire("epoch", "show", DATABASE_URL=url)
        assert shown[0] == 0
    assert await ledgerwire(*epoch_show) == shown


async def test_healthcheck_is_zero_only_for_a_gateway_that_answers(database: str) -> None:
    """A container's health check: 0 and the answer, or 1 and what was tried."""
    async with in_process(database) as gateway:
        status, out, _ = await ledgerwire("healthcheck", "--url", gateway.http)
        assert (status, out) == (0, '{"status":"live"}\n')
        status, out, _ = await ledgerwire("healthcheck", "--ready", "--url", gateway.http)
        assert (status, out) == (0, '{"status":"ready"}\n')
    status, _, error = await ledgerwire("healthcheck", "--url", gateway.http)
    assert status == 1
    assert str(gateway.port) in error


async def test_a_wrong_setting_names_itself() -> None:
    """A variable that cannot be read is named with its value and what would be right."""
    status, _, error = await ledgerwire("serve", LEDGERWIRE_PORT="eighty")
    assert status == 78
    assert "LEDGERWIRE_PORT" in error
    assert "eighty" in error


async def test_sigterm_says_goodbye_and_ends_with_zero(database: str) -> None:
    """A stop tells every client when to come back, closes with 4000, and leaves nothing behind."""
    async with GatewayProcess(database, environment={"LEDGERWIRE_DRAIN_SECONDS": "2"}) as gateway:
        async with gateway.client() as peer:
            stopping = asyncio.create_task(gateway.stop())
            bye = await peer.expect("bye", code=4000, retry=True, reason="shutting_down")
            assert 0 <= bye["retry_after_ms"] <= 2000
            await peer.socket.close()
        assert await stopping == 0
        events = [entry["event"] for entry in gateway.log]
        assert events.index("stopping") < events.index("drained")
        assert not [entry for entry in gateway.log if entry.get("level") == "error"], gateway.log
