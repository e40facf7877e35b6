"""Hints by PostgreSQL's LISTEN and NOTIFY: no further server, for a few processes.

One direct connection of its own, never a lane's and never by way of a pooler, through which LISTEN "succeeds" and
brings nothing. NOTIFY is never part of an append: notifying transactions commit one after the other, and fail when a
listener that hangs has let the server's queue fill up. What has gathered while one statement was at work goes with the
next, many hints in a notification.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from gateway.bus import hints
from gateway.bus.carrier import CLOSE_SECONDS, ECHO_SECONDS, PROBE_SECONDS, Broken, Carrier
from gateway.bus.unsent import Unsent
from ledger.errors import LedgerError
from ledger.pool import LaneConnection
from ledger.pool.dial import Dialer
from ledger.pool.failure import DRIVER_ERRORS, classify
from ledger.settings import LedgerSettings
from ledger.sql import query

CHANNEL: Final = "ledgerwire_hints"
PAYLOAD_BYTES: Final = 7_900
"""PostgreSQL takes less than 8,000."""
HINTS_AT_ONCE: Final = 1_500
"""For one statement: about ten notifications."""


class PostgresBus(Carrier):
    """The bus of nodes that share nothing but their database."""

    advice: ClassVar = {
        "no_echo": "LISTEN brings nothing: is there a pooler in between? LEDGERWIRE_DIRECT_DATABASE_URL names the way"
        " around it. Until then nodes learn of each other by their re-read.",
    }

    def __init__(
        self, settings: LedgerSettings, dsn: str, *, kind: str = "postgres", probe_seconds: float = PROBE_SECONDS
    ) -> None:
        """`dsn` is the URL of the database without a pooler."""
        super().__init__(kind, secrets.token_hex(6), max_frame_bytes_each=PAYLOAD_BYTES, probe_seconds=probe_seconds)
        self._dial = Dialer(settings, dsn, "bus")
        self._connection: LaneConnection | None = None
        self._probe = ""
        self._echoed = asyncio.Event()

    async def _connect(self) -> None:
        with _broken():
            connection = self._connection = await self._dial(connection_class=LaneConnection)
            connection.add_termination_listener(lambda _: self._breaks("connection_lost"))
            await connection.add_listener(CHANNEL, self._notified)

    async def _echo(self) -> None:
        self._echoed.clear()
        self._probe = hints.opening(self.node) + f'"epoch":"echo {secrets.token_hex(6)}","hints":[]}}'
        await self._notify([self._probe])
        try:
            async with asyncio.timeout(ECHO_SECONDS):
                await self._echoed.wait()
        except TimeoutError as error:
            raise Broken("no_echo") from error

    async def _send(self, unsent: Unsent) -> int:
        taken = unsent.take(HINTS_AT_ONCE)
        messages = hints.encode(self.node, taken[0].epoch, taken, max_bytes=PAYLOAD_BYTES)
        await self._notify([message.decode() for message in messages])
        return len(taken)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            await connection.close(timeout=CLOSE_SECONDS / 2)
        except DRIVER_ERRORS:
            connection.terminate()
        except BaseException:
            connection.terminate()
            raise

    async def _notify(self, payloads: list[str]) -> None:
        await self._ask("notify", CHANNEL, payloads)

    async def _ask(self, name: str, *arguments: object) -> list[Any]:
        connection = self._connection
        assert connection is not None  # noqa: S101 - between _connect and _disconnect
        with _broken():
            return await connection.fetch(query(name), *arguments)

    def _notified(self, connection: object, pid: int, channel: str, payload: object) -> None:
        assert isinstance(payload, str)  # noqa: S101 - the driver's types say less than it does
        if payload == self._probe:
            self._echoed.set()
        else:
            self._take(payload.encode())


@contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except (*DRIVER_ERRORS, LedgerError) as error:
        raise Broken(classify(error, sent=False).reason) from error
