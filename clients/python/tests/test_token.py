"""The token function: who asks it, when, and what is said when what it gives is not taken."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

import ledgerwire
from tests.support.gateway import Gateway, in_process
from tests.support.waiting import WAIT_SECONDS, eventually

from .literal import WELCOME, literal_gateway

OLD, NEW = "a" * 40, "b" * 40


@pytest.mark.parametrize("peer", [ledgerwire.Worker, ledgerwire.Watcher])
async def test_a_token_that_expires_is_renewed_on_the_open_connection(peer: type[ledgerwire.Worker]) -> None:
    """The function is asked once, however often the gateway says so, and the new token goes into `refresh`."""
    asked = 0
    answer = asyncio.Event()

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked > 1:
            await answer.wait()
        return f"token-{asked}"

    expiring = {"type": "notice", "kind": "token_expiring"}
    async with literal_gateway({"hello": [WELCOME, expiring, expiring, expiring]}) as (url, heard):
        async with asyncio.timeout(WAIT_SECONDS), peer(url, token=token):
            await eventually(lambda: asked == 2)
            answer.set()
            await eventually(lambda: len(heard) == 2)
    assert [(each["type"], each["token"]) for each in heard] == [("hello", "token-1"), ("refresh", "token-2")]
    assert asked == 2


async def test_a_token_that_is_not_taken_is_asked_for_once_more(database: str, tmp_path: Path) -> None:
    """A kept one may be too old; a plain function may block, as one that fetches a token does."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"app alice {NEW}\n")
    tokens.chmod(0o600)
    given: list[str] = []

    def token() -> str:
        given.append(NEW if given else OLD)
        return given[-1]

    def wrong() -> str:
        given.append(OLD)
        return OLD

    async with in_process(database, token_file=tokens) as gateway, asyncio.timeout(WAIT_SECONDS):
        async with ledgerwire.Worker(gateway.ws, token=token) as worker:
            await worker.create("t")
        assert given == [OLD, NEW]
        given.clear()
        with pytest.raises(ledgerwire.Unauthenticated, match="unauthenticated"):
            async with ledgerwire.Worker(gateway.ws, token=wrong) as worker:
                await worker.create("t")
        assert given == [OLD, OLD]


async def test_a_token_function_that_fails_is_asked_again_and_its_words_are_in_no_log(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What a function says of itself may hold a secret."""
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError("secret-of-the-function")
        return NEW

    async with in_process(database) as gateway, asyncio.timeout(WAIT_SECONDS):
        async with ledgerwire.Worker(gateway.ws, token=token) as worker:
            await worker.create("t")
    assert asked == 2
    assert "OSError" in caplog.text
    assert "secret-of-the-function" not in caplog.text


NEVER = """
import asyncio, sys, threading
import ledgerwire

async def main():
    asked = threading.Event()

    def token():
        asked.set()
        threading.Event().wait()

    async with ledgerwire.Watcher("ws://127.0.0.1:%s/v1/ws", token=token):
        await asyncio.to_thread(asked.wait)

asyncio.run(main())
"""


async def test_a_token_function_that_never_returns_does_not_keep_a_program_from_ending(gateway: Gateway) -> None:
    """Nor would a server that never answers a poll: both are waited for in threads that nobody waits for."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NEVER % gateway.port, env={"PYTHONPATH": str(Path(ledgerwire.__file__).parents[1])}
    )
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
