"""Runs one session over one transport: performs its effects, and brings it frames, answers, events and time.

Exactly one coroutine writes to the transport (`_send`). All that the session wants from the ledger is bounded: so many
requests in flight, one read at a time, and reads only while the transport has taken what was sent before.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol

import structlog

from gateway.auth import Principal
from gateway.hub import BEGUN_ANEW
from gateway.outbox import Outbox, OutboxFull
from gateway.protocol.effects import (
    Authenticate,
    Beats,
    Close,
    Deliver,
    Effect,
    Event,
    Send,
    Slot,
    Submit,
    Unwatch,
    Watch,
)
from gateway.protocol.errors import INTERNAL, TOO_SLOW, Bye, ProtocolError, as_protocol_error
from gateway.protocol.messages import Cursor
from gateway.protocol.session import Session
from gateway.reading import Reading
from gateway.services import Services
from ledger.batch import Outcome
from ledger.errors import LedgerError
from ledger.model import Head, Key

log = structlog.get_logger(__name__)

IN_FLIGHT: Final = 5_000
"""Requests of one connection that may wait for their commit; then it is not read from until some are answered."""
UNSENT: Final = 1_000
"""Frames that may wait to be sent before no more is read from the peer."""
BYTES_PER_WRITE: Final = 32 * 1024
"""Frames handed to the transport at once; a peer that does not take so much in the time to be dead is cut."""
CLOSE_SECONDS: Final = 1.0
"""How long a peer may take to take the last frames."""


class Transport(Protocol):
    """Carries frames to one peer. Only the connection's sender calls `send` and `close`."""

    one_way: bool
    """Whether nothing can come back; then a frame that was taken is the sign of life."""

    async def send(self, frames: Sequence[bytes]) -> None:
        """Send the frames in order; returns when the transport can take more. Raises ConnectionError."""

    async def close(self, bye: Bye) -> None:
        """End the conversation; the frame that says why has been sent."""

    def abort(self) -> None:
        """Cut the line at once."""


class Connection:
    """One session over one transport. `run` it beside whatever brings frames to `receive`."""

    def __init__(self, services: Services, transport: Transport, *, token: str | None = None) -> None:
        now = time.monotonic()
        self.id = "s-" + secrets.token_hex(6)
        self.session = Session(
            session_id=self.id,
            epoch=services.epoch,
            ping_interval_seconds=services.ping_interval_seconds,
            ping_phase=secrets.randbelow(1000) / 1000,
            server_time=datetime.now(UTC),
            now=now,
        )
        self._services = services
        self._transport = transport
        self._token = token
        self._outbox = Outbox()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._in_flight = 0
        self._sending_since: float | None = None
        self._bye: Bye | None = None
        self._reading = Reading(self.session, services)
        self._timer: asyncio.TimerHandle | None = None
        self.ended = asyncio.Event()
        """Set when nothing of the connection is left."""

    async def run(self) -> None:
        """Send what the session has to say until it ends or the peer is gone. Always leaves nothing behind."""
        self._services.hub.join(self)
        if self.session.epoch != self._services.epoch:  # changed since this connection was made
            self.notice(BEGUN_ANEW)
        self._arm_timer()
        try:
            await self._send()
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            log.debug("peer_gone", session=self.id, reason=type(error).__name__)
        finally:
            self._release()

    async def receive(self, frame: str) -> None:
        """A frame from the peer. Returns when the next one may come."""
        await self.perform(self.session.receive(frame, time.monotonic()))
        await asyncio.sleep(0)  # a peer whose frames are all here already must not keep the others from their turn
        await self._room.wait()

    async def perform(self, effects: Iterable[Effect]) -> None:
        """Perform effects in order; only a question of identity may wait."""
        for effect in effects:
            if isinstance(effect, Authenticate):
                self._perform(await self._authenticate(effect))
            else:
                self._perform((effect,))
        self._settle_down()
        self._arm_timer()  # only what a client says can bring the next tick forward

    def refuse(self, error: ProtocolError) -> None:
        """What came was no frame at all."""
        self._do(self.session.unreadable(error))

    def watch_one(self, principal: Principal, task_id: str, after: Cursor | None) -> None:
        """Open the session and subscribe on behalf of a peer that cannot speak."""
        self._perform(self.session.authenticated(principal.tenant, principal.subject))
        self._do(self.session.watch_one(task_id, after))

    @property
    def one_way(self) -> bool:
        """Whether nothing can come from the peer."""
        return self._transport.one_way

    @property
    def sent_bytes(self) -> int:
        """Of all frames that went out, so far."""
        return self._outbox.taken_bytes

    @property
    def closing(self) -> bool:
        """Whether goodbye has been said."""
        return self._bye is not None

    def end(self, bye: Bye) -> None:
        """Say goodbye and close."""
        self._do(self.session.end(bye))

    # As the hub's watcher

    def deliver(self, events: Sequence[Event]) -> None:
        """Live transitions of a watched task."""
        self._do(self.session.deliver(events))

    def see(self, key: Key, head: Head) -> None:
        """How the worker of a watched task is."""
        self.session.see(key, head)
        self._settle_down()

    def notice(self, kind: str) -> None:
        """The state of the ledger has changed."""
        self._do(self.session.begin_anew() if kind == BEGUN_ANEW else self.session.notice(kind))

    # Effects

    def _perform(self, effects: Sequence[Effect]) -> None:
        if self.ended.is_set():
            return
        cut: set[Slot] = set()  # what these effects still hold of such a subscription lies behind the cut
        for effect in effects:
            match effect:
                case Deliver():
                    if effect.slot in cut:
                        continue
                    lost = self._outbox.offer(effect.slot, effect.seq, effect.frame, replaces=effect.replaces)
                    if lost:
                        self._rewind(lost)
                        cut.update(lost)
                case Send():
                    self._put(effect.frame)
                case Submit():
                    self._submit(effect)
                case Watch():
                    self._services.hub.watch(effect.key, self)
                case Unwatch():
                    self._services.hub.unwatch(effect.key, self)
                case Beats():
                    self._services.beats.add(effect.held, self)
                case Close():
                    self._bye = effect.bye
                case Authenticate():  # pragma: no cover - `perform` takes these
                    raise AssertionError("a question of identity outside a client's message")

    def _rewind(self, lost: dict[Slot, int]) -> None:
        self._services.hub.counts.rewinds += len(lost)
        for slot, seq in lost.items():
            self.session.rewind(slot, seq)

    def _put(self, frame: bytes) -> None:
        try:
            self._outbox.put(frame)
        except OutboxFull:
            self._cut()

    def _do(self, effects: Sequence[Effect]) -> None:
        self._perform(effects)
        self._settle_down()

    def _settle_down(self) -> None:
        """After effects: wake the sender, or read on."""
        if self._outbox or self._bye is not None or self.session.has_words:
            self._wake.set()
        self._note_room()
        if not self._outbox:
            self._reading.begin(self._do)

    def _note_room(self) -> None:
        """Whether the next frame may come: the peer's requests and their answers are bounded."""
        if self.ended.is_set():
            return
        if self._in_flight < IN_FLIGHT and len(self._outbox) < UNSENT:
            self._room.set()
        else:
            self._room.clear()

    def _cut(self) -> None:
        """The peer takes nothing of what is sent: there is no point in another frame."""
        self.session.end(TOO_SLOW)  # what it says is lost with the line
        if self._bye is not TOO_SLOW:
            self._bye = TOO_SLOW
            self._services.hub.counts.cuts += 1
            log.info("peer_cut", session=self.id, reason=TOO_SLOW.reason)
            self._transport.abort()

    async def _authenticate(self, effect: Authenticate) -> list[Effect]:
        token = effect.token if effect.token is not None else self._token
        try:
            principal = await self._services.authenticator.authenticate(token)
        except ProtocolError as error:
            return self.session.refused(error, refresh=effect.refresh)
        if effect.refresh is None:
            log.info(
                "session_opened",
                session=self.id,
                tenant=principal.tenant,
                subject=principal.subject,
                client=self.session.client,
            )
            self._services.admission.leave(self)
        effects = self.session.authenticated(principal.tenant, principal.subject, refresh=effect.refresh)
        if effect.refresh is None and self._services.hub.degraded:
            effects += self.session.notice("degraded")
        return effects

    def _submit(self, effect: Submit) -> None:
        try:
            self._services.writer.post(effect.request, partial(self._settled, effect.id))
        except LedgerError as error:
            self._perform(self.session.settled(effect.id, as_protocol_error(error)))
        else:
            self._in_flight += 1

    def _settled(self, id_: int | str | None, outcome: Outcome) -> None:
        self._in_flight -= 1
        answer = as_protocol_error(outcome) if isinstance(outcome, LedgerError) else outcome
        self._do(self.session.settled(id_, answer))

    # Sending

    async def _send(self) -> None:
        while True:
            while frames := self._outbox.take(BYTES_PER_WRITE):
                self._sending_since = time.monotonic()
                await self._transport.send(frames)
                self._sending_since = None
                self._note_room()
                if self._transport.one_way:
                    self.session.heard(time.monotonic())
            self._perform(self.session.drained())
            if self._outbox:
                continue
            self._reading.begin(self._do)
            if self._bye is not None:
                await self._transport.close(self._bye)
                return
            self._wake.clear()
            await self._wake.wait()

    # Time

    def _arm_timer(self) -> None:
        if self._bye is not None:
            return
        at = self.session.next_tick()
        if self._timer is not None:
            if not self._timer.cancelled() and self._timer.when() <= at:
                return  # it will come early enough, and look again
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(max(at, loop.time()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        if self._sending_since is not None and self.session.is_dead(silent_since=self._sending_since, now=now):
            self._cut()
            return
        self._do(self.session.tick(now))
        self._arm_timer()
        if self._bye is not None:
            # Whoever is closed by time may take nothing any more: do not wait for it.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(3 * CLOSE_SECONDS, self._transport.abort)

    def _release(self) -> None:
        log.info("session_closed", session=self.id, reason=self._bye.reason if self._bye is not None else "peer_gone")
        self._bye = self._bye or INTERNAL
        self.session.end(self._bye)  # frames that are here already must not begin anything any more
        if self._timer is not None:
            self._timer.cancel()
        self._reading.stop()
        self._services.admission.leave(self)
        hub = self._services.hub
        hub.leave(self)
        hub.counts.sent_bytes += self.sent_bytes
        for key in self.session.subscriptions.task_keys():
            hub.unwatch(key, self)
        self.ended.set()
        self._room.set()
