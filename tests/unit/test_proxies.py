"""Whose request it is behind proxies: never what a client says of itself."""

from __future__ import annotations

import pytest

from gateway.http.proxies import MOST_HOPS, Client, Proxies

NAMED = Proxies(["10.0.0.0/8", "fd00::/8", "127.0.0.1"])


def found(peer: str, *forwarded_for: str, proto: tuple[str, ...] = (), proxies: Proxies = NAMED) -> Client:
    return proxies.client(peer, "http", forwarded_for, proto)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),  # no proxy: it may say what it likes
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.1.1.1, 198.51.100.1",), "198.51.100.1"),  # the client has begun the list itself
        ("10.0.0.1", ("1.1.1.1", "198.51.100.1, 10.2.2.2"), "198.51.100.1"),  # two headers, two proxies
        ("10.0.0.1", ("198.51.100.1:4711",), "198.51.100.1"),
        ("10.0.0.1", ("[2001:db8::7]:4711",), "2001:db8::7"),
        ("10.0.0.1", ('"[2001:db8::7]"',), "2001:db8::7"),
        ("fd00::1", ("2001:db8::7",), "2001:db8::7"),
        ("::ffff:10.0.0.1", ("::ffff:198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("198.51.100.1, unknown",), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.1,",), "10.0.0.1"),
        ("10.0.0.1", ("unknown, 10.3.3.3",), "10.3.3.3"),
        ("10.0.0.1", ("10.3.3.3, 10.4.4.4",), "10.3.3.3"),  # somebody inside
        ("10.0.0.1", (", ".join(["198.51.100.1"] + ["10.5.5.5"] * MOST_HOPS),), "10.5.5.5"),
        ("", ("198.51.100.1",), ""),  # a Unix socket
    ],
)
def test_the_client_is_the_first_hop_from_the_right_that_is_no_named_proxy(
    peer: str, forwarded_for: tuple[str, ...], address: str
) -> None:
    """And never further left, nor beyond what cannot be read."""
    assert found(peer, *forwarded_for).address == address


def test_without_a_named_proxy_nobody_is_believed() -> None:
    """Not even this machine."""
    assert found("127.0.0.1", "198.51.100.1", proto=("https",), proxies=Proxies([])) == Client(
        "127.0.0.1", "http", None
    )


@pytest.mark.parametrize(
    ("peer", "proto", "scheme"),
    [
        ("10.0.0.1", ("https",), "https"),
        ("10.0.0.1", ("http, HTTPS",), "https"),
        ("10.0.0.1", ("https", "http"), "http"),
        ("10.0.0.1", ("gopher",), "http"),
        ("10.0.0.1", (), "http"),
        ("203.0.113.9", ("https",), "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_named_proxy_says(peer: str, proto: tuple[str, ...], scheme: str) -> None:
    """Where it says one."""
    assert found(peer, "198.51.100.1", proto=proto).scheme == scheme


@pytest.mark.parametrize(
    ("peer", "counted_as"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("127.0.0.1", None),
        ("::1", None),
        ("", None),
    ],
)
def test_who_is_counted_together(peer: str, counted_as: str | None) -> None:
    """An IPv6 customer has a network; this machine is not limited."""
    assert found(peer).counted_as == counted_as
