"""Whose request it is, where proxies stand in between: the client's address and the scheme that it used.

`X-Forwarded-For` is a list to which each proxy adds whom it got the request from, and which a client can begin as it
likes. So it is read from the right, only where the peer is a proxy that the operator has named, and no further than
the first hop that is not. Without such a proxy the headers are never looked at.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from msgspec import Struct

from gateway.http.problems import Handler

log = structlog.get_logger(__name__)

MOST_HOPS: Final = 16
"""Of a chain of named proxies; a longer one is nobody's."""
IPV6_PREFIX: Final = 64
"""One customer has all addresses of such a network."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Client(Struct, frozen=True):
    """Where a request comes from."""

    address: str
    """For the log. Empty: a peer without one."""
    scheme: str
    counted_as: str | None
    """For limits: the address, or the network of an IPv6 address. None: this machine, which is not limited; it may be a
    proxy that nobody has named, and then everybody would be one."""


CLIENT: Final = web.RequestKey("client", Client)


class Proxies:
    """The proxies that are believed, by their networks."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises ValueError for what is no network."""
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)
        self._warned = False

    def named(self, address: _Address | None) -> bool:
        """Whether this is one of them."""
        return address is not None and any(
            address in network for network in self._networks if network.version == address.version
        )

    def client(self, peer: str, scheme: str, forwarded_for: Sequence[str], forwarded_proto: Sequence[str]) -> Client:
        """Who it is. `forwarded_for`, `forwarded_proto`: the values of the headers, in their order."""
        found = _address(peer)
        if not self.named(found):
            if forwarded_for and not self._networks and not self._warned:
                self._warned = True
                log.warning(
                    "forwarded_header_ignored",
                    address=peer,
                    detail="Limits on addresses take all clients of a proxy for one; name it with --trusted-proxy.",
                )
            return _client(found, peer, scheme)
        protos = [each.strip().lower() for each in ",".join(forwarded_proto).split(",")]
        if protos[-1] in {"http", "https"}:
            scheme = protos[-1]
        hops = ",".join(forwarded_for).split(",") if forwarded_for else []
        for hop in reversed(hops[-MOST_HOPS:]):
            before = _address(hop)
            if before is None:  # what a named proxy says of itself, or a client of its own invention: go no further
                break
            found = before
            if not self.named(found):
                break
        return _client(found, peer, scheme)


def clients(proxies: Proxies) -> Middleware:
    """Middleware: every request has its `CLIENT`, and so has every line that is logged for it."""

    @web.middleware
    async def find(request: web.Request, handler: Handler) -> web.StreamResponse:
        client = proxies.client(
            request.remote or "",
            request.scheme,
            request.headers.getall(hdrs.X_FORWARDED_FOR, ()),
            request.headers.getall(hdrs.X_FORWARDED_PROTO, ()),
        )
        request[CLIENT] = client
        with structlog.contextvars.bound_contextvars(address=client.address):
            return await handler(request)

    return find


def _client(address: _Address | None, peer: str, scheme: str) -> Client:
    if address is None:
        return Client(peer, scheme, None)
    if address.is_loopback:
        return Client(str(address), scheme, None)
    if address.version == 6:
        return Client(str(address), scheme, str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False)))
    return Client(str(address), scheme, str(address))


def _address(text: str) -> _Address | None:
    """The address in a hop, which may have a port; None where there is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address
