"""One client's conversation, without I/O: frames and answers in, effects out.

Nothing here waits, reads a clock or touches a socket: times come in as monotonic seconds, effects go out as values
(`gateway.protocol.effects`), and `gateway.connection` performs them in order. What is watched is in `subscriptions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from gateway.principal import Principal
from gateway.protocol import codec, messages
from gateway.protocol.access import check, held_tasks, wish
from gateway.protocol.budget import UNBOUNDED, Budget
from gateway.protocol.effects import (
    Authenticate,
    Beats,
    Close,
    Effect,
    Event,
    Read,
    Send,
    Slot,
    Submit,
    Want,
)
from gateway.protocol.errors import (
    EPOCH_CHANGED,
    ERRORS,
    HELLO_TIMEOUT,
    INTERNAL,
    PING_TIMEOUT,
    PROTOCOL_ERROR,
    TOKEN_EXPIRED,
    UNAUTHENTICATED,
    UNSUPPORTED_VERSION,
    Bye,
    ProtocolError,
)
from gateway.protocol.requests import report_request
from gateway.protocol.rights import Rights
from gateway.protocol.subscriptions import Subscriptions
from gateway.protocol.watching import attend, subscribe
from ledger.model import Facts, Head, Key, Receipt, Rejection

VERSION: Final = 1
HELLO_SECONDS: Final = 5.0
"""A client that has connected has something to say; a socket without hello is a bound resource."""
UNREADABLE_FRAMES: Final = 50
"""So many unreadable messages are no slip: the client speaks another protocol."""
MESSAGES_BEFORE_HELLO: Final = 20
"""Somebody who has not said who it is gets no more answers than this."""
DEAD_AFTER_INTERVALS: Final = 1.5
RETURN_WITHIN_MS: Final = 3_000
"""The clients of a rewound ledger come back spread over this time: each of them reads its tasks anew."""
_PING: Final = codec.frame("ping")
_PONG: Final = codec.frame("pong")


class Session:
    """The protocol state of one connection.

    `ping_phase`, from 0 to 1, sets when the first ping comes, so that the pings of many sessions do not coincide, nor
    their clients' returns.
    `now` is always the same monotonic clock, in seconds.
    """

    __slots__ = (
        "_before_hello", "_budget", "_closed", "_heard_at", "_hello_until", "_phase", "_ping_at", "_ping_interval",
        "_reports_of", "_server_time", "_unreadable", "client", "epoch", "id", "rights", "subscriptions",
    )  # fmt: skip

    def __init__(
        self,
        *,
        session_id: str,
        epoch: str,
        ping_interval_seconds: float,
        ping_phase: float,
        server_time: datetime,
        now: float,
        budget: Budget | None = None,
    ) -> None:
        self.id = session_id
        self.epoch = epoch
        """The ledger's history that this session tells of, from its beginning to its end."""
        self._budget = budget or UNBOUNDED
        self._phase = ping_phase
        self._server_time = server_time
        self._ping_interval = ping_interval_seconds
        self._heard_at = now
        self._ping_at = now + ping_interval_seconds * (1 + ping_phase) / 2
        self._hello_until: float | None = now + HELLO_SECONDS
        self.rights: Rights | None = None
        """Who this is, once it has said so, and what it may."""
        self._reports_of: str | None = None  # as in `rights`: asked for each report
        self._unreadable = 0
        self._before_hello = 0
        self._closed = False
        self.client: str | None = None
        """What the client calls itself, for logs."""
        self.subscriptions = Subscriptions(epoch)

    @property
    def closed(self) -> bool:
        """Whether `bye` has been said: nothing is answered any more."""
        return self._closed

    @property
    def has_due_reads(self) -> bool:
        """Whether `Subscriptions.due_reads` would give any, and it makes sense to ask."""
        return not self._closed and self.subscriptions.has_due_reads

    @property
    def has_words(self) -> bool:
        """Whether `drained` has something to tell."""
        return not self._closed and self.subscriptions.has_words

    # What comes in from the client

    def receive(self, frame: str, now: float) -> Iterator[Effect]:
        """A frame from the client.

        Lazy: a message is not looked at before the effects of those before it have been performed, so that one frame
        may hold `hello` and what follows it.
        """
        self._heard_at = now
        for message in codec.decode(frame):
            if self._closed:
                return
            if self.rights is None and not isinstance(message, messages.Hello):
                self._before_hello += 1
                if self._before_hello > MESSAGES_BEFORE_HELLO:
                    yield from self.end(PROTOCOL_ERROR)
                    return
            try:
                bye = self._budget.charge(message, now)
                if bye is not None:
                    effects: Sequence[Effect] = self.end(bye)
                elif isinstance(message, codec.Unreadable):
                    effects = self.unreadable(message.error, message.id)
                else:
                    effects = self._act(message, now)
            except ProtocolError as error:
                effects = [Send(codec.refusal(getattr(message, "id", None), error))]
            yield from effects

    def unreadable(self, error: ProtocolError, id_: int | str | None = None) -> list[Effect]:
        """Something came that is no message. So many of them end the connection; a message with a mistake does not."""
        if self._closed:
            return []
        self._unreadable += error.code != "bad_request"
        refusal = Send(codec.refusal(id_, error))
        return [refusal, *self.end(PROTOCOL_ERROR)] if self._unreadable >= UNREADABLE_FRAMES else [refusal]

    def watch_one(self, task_id: str, after: messages.Cursor | None) -> Sequence[Effect]:
        """Subscribe on behalf of a peer that cannot speak."""
        if self._closed:
            return []
        if self.rights is None:
            raise AssertionError("watch_one before authenticated")
        tenant, sealed = self.rights.principal.tenant, self.rights.seals("watch", task_id)
        return self.subscriptions.add(tenant, task_id, mode="all", cursor=after, sealed=sealed)

    def _act(self, message: messages.Inbound, now: float) -> Sequence[Effect]:
        if isinstance(message, messages.Report) and self._reports_of is not None:  # nearly all that ever comes
            return (Submit(message.id, report_request(self._reports_of, message)),)
        if isinstance(message, messages.Hello):
            return self._hello(message)
        if isinstance(message, messages.Ping):
            return [Send(_PONG)]
        if isinstance(message, messages.Pong):
            return []
        if self.rights is None:
            raise ProtocolError("hello_required", "Send hello first; no other message is answered before welcome.")
        return self._serve(self.rights, message, now)

    def _serve(self, rights: Rights, message: messages.Inbound, now: float) -> Sequence[Effect]:
        principal, tenant = rights.principal, rights.principal.tenant
        match message:
            case messages.Report() | messages.Create() | messages.Cancel():
                return [Submit(message.id, wish(principal, message))]
            case messages.Beat():
                check(principal, "report")
                return [Beats(held_tasks(principal, message.task_ids))]
            case messages.Subscribe():
                return subscribe(self.subscriptions, rights, message, now)
            case messages.Attend():
                return attend(self.subscriptions, rights, message)
            case messages.Unsubscribe():
                ended = [e for task_id in message.task_ids for e in self.subscriptions.remove(tenant, task_id)]
                return [*ended, Send(codec.reply(message.id))]
            case messages.Refresh():
                return [Authenticate(message.token, refresh=message.id)]
        raise AssertionError(f"no case for {message!r}")  # pragma: no cover - the types above are all there are

    def _hello(self, hello: messages.Hello) -> list[Effect]:
        if self.rights is not None:
            raise ProtocolError("bad_request", "hello was said already; use refresh to change the token.")
        if hello.v != VERSION:
            return self.end(UNSUPPORTED_VERSION)
        self.client = hello.client
        return [Authenticate(hello.token)]

    # What comes back from the gateway

    def authenticated(
        self, principal: Principal, *, now: float, lasts: float | None = None, refresh: int | str | None = None
    ) -> list[Effect]:
        """The token of hello or refresh belongs to this principal, for so many seconds more."""
        if self._closed:
            return []
        before = self.rights
        if before is not None and not before.is_of(principal):
            error = ProtocolError("forbidden", "This token belongs to somebody else; open another connection.")
            return [Send(codec.refusal(refresh, error))]
        rights = self.rights = Rights(principal, now=now, lasts=lasts)
        self._reports_of = rights.reports_of
        if before is not None:
            if principal.grants != before.principal.grants:
                self.subscriptions.seal(rights.seals)
            return [Send(codec.reply(refresh))]
        bye = self._budget.join(principal.tenant, principal.subject)
        if bye is not None:
            return self.end(bye)
        self._hello_until = None
        interval_ms = round(self._ping_interval * 1000)
        return [Send(codec.welcome(VERSION, self.id, self.epoch, interval_ms, self._server_time))]

    def refused(self, error: ProtocolError, *, refresh: int | str | None = None) -> list[Effect]:
        """The token is not valid. A failed refresh leaves the connection as it was."""
        if refresh is None or self._closed:
            retryable = ERRORS[error.code].retryable
            return self.end(replace(INTERNAL, message=error.message) if retryable else UNAUTHENTICATED)
        return [Send(codec.refusal(refresh, error))]

    def settled(self, id_: int | str | None, answer: Receipt | Rejection | ProtocolError) -> list[Send]:
        """The ledger has answered a `Submit`."""
        if self._closed:
            return []
        if isinstance(answer, Receipt):
            return [] if id_ is None else [Send(codec.receipt_reply(id_, answer))]
        if isinstance(answer, Rejection):
            answer = ProtocolError(answer.code, answer.message)
        return [Send(codec.refusal(id_, answer))]

    def deliver(self, events: Sequence[Event]) -> list[Effect]:
        """Live transitions of one watched task, in order."""
        return [] if self._closed else self.subscriptions.deliver(events)

    def read(self, reads: Sequence[Read], facts: Mapping[Key, Facts] | None = None) -> list[Effect]:
        """What the reads of `Subscriptions.due_reads` have brought.

        `facts` are those of the tasks whose subscriptions are sealed (`Subscriptions.sealed_keys`), read after them.
        """
        if self._closed:
            return []
        if facts is not None and self.rights is not None:
            reads = [self.rights.judged(found, facts, self.subscriptions) for found in reads]
        return [effect for found in reads for effect in self.subscriptions.read(found)]

    def read_failed(self, wants: Sequence[Want]) -> None:
        """The ledger could not be read."""
        self.subscriptions.read_failed(wants)

    def rewind(self, slot: Slot, seq: int) -> None:
        """Frames of a subscription from `seq` on were dropped before they left."""
        self.subscriptions.rewind(slot, seq)

    def drained(self) -> list[Effect]:
        """All frames have left."""
        ended = self.subscriptions.sweep()
        return ended if self._closed else [*ended, *self.subscriptions.tell()]

    def see(self, key: Key, head: Head) -> None:
        """How the worker of a watched task is just now. The client is told when all frames have left (`drained`)."""
        self.subscriptions.see(key, head)

    def notice(self, kind: str) -> list[Effect]:
        """Tell the client how the server is: `degraded` or `restored`."""
        return [] if self.rights is None or self._closed else [Send(codec.frame("notice", kind=kind))]

    def begin_anew(self) -> list[Effect]:
        """The ledger's history is another one: the client has to come back and show its cursors."""
        return self.end(replace(EPOCH_CHANGED, retry_after_ms=round(self._phase * RETURN_WITHIN_MS)))

    def end(self, bye: Bye) -> list[Effect]:
        """Say goodbye and why."""
        if self._closed:
            return []
        self._closed = True
        return [Send(codec.bye(bye)), Close(bye)]

    # Time

    def heard(self, now: float) -> None:
        """The peer has given a sign of life that is no frame."""
        self._heard_at = now

    def next_tick(self) -> float:
        """When `tick` must be called next, in monotonic seconds."""
        at = min(self._ping_at, self._heard_at + self._ping_interval * DEAD_AFTER_INTERVALS)
        expiry = None if self.rights is None else self.rights.next_at
        for other in (self._hello_until, self.subscriptions.next_wait(), expiry):
            if other is not None and other < at:
                at = other
        return at

    def tick(self, now: float) -> list[Effect]:
        """Do what is due at this time."""
        if self._closed:
            return []
        if self._hello_until is not None and now >= self._hello_until:
            return self.end(HELLO_TIMEOUT)
        if self.is_dead(silent_since=self._heard_at, now=now):
            return self.end(PING_TIMEOUT)
        if self.rights is not None and self.rights.have_expired(now):
            return self.end(TOKEN_EXPIRED)
        out = self.subscriptions.give_up_waiting(now)
        out += self.rights.warn(now) if self.rights is not None else ()
        if now >= self._ping_at:
            self._ping_at = now + self._ping_interval
            out.append(Send(_PING))
        return out

    def is_dead(self, *, silent_since: float, now: float) -> bool:
        """Whether a peer without a sign of life since then is to be given up."""
        return now >= silent_since + self._ping_interval * DEAD_AFTER_INTERVALS  # as in `next_tick`, to the last bit
