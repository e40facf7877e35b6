"""The first look at every connection: a plain upgrade to the WebSocket comes in here, all else is aiohttp's.

The door knows one sentence: a whole `GET /v1/ws` upgrade in the first bytes of a connection, each header once and
nothing odd about any, which the rules and admission let in. It answers that one itself, for half of what aiohttp
takes. Whatever else comes (other paths, half a request, a header twice, an Origin that is not allowed) goes to aiohttp
byte by byte as it came: it is the server, and gives all answers but `101` and all refusals.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Final, cast

from aiohttp import web

from gateway.http.guard import Rules, bearer
from gateway.http.proxies import Client, Proxies
from gateway.identity import Visitor
from gateway.limits.allowance import Allowance
from gateway.transports.websocket import WebSockets
from gateway.transports.wire import hand_over

HEAD_BYTES: Final = 7_000
"""Of a request that is answered here; below every bound of aiohttp's."""
HEADERS: Final = 60
PATH: Final = "/v1/ws"
SILENT_SECONDS: Final = 10.0
"""A connection that has said nothing for so long is closed: it costs little, but it costs a file."""

_HEAD: Final = re.compile(
    rb"GET /v1/ws(?:\?(?:[A-Za-z0-9._~!$'()*,;:@/&=+-]|%[0-9A-Fa-f]{2})*)? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z0-9-]+: ?[!-~](?:[ -~]*[!-~])?\r\n)+)\r\n"
)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")  # of 16 bytes
_LEFT_TO_AIOHTTP: Final = frozenset(
    {"content-length", "content-encoding", "transfer-encoding", "te", "trailer", "expect", "http2-settings",
     "proxy-connection", "keep-alive", "sec-websocket-key1"}
)  # fmt: skip


class Asked:
    """A plain upgrade. `headers`: by lower-case name, each once. `unread`: what came behind it."""

    __slots__ = ("headers", "unread")

    def __init__(self, headers: dict[str, str], unread: bytes) -> None:
        self.headers = headers
        self.unread = unread


def plain_upgrade(data: bytes) -> Asked | None:
    """The upgrade that a connection begins with; None where there is another thing, or the least doubt."""
    found = _HEAD.match(data, 0, HEAD_BYTES)
    if found is None:
        return None
    lines = found[1].decode("ascii").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.lstrip(" ")
    if len(headers) != len(lines) - 1 or len(headers) > HEADERS or not _LEFT_TO_AIOHTTP.isdisjoint(headers):
        return None
    plain = (
        headers.get("upgrade", "").lower() == "websocket"
        and headers.get("connection", "").lower() in {"upgrade", "keep-alive, upgrade"}
        and headers.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(headers.get("sec-websocket-key", "")) is not None
        and _HOST.fullmatch(headers.get("host", "")) is not None
    )
    return Asked(headers, data[found.end() :]) if plain else None


class Doors:
    """Those of one process: called for a protocol for each connection."""

    def __init__(self, sockets: WebSockets, rules: Rules, proxies: Proxies, runner: web.AppRunner) -> None:
        """`runner`: of aiohttp, to which all is handed over that is no plain upgrade."""
        self.sockets = sockets
        self.rules = rules
        self.proxies = proxies
        self.runner = runner
        self.open: set[Door] = set()

    def __call__(self) -> Door:
        """One for a new connection."""
        return Door(self)

    async def close(self) -> None:
        """Cut all that has come in here and is still there. None may come any more."""
        for door in list(self.open):
            door.tick()
        await self.sockets.close()


class Door(asyncio.Protocol):
    """One connection, until its first bytes have come."""

    __slots__ = ("_doors", "_transport", "due_slot")

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._transport: asyncio.Transport
        self.due_slot: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio's."""
        self._transport = cast(asyncio.Transport, transport)
        self._doors.open.add(self)
        self._doors.sockets.services.wheel.put(self, time.monotonic() + SILENT_SECONDS)

    def data_received(self, data: bytes) -> None:
        """As asyncio's: let it in, or hand it over."""
        self._leave()
        doors, transport = self._doors, self._transport
        peer = transport.get_extra_info("peername")
        if peer is None:  # it has cut the line behind what it has sent; the system does not know any more who it was
            transport.abort()
            return
        asked = plain_upgrade(data)
        client = None if asked is None else self._client(peer[0], asked.headers)
        allowance = None if asked is None or client is None else self._allowance(asked.headers, client)
        if asked is None or client is None or allowance is None:
            hand_over(transport, doors.runner, data)
            return
        doors.sockets.let_in(
            transport,
            key=asked.headers["sec-websocket-key"],
            visitor=Visitor(bearer(asked.headers), client.address),
            allowance=allowance,
            unread=asked.unread,
        )

    def connection_lost(self, error: Exception | None) -> None:
        """As asyncio's."""
        self._leave()

    def tick(self) -> None:
        """Nothing has come, and nothing will."""
        self._transport.close()

    def _client(self, peer: str, headers: dict[str, str]) -> Client:
        return self._doors.proxies.client(
            peer,
            "http" if self._transport.get_extra_info("sslcontext") is None else "https",
            [headers[name] for name in ("x-forwarded-for",) if name in headers],
            [headers[name] for name in ("x-forwarded-proto",) if name in headers],
        )

    def _allowance(self, headers: dict[str, str], client: Client) -> Allowance | None:
        """What it may take; None: it may not enter. That is put into words by aiohttp's handlers, which ask again."""
        doors, now = self._doors, time.monotonic()
        services = doors.sockets.services
        if (
            doors.rules.refusal(headers, scheme=client.scheme, host=headers["host"], path=PATH) is not None
            or not services.admission.would_admit(now)
            or not services.quotas.would_enter(client.counted_as, now)
        ):
            return None
        services.admission.admit(now)
        return Allowance(services.quotas, client.counted_as, now)

    def _leave(self) -> None:
        self._doors.open.discard(self)
        self._doors.sockets.services.wheel.remove(self)
