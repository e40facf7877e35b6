"""The three lanes together: opened, asked how they are, and closed as one.

Holds no connection itself and runs no statement but the probe of `check`. Opening never fails because the
server is away: a gateway starts before its database, and outlives its restarts.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

import msgspec

from ledger.errors import Unavailable
from ledger.pool.lane import Lane
from ledger.pool.status import WAITERS_SHOWN, LaneStatus, Waiting
from ledger.settings import LedgerSettings, unreadable

_CHECK: Final = """
select
    current_setting('server_version_num')::int as version,
    current_setting('transaction_read_only') = 'on' as read_only,
    array(
        select name || '=' || setting from pg_settings
        where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off' order by name
    ) as unsafe
"""


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of itself.

    `version` is 150018 for 15.18. `unsafe` names the settings under which a crash can lose a committed change
    (`fsync=off`, `full_page_writes=off`, `synchronous_commit=off`); empty when there are none.
    """

    version: int
    read_only: bool
    unsafe: tuple[str, ...]


class PoolsStatus(LaneStatus):
    """The figures of all lanes together, and of each."""

    lanes: dict[str, LaneStatus]


class Pools:
    """The three lanes. Open on the event loop that will use them."""

    def __init__(self, write: Lane, read: Lane, control: Lane) -> None:
        self.write = write
        self.read = read
        self.control = control

    @classmethod
    async def open(cls, settings: LedgerSettings, dsn: str) -> Self:
        """Open the lanes, with `…_pool_min` connections each where the server can be reached.

        Succeeds while the server is away, after at most `connect_timeout_seconds`: the lanes connect when it
        is back. Raises `SettingsError` when the driver cannot read the URL.
        """
        pools = cls(
            Lane("write", settings, dsn, size=settings.write_pool_max, writes=True),
            Lane("read", settings, dsn, size=settings.read_pool_max, writes=False),
            Lane("control", settings, dsn, size=settings.control_pool_max, writes=True),
        )
        outcomes = await asyncio.gather(
            pools.write.open(settings.write_pool_min),
            pools.read.open(settings.read_pool_min),
            pools.control.open(settings.control_pool_min),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if outcome is None:
                continue
            if isinstance(outcome, Unavailable) and not isinstance(outcome.__cause__, ValueError):
                continue
            await pools.close(timeout_seconds=0)
            if not isinstance(outcome, Unavailable):
                raise outcome
            raise unreadable(dsn) from None
        return pools

    async def check(self) -> ServerState:
        """Ask the server on the control lane, bounded like any statement: the probe behind readiness.

        Raises `Unavailable` when it does not answer. Not for liveness: a gateway without a database is alive.
        """
        row = await self.control.fetchrow(_CHECK, label="check")
        assert row is not None  # noqa: S101 - a select without a from has one row
        return ServerState(version=row["version"], read_only=row["read_only"], unsafe=tuple(row["unsafe"]))

    def status(self) -> PoolsStatus:
        """The figures of this moment for /health/db: totals, and under `lanes` those of each lane. No I/O."""
        lanes = {lane.name: lane.status() for lane in (self.write, self.read, self.control)}
        who = [waiter for each in lanes.values() for waiter in each["waiting"]["who"]]
        who.sort(key=lambda waiter: -waiter["seconds"])
        return PoolsStatus(
            pool_size=sum(each["pool_size"] for each in lanes.values()),
            checked_in=sum(each["checked_in"] for each in lanes.values()),
            checked_out=sum(each["checked_out"] for each in lanes.values()),
            overflow=0,
            max=sum(each["max"] for each in lanes.values()),
            waiting=Waiting(
                count=sum(each["waiting"]["count"] for each in lanes.values()),
                longest_seconds=who[0]["seconds"] if who else 0.0,
                who=who[:WAITERS_SHOWN],
            ),
            lanes=lanes,
        )

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Let running statements finish for so long, then cut them off. Later calls get `Unavailable`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(self.write.close(), self.read.close(), self.control.close())
        except TimeoutError:
            pass  # the cancelled closing has terminated what was left
