"""The limits of one process, as an operator sets them: `LEDGERWIRE_LIMIT_` and the name. 0: no bound.

The defaults are beyond what an honest client does and what one process can carry: they keep one from hurting the
others, and are no prices. Lower them for what you know of your clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from ledger.errors import SettingsError

PREFIX: Final = "LEDGERWIRE_LIMIT_"
MOST: Final = 1_000_000_000
LEAST_BYTES_PER_SECOND: Final = 64 * 1024
"""Less would keep a connection waiting for one frame until it counts as dead."""


class Limits(Struct, frozen=True, kw_only=True):
    """What may be taken. Raises `SettingsError` for a number that cannot be meant."""

    messages_per_second: float = 1_000.0
    """Of one connection: messages that are no reports, creates or cancels."""
    bytes_per_second: float = 16 * 1024 * 1024.0
    """Of one connection, into the server; beyond it the connection is read no faster than this."""
    pings_per_second: float = 50.0
    """Of one connection: pings of the protocol and control frames of the WebSocket."""
    reports_per_second: float = 50_000.0
    """Of one connection: reports, creates and cancels. About what one process can commit."""
    principal_connections: float = 10_000
    principal_reports_per_second: float = 50_000.0
    principal_queries_per_second: float = 1_000.0
    """Reads over HTTP: tasks, pages, polls, event streams."""
    tenant_connections: float = 20_000
    tenant_reports_per_second: float = 100_000.0
    tenant_queries_per_second: float = 5_000.0
    address_connections: float = 5_000
    """Of one client address; many people may share one."""
    address_opening: float = 500
    """WebSockets of one client address that have not been welcomed yet."""
    address_connects_per_second: float = 500.0
    """New WebSockets, event streams and waiting requests of one client address."""

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if not 0 <= value <= MOST:
                raise SettingsError(f"{PREFIX}{field.upper()} is {value:g}; it must be 0 (no bound) to {MOST}.")
        if 0 < self.bytes_per_second < LEAST_BYTES_PER_SECOND:
            raise SettingsError(
                f"{PREFIX}BYTES_PER_SECOND is {self.bytes_per_second:g}; it must be 0 (no bound) or at least"
                f" {LEAST_BYTES_PER_SECOND}."
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Limits:
        """What is set, and the defaults for the rest."""
        given: dict[str, float] = {}
        for field in cls.__struct_fields__:
            text = environment.get(f"{PREFIX}{field.upper()}")
            if text:
                try:
                    given[field] = float(text)
                except ValueError as error:
                    raise SettingsError(f"{PREFIX}{field.upper()} is {text!r}: it must be a number.") from error
        return cls(**given)


def label(field: str) -> str:
    """A limit as the figures and the log call it."""
    return field.removesuffix("_per_second")


NAMES: Final = tuple(label(field) for field in Limits.__struct_fields__)
