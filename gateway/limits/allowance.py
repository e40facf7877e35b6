"""What one connection may take. Pure; made before the upgrade, closed with the connection.

A transport calls `took` for each message that has come and `control` for each control frame, the session `charge` for
each message and `join` when it knows whose it is.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from gateway.limits.bucket import Bucket
from gateway.limits.quotas import COME_AGAIN_SECONDS, AddressShare, OwnerShare, Quotas, principal_name
from gateway.protocol.codec import Unreadable
from gateway.protocol.errors import RATE_LIMITED, Bye, ProtocolError
from gateway.protocol.messages import Cancel, Create, Inbound, Ping, Report

FRAME_BYTES: Final = 64
"""What a WebSocket frame counts beside what is in it: an empty one is work, too."""
REFUSALS: Final = 10_000
REFUSALS_PER_SECOND: Final = 1_000.0
"""Who hears the first refusal may have 5,000 more messages under way. Who goes on has not listened, and is cut."""
_WRITES: Final = frozenset({Report, Create, Cancel})


class Allowance:
    """One connection's. Satisfies `gateway.protocol.budget.Budget`."""

    __slots__ = (
        "_address", "_address_name", "_bytes", "_messages", "_opening", "_owners", "_patience", "_pings", "_quotas",
        "_reports",
    )  # fmt: skip

    def __init__(self, quotas: Quotas, address: str | None, now: float) -> None:
        """One more connection from an address (None: one that is not counted).

        Raises `ProtocolError` `rate_limited`; then there is nothing to close.
        """
        limits = quotas.limits
        self._quotas = quotas
        self._messages = Bucket(limits.messages_per_second)
        self._bytes = Bucket(limits.bytes_per_second)
        self._reports: Bucket | None = None  # most connections only watch
        self._pings: Bucket | None = None
        self._patience: Bucket | None = None
        self._owners: tuple[tuple[str, str, OwnerShare], ...] = ()
        self._opening = True
        self._address: AddressShare | None = None
        self._address_name = address
        if address is not None:
            self._enter(address, now)

    def took(self, size: int, frames: int, now: float) -> float:
        """A message of so many bytes has come, in so many frames; seconds until the next one may be read."""
        wait = self._bytes.draw(size + FRAME_BYTES * frames, now)
        if wait:
            self._quotas.limited["bytes"] += 1
        return wait

    def control(self, now: float) -> Bye | None:
        """A control frame has come, or a ping in words; the goodbye to say where there are too many."""
        if self._pings is None:
            self._pings = Bucket(self._quotas.limits.pings_per_second)
        wait = self._pings.take(1, now)
        if not wait:
            return None
        self._quotas.limited["pings"] += 1
        return _bye(wait, "Too many pings; one in some seconds is enough.")

    def charge(self, message: Inbound | Unreadable, now: float) -> Bye | None:
        """A message is about to be looked at.

        Raises `ProtocolError` `rate_limited` for one too many; gives the goodbye to say to who does not listen.
        """
        kind = type(message)
        if kind is Ping:
            return self.control(now)
        try:
            if kind in _WRITES:
                self._write(now)
            else:
                self._quotas.check("messages", self._messages.take(1, now))
        except ProtocolError as error:
            if self._patience is None:
                self._patience = Bucket(REFUSALS_PER_SECOND, burst=REFUSALS)
            if not self._patience.take(1, now):
                raise
            return _bye((error.retry_after_ms or 0) / 1000, error.message)
        return None

    def join(self, tenant: str, subject: str) -> Bye | None:
        """The connection belongs to this principal; the goodbye to say where it has too many already. Repeatable."""
        self._welcome()
        quotas, limits = self._quotas, self._quotas.limits
        if quotas.anonymous or self._owners:
            return None
        name = principal_name(tenant, subject)
        principal, whole = quotas.principals.hold(name), quotas.tenants.hold(tenant)
        self._owners = (("principal", name, principal), ("tenant", tenant, whole))
        for limit, share, most in (
            ("principal_connections", principal, limits.principal_connections),
            ("tenant_connections", whole, limits.tenant_connections),
        ):
            if most and share.holds > most:
                return _bye(COME_AGAIN_SECONDS, quotas.refusal(limit, COME_AGAIN_SECONDS).message)
        return None

    def close(self, now: float) -> None:
        """The connection is gone. Repeatable."""
        self._welcome()
        if self._address is not None and self._address_name is not None:
            self._quotas.addresses.release(self._address_name, now)
            self._address = None
        for kind, name, _ in self._owners:
            table = self._quotas.tenants if kind == "tenant" else self._quotas.principals
            table.release(name, now)
        self._owners = ()

    def _enter(self, address: str, now: float) -> None:
        quotas, limits = self._quotas, self._quotas.limits
        share = quotas.addresses.hold(address)
        try:
            if limits.address_connections and share.holds > limits.address_connections:
                raise quotas.refusal("address_connections", COME_AGAIN_SECONDS)
            if limits.address_opening and share.opening >= limits.address_opening:
                raise quotas.refusal("address_opening", COME_AGAIN_SECONDS)
            quotas.check("address_connects", share.connects.take(1, now))
        except ProtocolError:
            quotas.addresses.release(address, now)
            raise
        share.opening += 1
        self._address = share

    def _welcome(self) -> None:
        if self._opening:
            self._opening = False
            if self._address is not None:
                self._address.opening -= 1

    def _write(self, now: float) -> None:
        quotas = self._quotas
        if self._reports is None:
            self._reports = Bucket(quotas.limits.reports_per_second)
        wait = self._reports.take(1, now)
        if wait:
            raise quotas.refusal("reports", wait)
        for kind, _, share in self._owners:
            wait = share.reports.take(1, now)
            if wait:
                raise quotas.refusal(f"{kind}_reports", wait)


def _bye(wait: float, sentence: str) -> Bye:
    return replace(RATE_LIMITED, retry_after_ms=max(1_000, round(wait * 1000)), message=sentence)
