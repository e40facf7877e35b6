"""All limits of one process: who has taken how much, and what was refused. Pure; `now` is one monotonic clock.

Without authentication nobody is told from the others, so nothing is counted for principals and tenants.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Final

from gateway.limits.bucket import Bucket
from gateway.limits.rates import NAMES, Limits
from gateway.limits.table import Share, Table
from gateway.protocol.errors import ProtocolError

COME_AGAIN_SECONDS: Final = 5.0
"""For who has too many connections: one of them has to go first."""

TOLD_PER_SECOND: Final = 1.0
TOLD_AT_ONCE: Final = 20.0

_WHAT: Final = {
    "messages": "messages on this connection",
    "reports": "reports on this connection",
    "principal_connections": "connections of this principal",
    "principal_reports": "reports of this principal",
    "principal_queries": "reads of this principal",
    "tenant_connections": "connections of this tenant",
    "tenant_reports": "reports of this tenant",
    "tenant_queries": "reads of this tenant",
    "address_connections": "connections from this address",
    "address_opening": "connections from this address that have not said hello",
    "address_connects": "new connections from this address",
}


class AddressShare(Share):
    """What a client address has taken."""

    __slots__ = ("connects", "opening")

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.opening = 0
        """Connections that have not been welcomed yet."""
        self.connects = Bucket(limits.address_connects_per_second)


class OwnerShare(Share):
    """What a principal or a tenant has taken."""

    __slots__ = ("queries", "reports")

    def __init__(self, reports_per_second: float, queries_per_second: float) -> None:
        super().__init__()
        self.reports = Bucket(reports_per_second)
        self.queries = Bucket(queries_per_second)


class Quotas:
    """One process's. `gateway.limits.allowance` is what one connection has of them."""

    def __init__(self, limits: Limits, *, anonymous: bool) -> None:
        """`anonymous`: there is no authentication."""
        self.limits = limits
        self.anonymous = anonymous
        self.limited = dict.fromkeys(NAMES, 0)
        """How often each limit was met."""
        self.telling = Bucket(TOLD_PER_SECOND, burst=TOLD_AT_ONCE)
        """Of refusals that are logged: who makes thousands of them must not fill a disk."""
        self.addresses = Table(lambda: AddressShare(limits))
        self.principals = Table(
            lambda: OwnerShare(limits.principal_reports_per_second, limits.principal_queries_per_second)
        )
        self.tenants = Table(lambda: OwnerShare(limits.tenant_reports_per_second, limits.tenant_queries_per_second))

    def would_enter(self, address: str | None, now: float) -> bool:
        """Whether an `Allowance` could be made for one more connection from there. Counts nothing."""
        share = None if address is None else self.addresses.met(address)
        if share is None:
            return True
        limits = self.limits
        return (
            (not limits.address_connections or share.holds < limits.address_connections)
            and (not limits.address_opening or share.opening < limits.address_opening)
            and share.connects.has(1, now)
        )

    def query(self, tenant: str, subject: str, now: float) -> None:
        """A read over HTTP. Raises `ProtocolError` `rate_limited`."""
        for kind, share in self._owners(tenant, subject, now):
            self.check(f"{kind}_queries", share.queries.take(1, now))

    def write(self, tenant: str, subject: str, now: float) -> None:
        """A report, create or cancel over HTTP. Raises `ProtocolError` `rate_limited`."""
        for kind, share in self._owners(tenant, subject, now):
            self.check(f"{kind}_reports", share.reports.take(1, now))

    def wait_to_write(self, tenant: str, subject: str, reports: int, now: float) -> float:
        """So many reports of a batch are taken in any case; after so many seconds the next may be."""
        waits = {kind: share.reports.draw(reports, now) for kind, share in self._owners(tenant, subject, now)}
        for kind, wait in waits.items():
            self.limited[f"{kind}_reports"] += wait > 0
        return max(waits.values(), default=0.0)

    def check(self, limit: str, wait: float) -> None:
        """Raises `ProtocolError` `rate_limited` where there is something to wait for."""
        if wait:
            raise self.refusal(limit, wait)

    def refusal(self, limit: str, wait: float) -> ProtocolError:
        """That a limit was met, counted."""
        self.limited[limit] += 1
        return ProtocolError(
            "rate_limited", f"Too many {_WHAT[limit]}; wait a moment.", retry_after_ms=ceil(wait * 1000)
        )

    def _owners(self, tenant: str, subject: str, now: float) -> Iterator[tuple[str, OwnerShare]]:
        if not self.anonymous:
            yield "principal", self.principals.of(principal_name(tenant, subject), now)
            yield "tenant", self.tenants.of(tenant, now)


def principal_name(tenant: str, subject: str) -> str:
    """One name for both, that no other pair has."""
    return f"{tenant}\x1f{subject}"
