"""Somebody goes beyond a limit: is refused or cut, and counted; fifty others notice nothing.

One gateway for all, with limits so low that each is met within moments. It believes this machine to be a proxy, so that
every client has an address of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
from msgspec import Struct
from websockets.exceptions import InvalidStatus

from gateway.limits.rates import NAMES, label
from tests.support.gateway import Gateway, GatewayProcess, Peer
from tests.support.postgres import Cluster, temporary_database, temporary_folder
from tests.support.waiting import WAIT_SECONDS, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS: Final = {
    "MESSAGES_PER_SECOND": 50,
    "BYTES_PER_SECOND": 256 * 1024,
    "PINGS_PER_SECOND": 20,
    "REPORTS_PER_SECOND": 200,
    "PRINCIPAL_CONNECTIONS": 6,
    "PRINCIPAL_REPORTS_PER_SECOND": 300,
    "PRINCIPAL_QUERIES_PER_SECOND": 40,
    "TENANT_CONNECTIONS": 11,
    "TENANT_REPORTS_PER_SECOND": 400,
    "TENANT_QUERIES_PER_SECOND": 50,
    "ADDRESS_CONNECTIONS": 8,
    "ADDRESS_OPENING": 4,
    "ADDRESS_CONNECTS_PER_SECOND": 10,
}
INNOCENTS: Final = 50
INNOCENT_TENANTS: Final = 5
AT_ONCE: Final = 390
"""Reports in one frame: less than a connection's burst."""


def token(tenant: str, subject: str) -> str:
    return hashlib.sha256(f"{tenant} {subject}".encode()).hexdigest()


class Party(Struct):
    """The gateway, the innocents on it, and an offender's means: each has a tenant and addresses of its own."""

    gateway: Gateway
    http: aiohttp.ClientSession
    innocents: list[Peer]
    stack: AsyncExitStack
    turn: asyncio.Lock

    async def connect(self, tenant: str, subject: str = "a", *, address: str | None = None, hello: bool = True) -> Peer:
        headers = {"X-Forwarded-For": f"1.2.3.4, {address or address_of(f'{tenant}{subject}')}"}
        options: dict[str, Any] = {"hello": False, "additional_headers": headers, "ping_interval": None}
        peer = await self.stack.enter_async_context(self.gateway.client(**options))
        if hello:
            await peer.send(type="hello", v=1, token=token(tenant, subject))
        return peer

    async def welcomed(self, tenant: str, subject: str = "a", **options: Any) -> Peer:
        peer = await self.connect(tenant, subject, **options)
        peer.welcome = await peer.expect("welcome")
        return peer

    async def get(self, path: str, tenant: str, subject: str = "a", **headers: str) -> aiohttp.ClientResponse:
        sent = {"Authorization": f"Bearer {token(tenant, subject)}", "X-Forwarded-For": address_of(tenant + subject)}
        async with self.http.get(self.gateway.http + path, headers=sent | headers) as answer:
            await answer.read()
            return answer

    async def limited(self, name: str) -> float:
        async with self.http.get(f"{self.gateway.http}/metrics") as answer:
            found = re.search(rf'^ledgerwire_limited_total{{limit="{name}"}} (\S+)$', await answer.text(), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    async def innocents_go_on(self) -> None:
        async def ask(number: int, peer: Peer) -> None:
            assert (await peer.ask(id=number, type="report", task_id=f"innocent-{number}"))["ok"] is True
            await peer.send(type="ping")
            await peer.expect("pong")

        async with self.turn:
            await asyncio.gather(*(ask(number, peer) for number, peer in enumerate(self.innocents)))


def address_of(name: str) -> str:
    digest = hashlib.sha256(name.encode()).digest()
    return f"198.{18 + digest[0] % 2}.{digest[1]}.{digest[2]}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def party(cluster: Cluster) -> AsyncIterator[Party]:
    """A gateway, and fifty who are connected and do no harm."""
    good = [(f"good{number % INNOCENT_TENANTS}", f"s{number % 2}") for number in range(INNOCENTS)]
    bad = [(label(limit.lower()), subject) for limit in LIMITS for subject in ("a", "b")]
    environment = {f"LEDGERWIRE_LIMIT_{name}": str(value) for name, value in LIMITS.items()}
    async with AsyncExitStack() as stack:
        tokens = stack.enter_context(temporary_folder()) / "tokens"
        lines = {f"{tenant} {subject} {token(tenant, subject)}\n" for tenant, subject in good + bad}
        tokens.write_text("".join(lines))
        tokens.chmod(0o600)
        dsn = await stack.enter_async_context(temporary_database(cluster))
        arguments = ("--token-file", str(tokens), "--trusted-proxy", "127.0.0.0/8")
        gateway = await stack.enter_async_context(GatewayProcess(dsn, *arguments, environment=environment))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS)))
        it = Party(gateway, http, [], stack, asyncio.Lock())
        for number, (tenant, subject) in enumerate(good):
            it.innocents.append(await it.welcomed(tenant, subject, address=f"203.0.113.{number}"))
        yield it
        told = [line for line in gateway.log if line["event"] == "client_limited"]
        assert told
        assert all(line["address"].startswith("198.1") and "wait a moment" in line["detail"] for line in told)


def reports(count: int, task_id: str) -> list[dict[str, Any]]:
    return [{"type": "report", "id": number, "task_id": task_id} for number in range(count)]


async def refusals(peer: Peer, replies: int) -> int:
    """Of so many replies those that say `rate_limited`, and when to come again."""
    found = 0
    for _ in range(replies):
        reply = await peer.receive()
        if not reply["ok"]:
            assert reply["error"]["code"] == "rate_limited"
            assert reply["error"]["retryable"] is True
            assert reply["error"]["retry_after_ms"] >= 100
            found += 1
    return found


async def cut(peer: Peer, message: dict[str, Any]) -> None:
    """Go on with a message whatever comes back, until goodbye."""
    flood = [message] * 500

    async def send() -> None:
        while True:
            await peer.send_many(flood)

    sending = asyncio.create_task(send())
    while (frame := await peer.receive())["type"] != "bye":
        pass
    sending.cancel()
    await asyncio.wait([sending])
    assert (frame["code"], frame["reason"], frame["retry"]) == (4007, "rate_limited", True)
    assert frame["retry_after_ms"] >= 1_000
    assert await peer.closed() == 4007


async def messages(party: Party, me: str) -> None:
    await cut(await party.welcomed(me), {"type": "unsubscribe", "id": 1, "task_ids": ["x"]})


async def pings(party: Party, me: str) -> None:
    await cut(await party.welcomed(me), {"type": "ping"})


async def bytes_(party: Party, me: str) -> None:
    peer = await party.welcomed(me)
    for _ in range(12):
        await peer.send_text('{"type":"pong"}' + " " * 60_000)
    await peer.send(type="ping")
    await party.innocents_go_on()  # while nothing is read from the other
    await peer.expect("pong")


async def reports_(party: Party, me: str) -> None:
    peer = await party.welcomed(me)
    await peer.send_many(reports(AT_ONCE, me))
    await peer.send_many(reports(AT_ONCE, me))
    assert await refusals(peer, 2 * AT_ONCE) > 100
    await cut(peer, {"type": "report", "id": 1, "task_id": me})


async def principal_reports(party: Party, me: str) -> None:
    first, second = [await party.welcomed(me) for _ in range(2)]
    for peer in (first, second):
        await peer.send_many(reports(AT_ONCE, me))
    assert await refusals(first, AT_ONCE) + await refusals(second, AT_ONCE) > 50


async def tenant_reports(party: Party, me: str) -> None:
    peers = [await party.welcomed(me, subject) for subject in ("a", "a", "b")]
    for peer, count in zip(peers, (AT_ONCE, 200, AT_ONCE), strict=True):
        await peer.send_many(reports(count, me))
    assert sum([await refusals(peer, count) for peer, count in zip(peers, (AT_ONCE, 200, AT_ONCE), strict=True)]) > 50


async def principal_connections(party: Party, me: str) -> None:
    for _ in range(LIMITS["PRINCIPAL_CONNECTIONS"]):
        last = await party.welcomed(me)
    late = await party.connect(me)
    await late.expect("bye", code=4007, retry=True)
    assert await late.closed() == 4007
    assert (await party.get("/v1/tasks/x", me, Prefer="wait=1")).status == 429
    await last.socket.close()

    async def again() -> bool:
        peer = await party.connect(me)
        return bool((await peer.receive())["type"] == "welcome")

    assert await eventually(again, every_seconds=0.3)


async def tenant_connections(party: Party, me: str) -> None:
    for subject, count in (("a", 6), ("b", 5)):
        for _ in range(count):
            await party.welcomed(me, subject)
    late = await party.connect(me, "b")
    assert "tenant" in (await late.expect("bye", code=4007))["message"]


async def queries(party: Party, me: str, *subjects: str) -> None:
    answers = await asyncio.gather(*(party.get("/v1/tasks?limit=1", me, subject) for subject in subjects))
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


async def principal_queries(party: Party, me: str) -> None:
    await queries(party, me, *["a"] * 150)


async def tenant_queries(party: Party, me: str) -> None:
    await queries(party, me, *["a"] * 75, *["b"] * 75)


async def refused_upgrade(party: Party, me: str) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refused:
        await party.connect(me, hello=False)
    assert refused.value.response.status_code == 429
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    return refused.value


async def address_connections(party: Party, me: str) -> None:
    for number in range(LIMITS["ADDRESS_CONNECTIONS"]):
        await party.welcomed(me, "ab"[number % 2], address=address_of(me))
    with pytest.raises(InvalidStatus, match="429"):
        await party.connect(me, address=address_of(me))


async def address_opening(party: Party, me: str) -> None:
    for _ in range(LIMITS["ADDRESS_OPENING"]):
        first = await party.connect(me, hello=False)
    await refused_upgrade(party, me)
    await first.send(type="hello", v=1, token=token(me, "a"))
    await first.expect("welcome")
    await party.connect(me, hello=False)


async def address_connects(party: Party, me: str) -> None:
    for _ in range(500):
        answer = await party.get("/v1/tasks/x", me, Prefer="wait=0")
        if answer.status == 429:
            break
    assert answer.status == 429


OFFENDERS: Final[dict[str, Callable[[Party, str], Coroutine[None, None, None]]]] = {
    "messages": messages,
    "bytes": bytes_,
    "pings": pings,
    "reports": reports_,
    "principal_connections": principal_connections,
    "principal_reports": principal_reports,
    "principal_queries": principal_queries,
    "tenant_connections": tenant_connections,
    "tenant_reports": tenant_reports,
    "tenant_queries": tenant_queries,
    "address_connections": address_connections,
    "address_opening": address_opening,
    "address_connects": address_connects,
}


async def test_every_limit_has_an_offender() -> None:
    """A limit that is new needs one here."""
    assert OFFENDERS.keys() == set(NAMES) == {label(name.lower()) for name in LIMITS}


@pytest.mark.parametrize("limit", OFFENDERS)
async def test_who_goes_beyond_a_limit_hurts_nobody_else(party: Party, limit: str) -> None:
    """It is told or cut, and counted; fifty others report and are answered meanwhile."""
    before = await party.limited(limit)
    offence = asyncio.create_task(OFFENDERS[limit](party, limit))

    async def counted() -> bool:
        if offence.done():
            offence.result()
        return await party.limited(limit) > before

    await eventually(counted, what=f"{limit} is counted")
    await party.innocents_go_on()
    await offence
    await party.innocents_go_on()


async def test_a_read_without_its_answer_is_a_read(party: Party) -> None:
    """HEAD costs what GET does, and counts as that."""
    me = "principal_queries"
    sent = {"Authorization": f"Bearer {token(me, 'b')}", "X-Forwarded-For": address_of(me)}

    async def ask() -> int:
        async with party.http.head(f"{party.gateway.http}/v1/tasks", headers=sent) as answer:
            return answer.status

    assert set(await asyncio.gather(*(ask() for _ in range(150)))) == {200, 429}
