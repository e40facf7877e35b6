"""The servers of a bus, as `--bus-url` names them. Pure. Never shows a password or token."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from ledger.errors import SettingsError

EXAMPLE: Final = "nats://user:password@bus-1.example:4222,nats://user:password@bus-2.example:4222"
_PASSWORD: Final = re.compile(r"//[^,]*@")


def servers_in(urls: str) -> tuple[str, ...]:
    """The URLs, which stand between commas or spaces. Raises `SettingsError`."""
    servers = tuple(url for url in re.split(r"[,\s]+", urls) if url)
    for server in servers:
        try:
            parts = urlsplit(server)
            good = parts.scheme in {"nats", "tls"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise SettingsError(f"The bus URL {shown(server)} cannot be used. Example: LEDGERWIRE_BUS_URL={EXAMPLE}")
    if not servers:
        raise SettingsError(f"There is no bus URL. Example: LEDGERWIRE_BUS_URL={EXAMPLE}")
    return servers


def shown(urls: str) -> str:
    """The URLs without their secrets, fit for a log."""
    return _PASSWORD.sub("//***@", urls)
