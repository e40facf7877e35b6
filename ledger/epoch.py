"""Which history of the ledger this node is in, and that nobody takes another one for its continuation.

A ledger that is restored from a backup, taken back to a point in time, or promoted without its last commits gives
sequences away a second time. The epoch tells the two histories apart; `ledgerwire epoch new` changes it. So every
statement that anything is concluded from answers with its epoch too, and whoever reads tells `History.note` before it
looks at the rest. An append is made in the epoch of its decision, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg
import structlog
from msgspec import Struct

from ledger.errors import LedgerError, MigrationError, Unavailable
from ledger.model import Key
from ledger.pool import Pools
from ledger.settings import LedgerSettings, redacted
from ledger.sql import query

log = structlog.get_logger(__name__)

DECLARE_SECONDS: Final = 60.0
"""A node does not begin histories, nor end its sessions for it, more often: where it finds losses all the time, its
reads do not come from the server that it writes to."""

EXPECTED_TASKS: Final = 20_000
"""About 150 bytes each. Beyond it all is forgotten: a loss may then go unseen by this node."""

Fetch = Callable[..., Awaitable[list[asyncpg.Record]]]
"""Runs one statement with its arguments and returns the rows; a lane's, or a held connection's."""


class Loss(NamedTuple):
    """A task that has come to `found` only, after it was known to have come to `known`."""

    key: Key
    known: int
    found: int


class History:
    """The epoch as the ledger's last answer had it, one for all who read and write on a node."""

    def __init__(self) -> None:
        self.epoch = ""
        """Empty until the ledger has answered once."""
        self._expected: dict[Key, int] = {}
        self._listeners: list[Callable[[], None]] = []
        self._declared_at = float("-inf")

    def listen(self, begun_anew: Callable[[], None]) -> None:
        """Call this whenever the history is another one, before anything of it is used. It must not wait or fail."""
        self._listeners.append(begun_anew)

    def note(self, epoch: str, asked_in: str) -> bool:
        """The ledger has answered in this epoch to what was asked in that one.

        False when the answer was overtaken by a change: it is of a history that is over.
        """
        if epoch == self.epoch:
            return True
        if epoch == asked_in:
            return False
        before, self.epoch = self.epoch, epoch
        if before:
            log.warning("epoch_changed", before=before, epoch=epoch)
            self._begin_anew()
        return True

    def expect(self, epoch: str, key: Key, seq: int) -> None:
        """The ledger had committed this sequence of the task in this epoch. Remembered until the task is read again."""
        if epoch == self.epoch:
            if len(self._expected) >= EXPECTED_TASKS:
                self._expected.clear()
            self._expected[key] = seq

    def lost(self, key: Key, found: int) -> Loss | None:
        """What is lost when the task has now come to `found` only."""
        known = self._expected.pop(key, 0)
        return Loss(key, known, found) if found < known else None

    async def rewound(self, fetch: Fetch, loss: Loss) -> None:
        """Commits are gone, and nobody has said so.

        So this node does: it gives the history a new name, once for all nodes that find out. Where it cannot, it only
        ends what rests on the old one.
        """
        now = time.monotonic()
        if now < self._declared_at + DECLARE_SECONDS:
            return
        self._declared_at = now
        log.error(
            "ledger_rewound",
            epoch=self.epoch,
            key=loss.key,
            known_seq=loss.known,
            found_seq=loss.found,
            detail="The ledger has lost what it had committed. After a restore, a point-in-time recovery or a failover"
            " that takes commits back, run `ledgerwire epoch new`.",
        )
        epoch = self.epoch
        try:
            rows = await fetch(query("new_epoch"), epoch) or await fetch(query("epoch"))
        except LedgerError as error:
            log.error("epoch_not_begun", reason=error.reason, detail="Run `ledgerwire epoch new` now.")
            self._begin_anew()
        else:
            self.note(rows[0]["epoch"], epoch)

    def _begin_anew(self) -> None:
        self._expected.clear()
        for begun_anew in self._listeners:
            begun_anew()


class Epoch(Struct, frozen=True, kw_only=True):
    """An epoch: its name, and since when it is in force. `before` is the one that it has followed just now."""

    name: str
    started_at: datetime
    before: str | None = None


async def show(settings: LedgerSettings, dsn: str) -> Epoch:
    """The epoch in force. Raises `Unavailable`, and `MigrationError` where there is no ledger."""
    return await _ask(settings, dsn, "epoch")


async def begin(settings: LedgerSettings, dsn: str) -> Epoch:
    """Give the ledger's history a new name. Raises as `show`."""
    return await _ask(settings, dsn, "new_epoch", None)


async def _ask(settings: LedgerSettings, dsn: str, name: str, *arguments: object) -> Epoch:
    pools = await Pools.open(settings, dsn)
    try:
        (row,) = await pools.control.fetch(query(name), *arguments)
    except Unavailable as error:
        if error.reason == "schema_or_privilege":
            raise MigrationError("there is no ledger in this database; is it the right one?") from error
        raise Unavailable(
            f"The database {redacted(dsn)} cannot be asked: {error.sentence}.", reason=error.reason
        ) from error
    finally:
        await pools.close()
    return Epoch(name=row["epoch"], started_at=row["started_at"], before=row.get("before"))
