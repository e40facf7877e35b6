"""Which bus a node has."""

from __future__ import annotations

from gateway.bus.local import LocalBus
from gateway.bus.port import Bus
from gateway.bus.servers import servers_in
from gateway.bus.sql import Ear, WithEar
from ledger.settings import LedgerSettings


def chosen(kind: str, url: str | None, ledger: LedgerSettings, direct_dsn: str) -> Bus:
    """The bus that the settings name, not started yet, with an ear for what is said in SQL.

    `direct_dsn` is the database without a pooler.
    Raises `SettingsError` when the URL cannot be used.
    """
    if kind == "postgres":
        return Ear(ledger, direct_dsn)
    ear = Ear(ledger, direct_dsn, kind="sql")
    if kind == "nats":
        from gateway.bus.nats import NatsBus  # noqa: PLC0415 - a client library that the other buses do without

        return WithEar(NatsBus(servers_in(url or "")), ear)
    return WithEar(LocalBus(), ear)
