"""`--bus-url`: several servers, and no secret in any sentence."""

from __future__ import annotations

import pytest

from gateway.bus.servers import servers_in, shown
from gateway.settings import GatewaySettings
from ledger.errors import SettingsError


def test_several_servers_are_named_between_commas_or_spaces() -> None:
    """As one writes lists in a variable."""
    assert servers_in("nats://a:4222, tls://u:p@b , nats://token@[::1]:4223") == (
        "nats://a:4222",
        "tls://u:p@b",
        "nats://token@[::1]:4223",
    )


@pytest.mark.parametrize(
    "url", ["", " , ", "a:4222", "http://a", "nats://", "nats://a:port", "nats://a:0", "nats://[x"]
)
def test_what_is_no_server_is_refused_with_an_example(url: str) -> None:
    """A slip of the pen ends the start."""
    with pytest.raises(SettingsError, match="LEDGERWIRE_BUS_URL=nats://"):
        servers_in(url)


@pytest.mark.parametrize("url", ["nats://secret@a:x", "http://u:secret@a", "nats://u:sec@ret:secret@a:x"])
def test_no_secret_is_shown(url: str) -> None:
    """Not in an error, and not when settings are printed."""
    with pytest.raises(SettingsError) as caught:
        servers_in(url)
    assert "secret" not in str(caught.value)
    assert shown("nats://secret@a:1,tls://u:secret@b") == "nats://***@a:1,tls://***@b"
    settings = GatewaySettings.compose({"LEDGERWIRE_BUS": "nats", "LEDGERWIRE_BUS_URL": "nats://secret@a"})
    assert settings.bus_url == "nats://secret@a"
    assert "secret" not in repr(settings)


def test_a_bus_is_one_of_three_and_only_nats_has_a_url() -> None:
    """Settings that mean nothing together are refused."""
    assert GatewaySettings.compose({}).bus_kind == "local"
    assert GatewaySettings.compose({}, workers=2).bus_kind == "postgres"
    assert GatewaySettings.compose({"LEDGERWIRE_BUS": "postgres"}, bus="nats").bus == "nats"
    with pytest.raises(SettingsError, match="local, postgres, nats"):
        GatewaySettings.compose({"LEDGERWIRE_BUS": "redis"})
    with pytest.raises(SettingsError, match="--bus nats"):
        GatewaySettings.compose({"LEDGERWIRE_BUS_URL": "nats://a"})
