"""Which bus a node has."""

from __future__ import annotations

from gateway.bus.local import LocalBus
from gateway.bus.port import Bus
from gateway.bus.postgres import PostgresBus
from gateway.bus.servers import servers_in
from ledger.settings import LedgerSettings


def chosen(kind: str, url: str | None, ledger: LedgerSettings, direct_dsn: str) -> Bus:
    """The bus that the settings name, not started yet. `direct_dsn` is the database without a pooler.

    Raises `SettingsError` when the URL cannot be used.
    """
    if kind == "postgres":
        return PostgresBus(ledger, direct_dsn)
    if kind == "nats":
        from gateway.bus.nats import NatsBus  # noqa: PLC0415 - a client library that the other buses do without

        return NatsBus(servers_in(url or ""))
    return LocalBus()
