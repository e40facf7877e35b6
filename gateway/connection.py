"""Runs one session over one transport: performs its effects, and brings it frames, answers, events and time.

All that the session wants from the ledger is bounded: so many requests in flight, one read at a time, and reads only
while the transport has taken what was sent before. At rest a connection has no task and no timer of its own: what it
has to say is written at the end of a turn (`gateway.sending`), and the one wheel tells it the time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import structlog

from gateway.audit import audited
from gateway.auth import Principal
from gateway.errand import errand
from gateway.identity import UNKNOWN, Visitor, identify, introduce
from gateway.inflow import Inflow
from gateway.limits.allowance import Allowance
from gateway.outbox import OutboxFull
from gateway.protocol.burst import Burst
from gateway.protocol.effects import Authenticate, Beats, Close, Deliver, Effect, Send, Slot, Submit, Unwatch, Watch
from gateway.protocol.errors import INTERNAL, TOO_SLOW, Bye, ProtocolError, as_protocol_error
from gateway.protocol.messages import Cursor
from gateway.protocol.session import Session
from gateway.reading import Reading
from gateway.sending import FAREWELL_SECONDS, Sending, Transport
from gateway.services import Services
from gateway.topics import BEGUN_ANEW
from ledger.batch import Outcome
from ledger.errors import LedgerError
from ledger.model import Head, Key, Report

log = structlog.get_logger(__name__)


class Connection:
    """One session over one transport: `open`, bring frames to `receive`, and `release` at the end, whatever it was."""

    __slots__ = (
        "__weakref__", "_asking", "_bye", "_inflow", "_last_tick", "_reading", "_released", "_sending", "_services",
        "_task", "_transport", "_visitor", "due_slot", "id", "session",
    )  # fmt: skip

    def __init__(
        self, services: Services, transport: Transport, visitor: Visitor = UNKNOWN, allowance: Allowance | None = None
    ) -> None:
        self.id = "s-" + secrets.token_hex(6)
        self.session = Session(
            session_id=self.id,
            epoch=services.epoch,
            ping_interval_seconds=services.ping_interval_seconds,
            ping_phase=secrets.randbelow(1000) / 1000,
            server_time=datetime.now(UTC),
            now=time.monotonic(),
            budget=allowance,
        )
        self._services = services
        self._transport = transport
        self._visitor = visitor
        self._sending = Sending(transport)
        self._reading = Reading(self.session, services)
        self._task: asyncio.Task[None] | None = None  # waits until a slow peer has taken what was sent, or closes
        self._asking: asyncio.Task[None] | None = None  # finds out who the peer is
        self._inflow = Inflow(self._sending)
        self._bye: Bye | None = None
        self._released = self._last_tick = False
        self.due_slot: int | None = None

    def open(self) -> None:
        """Begin; `release` or `stop` must follow."""
        self._services.hub.join(self)
        if self.session.epoch != self._services.epoch:  # changed since this connection was made
            self.notice(BEGUN_ANEW)
        self._arm()

    async def stop(self) -> None:
        """Leave nothing behind, whatever is under way."""
        tasks = [task for task in (self._task, self._asking) if task is not None]
        self.release()
        if tasks:
            await asyncio.wait(tasks)

    def receive(self, frame: str) -> None:
        """A frame from the peer. Before each there must be `has_room`."""
        self._go_through(self.session.receive(frame, time.monotonic()))

    @property
    def has_room(self) -> bool:
        """Whether the next frame may come; where not, `wait_for_room`."""
        return self._inflow.has_room

    def wait_for_room(self, go_on: Callable[[], None]) -> None:
        """Call this once, in a turn of its own, as soon as the next frame may come, or all is over."""
        self._inflow.wait(go_on)

    def _go_through(self, effects: Iterator[Effect]) -> None:
        """Perform effects in order, up to a question of identity: the others, and all frames, wait for its answer."""
        for effect in effects:
            if isinstance(effect, Submit) and not self._released:
                self._submit(effect)
            elif isinstance(effect, Authenticate):
                self._inflow.asking = True
                self._asking = errand(partial(self._identify, effect, effects), f"identify {self.id}", self.give_up)
                break
            else:
                self._perform((effect,))
        self._settle_down()
        if self.session.subscriptions.waits_anew:  # only what a client says can bring the next tick forward
            self._arm()

    async def _identify(self, asked: Authenticate, behind: Iterator[Effect]) -> None:
        self._perform(await identify(self.session, self._services, asked, self._visitor))
        self._arm()  # the token has its own time
        self._asking = None
        self._inflow.asking = False
        self._go_through(behind)
        self._inflow.note()

    def refuse(self, error: ProtocolError) -> None:
        """What came was no frame at all."""
        self._do(self.session.unreadable(error))

    def watch_one(self, principal: Principal, task_id: str, after: Cursor | None) -> None:
        """Open the session and subscribe on behalf of a peer that cannot speak."""
        self._perform(introduce(self.session, principal))
        self._do(self.session.watch_one(task_id, after))
        self._arm()

    @property
    def one_way(self) -> bool:
        """Whether nothing can come from the peer."""
        return self._transport.one_way

    @property
    def sent_bytes(self) -> int:
        """Of all frames that went out, so far."""
        return self._sending.sent_bytes

    @property
    def closing(self) -> bool:
        """Whether goodbye has been said."""
        return self._bye is not None

    def end(self, bye: Bye) -> None:
        """Say goodbye and close."""
        self._do(self.session.end(bye))

    # As the hub's watcher

    def deliver(self, burst: Burst) -> None:
        """Live transitions of a watched task."""
        if not (burst.plain and self._bye is None and self.session.subscriptions.passes(burst)):
            self._do(self.session.deliver(burst.events))
            return
        sending = self._sending
        lost = sending.offer(burst.slot, burst.first, burst)
        if lost:
            self._rewind(lost)
        elif not (sending.flushing or sending.blocked):
            sending.flushing = True
            self._services.turn.add(self)

    def see(self, key: Key, head: Head) -> None:
        """How the worker of a watched task is."""
        self.session.see(key, head)
        self._settle_down()

    def notice(self, kind: str) -> None:
        """The state of the ledger has changed."""
        self._do(self.session.begin_anew() if kind == BEGUN_ANEW else self.session.notice(kind))

    def give_up(self) -> None:
        """Cut the line: something has failed, and what the peer has got may have a hole."""
        self._transport.abort()
        self.release()

    # Effects

    def _perform(self, effects: Sequence[Effect]) -> None:
        if self._released:
            return
        cut: set[Slot] = set()  # what these effects still hold of such a subscription lies behind the cut
        for effect in effects:
            match effect:
                case Deliver():
                    if effect.slot in cut:
                        continue
                    lost = self._sending.offer(effect.slot, effect.seq, effect.frame, replaces=effect.replaces)
                    if lost:
                        self._rewind(lost)
                        cut.update(lost)
                case Send():
                    self._put(effect.frame)
                case Watch():
                    self._services.hub.watch(effect.key, self)
                case Unwatch():
                    self._services.hub.unwatch(effect.key, self)
                case Beats():
                    self._services.beats.add(effect.held, self)
                case Close():
                    self._bye = effect.bye
                    self._services.wheel.put(self, time.monotonic() + FAREWELL_SECONDS)
                case Authenticate() | Submit():  # pragma: no cover - `_go_through` takes these
                    raise AssertionError(f"{effect} outside a client's message")

    def _rewind(self, lost: dict[Slot, int]) -> None:
        self._services.hub.counts.rewinds += len(lost)
        for slot, seq in lost.items():
            self.session.rewind(slot, seq)

    def _put(self, frame: bytes) -> None:
        try:
            self._sending.put(frame)
        except OutboxFull:
            self._cut()

    def _do(self, effects: Sequence[Effect]) -> None:
        self._perform(effects)
        self._settle_down()

    def _settle_down(self) -> None:
        """After effects: what there is to send or to do when all has left comes at the end of the turn."""
        sending = self._sending
        if sending.flushing or sending.blocked or self._released:
            return
        if len(sending) or self._bye is not None or self.session.subscriptions.has_rest:
            sending.flushing = True
            self._services.turn.add(self)

    def _cut(self) -> None:
        """The peer takes nothing of what is sent: there is no point in another frame."""
        self.session.end(TOO_SLOW)  # what it says is lost with the line
        if self._bye is not TOO_SLOW:
            self._bye = TOO_SLOW
            self._services.hub.counts.cuts += 1
            log.info("peer_cut", session=self.id, reason=TOO_SLOW.reason)
            self._transport.abort()

    def _submit(self, effect: Submit) -> None:
        settled, request = partial(self._settled, effect.id), effect.request
        tell = settled if isinstance(request, Report) else audited(self.session, request, settled)
        try:
            self._services.writer.post(request, tell)
        except LedgerError as error:
            self._perform(self.session.settled(effect.id, as_protocol_error(error)))
        else:
            self._inflow.in_flight += 1

    def _settled(self, id_: int | str | None, outcome: Outcome) -> None:
        self._inflow.in_flight -= 1
        answer = as_protocol_error(outcome) if isinstance(outcome, LedgerError) else outcome
        for reply in self.session.settled(id_, answer):
            self._put(reply.frame)
        self._settle_down()
        if self._inflow.waits:
            self._inflow.note()

    # Sending

    def flush(self) -> None:
        """At the end of a turn: write what it has brought."""
        if self._released:
            return
        if not self._sending.flush():
            self._begin(self._wait_for_peer, "send")
        elif self._bye is not None or self.session.subscriptions.has_rest:
            self._rest()
        if self._inflow.waits:
            self._inflow.note()

    def _rest(self) -> None:
        """All frames have left: what waits for that?"""
        self._perform(self.session.drained())
        if len(self._sending):
            self._settle_down()
        elif self._bye is not None:
            self._begin(self._close, "close")
        else:
            self._reading.begin(self._do)

    def _begin(self, what: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        if self._task is None:
            self._task = errand(what, f"{name} {self.id}", self.give_up)

    async def _wait_for_peer(self) -> None:
        all_left = False
        while not all_left:
            await self._transport.drained()
            if self._transport.one_way:
                self.session.heard(time.monotonic())
            all_left = self._sending.go_on()
            self._inflow.note()
        self._task = None
        self.flush()

    async def _close(self) -> None:
        await self._transport.close(self._bye or INTERNAL)
        self._task = None
        self.release()

    def _arm(self) -> None:
        if self._bye is None:
            self._services.wheel.put(self, self.session.next_tick())

    def tick(self) -> None:
        """It is time for what the session has to do now and then."""
        if self._released:
            return
        now = time.monotonic()
        since = self._sending.stalled_since(now)
        if self._bye is None:
            if since is not None and self.session.is_dead(silent_since=since, now=now):
                self._cut()
                return
            if now >= self.session.next_tick():  # else it has been heard of since this was asked last
                self._do(self.session.tick(now))
            self._arm()
        elif self._last_tick or (since is not None and now >= since + FAREWELL_SECONDS):
            self._transport.abort()
        else:
            self._last_tick = since is None
            self._services.wheel.put(self, now + FAREWELL_SECONDS)

    def release(self) -> None:
        """Leave nothing behind."""
        if self._released:
            return
        log.info("session_closed", session=self.id, reason=self._bye.reason if self._bye is not None else "peer_gone")
        self._released = self._inflow.stopped = True
        self._bye = self._bye or INTERNAL
        self.session.end(self._bye)  # frames that are here already must not begin anything any more
        for task in (self._task, self._asking):
            if task is not None:  # this one, where it has failed, has come to its end
                task.cancel()
        self._reading.stop()
        self._services.wheel.remove(self)
        self._services.admission.leave(self.session)
        hub = self._services.hub
        hub.leave(self)
        hub.counts.sent_bytes += self.sent_bytes
        for key in self.session.subscriptions.task_keys():
            hub.unwatch(key, self)
        self._inflow.note()
