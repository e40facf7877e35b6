"""Who the client of one session is, what it may, and until when. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.principal import Principal, Standing, Verb, hopeless, may, standing
from gateway.protocol import codec
from gateway.protocol.effects import Read, Send
from gateway.protocol.subscriptions import Subscriptions
from ledger.model import Facts, Key

EXPIRY_NOTICE_SECONDS: Final = 60.0
"""So long before its token expires a client is told, or when half of the time is over; enough to ask for another."""


class Rights:
    """Of a principal, until another token of the same one replaces them. Times are monotonic seconds."""

    __slots__ = ("_warn_at", "expires_at", "principal", "reports_of")

    def __init__(self, principal: Principal, *, now: float, lasts: float | None) -> None:
        self.principal = principal
        self.reports_of = principal.tenant if principal.everything("report") else None
        """The tenant, where all of its tasks may be reported."""
        self.expires_at = None if lasts is None else now + lasts
        self._warn_at = None if lasts is None else now + max(lasts - EXPIRY_NOTICE_SECONDS, lasts / 2)

    def is_of(self, principal: Principal) -> bool:
        """Whether these are the rights of the same somebody."""
        return (principal.tenant, principal.subject) == (self.principal.tenant, self.principal.subject)

    def seals(self, verb: Verb, task_id: str) -> bool:
        """Whether the task's row has to say that this is granted, before anything of it is told."""
        return standing(self.principal, verb, task_id) is not Standing.YES

    def judged(self, found: Read, facts: Mapping[Key, Facts], subscriptions: Subscriptions) -> Read:
        """A read, or where the principal may not know the task, that of an unknown one."""
        slot = found.want.slot
        task_id = subscriptions.sealed_task(slot)
        if task_id is None:
            return found
        verb: Verb = "report" if slot[1] else "watch"
        its = facts.get(slot[0])
        granted = may(self.principal, verb, task_id, its)
        for_ever = granted or hopeless(self.principal, verb, task_id, its)
        subscriptions.judge(slot, granted=granted, for_ever=for_ever)
        return found if granted else Read(want=found.want, head=None)

    @property
    def next_at(self) -> float | None:
        """When there is something to `warn` of, or the end."""
        return self._warn_at or self.expires_at

    def have_expired(self, now: float) -> bool:
        """Whether the token's time is over."""
        return self.expires_at is not None and now >= self.expires_at

    def warn(self, now: float) -> list[Send]:
        """Tell the client, once, that its token is about to expire."""
        if self._warn_at is None or self.expires_at is None or now < self._warn_at:
            return []
        self._warn_at = None
        left_ms = round((self.expires_at - now) * 1000)
        return [Send(codec.frame("notice", kind="token_expiring", expires_in_ms=left_ms))]
