"""Who may connect, to what, and what is said when not; and that a token is seen by the gateway only."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import ledgerwire
from ledgerwire import Timing
from tests.support.gateway import Gateway, in_process
from tests.support.proxy import Link, Proxy
from tests.support.waiting import eventually

ALICE, ALICE_TOO, BOB = ("a" * 40, "b" * 40, "c" * 40)


@pytest.fixture
async def guarded(database: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway that wants a token."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"app alice {ALICE}\napp alice {ALICE_TOO}\nother bob {BOB}\n")
    tokens.chmod(0o600)
    async with in_process(database, token_file=tokens) as running:
        yield running


async def test_without_a_valid_token_the_connection_is_refused_for_good(guarded: Gateway) -> None:
    """Whoever waits is told why, and nothing is tried again."""
    with pytest.raises(ledgerwire.Refused) as refused:
        async with ledgerwire.Worker(guarded.ws, token="wrong") as worker:
            await worker.create("t")
    assert (refused.value.code, refused.value.reason) == (4501, "unauthenticated")
    with pytest.raises(ledgerwire.Refused, match="unauthenticated"):
        await anext(ledgerwire.watch("t", url=guarded.ws))
    with pytest.raises(ledgerwire.Refused, match="unauthenticated"):
        await ledgerwire.cancel("t", url=guarded.ws)


async def test_an_error_that_only_posts_have_met_is_raised_when_the_worker_is_left(guarded: Gateway) -> None:
    """A worker that never awaited anything does not end as if all were well."""

    async def catch_what_the_task_raises() -> None:
        async with ledgerwire.Worker(guarded.ws, token="wrong") as worker:
            with pytest.raises(ledgerwire.Refused):
                await worker.task("t").__aenter__()

    with pytest.raises(ledgerwire.Refused):
        await catch_what_the_task_raises()


async def test_a_token_is_in_no_log_and_in_no_url(guarded: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """Not even when everything is logged."""
    caplog.set_level(logging.DEBUG)
    async with ledgerwire.Worker(guarded.ws, token=ALICE) as worker, worker.task("t") as task:
        await task.progress(10, message="payload-in-a-report")
    assert any(record.name == "ledgerwire" for record in caplog.records)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("ledgerwire"))
    assert ALICE not in ours
    assert "payload-in-a-report" not in ours
    assert ALICE not in repr(worker)
    for url in (f"{guarded.ws}?token={ALICE}", guarded.ws.replace("//", f"//user:{ALICE}@")):
        with pytest.raises(ValueError, match="not in the URL") as refused:
            ledgerwire.Worker(url)
        assert ALICE not in str(refused.value)


async def test_a_token_function_is_asked_before_every_connection(guarded: Gateway) -> None:
    """So that a short-lived token can be renewed."""
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        return (ALICE, ALICE_TOO)[asked % 2]

    async with Proxy(("127.0.0.1", guarded.port)) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/v1/ws"
        async with ledgerwire.Worker(url, token=token) as worker:
            await worker.create("a")
            proxy.set(Link.RESET)
            await eventually(lambda: not worker.connected)
            proxy.set(Link.PASS)
            await worker.create("b")
        assert asked >= 2


async def test_a_token_is_replaced_on_the_open_connection(guarded: Gateway) -> None:
    """By another of the same principal only."""
    async with ledgerwire.Worker(guarded.ws, token=ALICE) as worker:
        await worker.refresh(ALICE_TOO)
        with pytest.raises(ledgerwire.Rejected, match="forbidden"):
            await worker.refresh(BOB)
        await worker.create("t")


async def test_tenants_do_not_see_each_other(guarded: Gateway) -> None:
    """The same id is another task."""
    async with ledgerwire.Worker(guarded.ws, token=ALICE) as alice:
        await alice.create("t")
        with pytest.raises(ledgerwire.UnknownTask):
            await anext(ledgerwire.watch("t", url=guarded.ws, token=BOB))


async def test_a_wrong_path_is_told_and_not_tried_for_ever(gateway: Gateway) -> None:
    """The address is right, what is behind it is not."""
    with pytest.raises(ledgerwire.Refused, match="HTTP 404"):
        await anext(ledgerwire.watch("t", url=gateway.ws.replace("/v1/ws", "/v2/ws")))


@pytest.mark.parametrize("url", ["http://127.0.0.1/v1/ws", "127.0.0.1:8080", "ws:///v1/ws", ""])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    """Before anything is connected."""
    for kind in (ledgerwire.Worker, ledgerwire.Watcher, ledgerwire.SyncWorker):
        with pytest.raises(ValueError, match="ws://"):
            kind(url)


async def test_a_gateway_that_is_not_there_yet_is_waited_for(database: str) -> None:
    """A worker may start first; what it wants to say is said when the gateway is up."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    url = f"ws://127.0.0.1:{port}/v1/ws"
    async with ledgerwire.Worker(url, timing=Timing(reconnect_ceiling_seconds=0.2)) as worker:
        with pytest.raises(ledgerwire.DeliveryTimeout) as timeout:
            async with worker.task("t", timeout_seconds=0.2):
                pytest.fail("there is no attempt")
        assert not timeout.value.queued, "an attempt that nobody works on must not begin later"
        creating = asyncio.create_task(worker.create("t"))
        async with in_process(database, port=port):
            assert (await creating).seq == 1


async def test_a_gateway_that_has_a_crowd_at_its_door_says_when_to_come_again(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client waits as it was told, which is no failure to warn of, and is let in."""
    caplog.set_level(logging.INFO, logger="ledgerwire")
    async with in_process(database, connect_rate=1.0) as gateway:
        async with gateway.client(), gateway.client():  # all that come in at once
            async with ledgerwire.Worker(gateway.ws) as worker:
                await worker.create("t")
    told = [record for record in caplog.records if "HTTP 503" in record.getMessage()]
    assert told
    assert all(record.levelno == logging.INFO for record in told)
