"""Reads the ledger for one session: one read at a time, and again after a while when the ledger cannot be reached."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from gateway.protocol.effects import Effect
from gateway.protocol.errors import INTERNAL
from gateway.protocol.session import Session
from gateway.services import Services
from ledger.errors import LedgerError

log = structlog.get_logger(__name__)

READ_RETRY_SECONDS: Final = 0.5


class Reading:
    """The reads of one session."""

    def __init__(self, session: Session, services: Services) -> None:
        self._session = session
        self._services = services
        self._task: asyncio.Task[None] | None = None

    def begin(self, perform: Callable[[Sequence[Effect]], None]) -> None:
        """Read what the session needs, unless a read is under way; the peer must have taken what was sent.

        `perform` gets the effects, as soon as the next read may begin. It is not kept: whoever calls has this object.
        """
        if self._task is None and self._session.has_due_reads:
            self._task = asyncio.create_task(self._read(perform), name=f"read {self._session.id}")

    def stop(self) -> None:
        """Give up the read under way."""
        task, self._task = self._task, None  # kept, it would keep whoever holds this
        if task is not None:
            task.cancel()

    async def _read(self, perform: Callable[[Sequence[Effect]], None]) -> None:
        session = self._session
        wants = session.subscriptions.due_reads()
        effects: Sequence[Effect] = ()
        self._services.hub.counts.reads += 1
        try:
            reads = await self._services.replays.answer(wants)
            for read in reads if not session.closed else ():  # else they may be of another history
                self._services.hub.seen(read.want.slot[0], read.head)
            sealed = session.subscriptions.sealed_keys(wants)
            effects = session.read(reads, await self._services.reader.facts(sealed) if sealed else None)
        except LedgerError as error:
            log.debug("read_failed", session=session.id, reason=error.reason)
            session.read_failed(wants)
            await asyncio.sleep(READ_RETRY_SECONDS * (1 + secrets.randbelow(1000) / 1000))
        except Exception:
            log.exception("read_fault", session=session.id)
            effects = session.end(INTERNAL)
        else:
            served = {read.want.slot for read in reads}
            session.read_failed([want for want in wants if want.slot not in served])
        self._task = None
        perform(effects)
