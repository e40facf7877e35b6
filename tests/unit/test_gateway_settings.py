"""The settings of a gateway process: secure by default, from the environment, refused with the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.limits.rates import Limits
from gateway.settings import DEFAULT_PORT, GatewaySettings, is_loopback
from ledger.errors import SettingsError
from ledger.settings import LedgerSettings

LEDGER = LedgerSettings()


def refused(**given: Any) -> str:
    """The sentence with which settings are refused."""
    with pytest.raises(SettingsError) as error:
        GatewaySettings(ledger=LEDGER, **given)
    return error.value.sentence


def test_nothing_has_to_be_set() -> None:
    """Then it listens on loopback only, without authentication."""
    settings = GatewaySettings.compose({})
    assert settings == GatewaySettings(ledger=LEDGER)
    assert (settings.host, settings.port, settings.loopback_only) == ("127.0.0.1", DEFAULT_PORT, True)


def test_everything_can_come_from_the_environment() -> None:
    """Each setting has its variable; the ledger's are read as well."""
    settings = GatewaySettings.compose(
        {
            "LEDGERWIRE_HOST": "0.0.0.0",
            "LEDGERWIRE_PORT": "0",
            "LEDGERWIRE_ALLOWED_ORIGINS": " https://a.example, http://b.example:8080\thttps://[::1]:1 ",
            "LEDGERWIRE_TOKEN_FILE": "/etc/tokens",
            "LEDGERWIRE_PING_INTERVAL_SECONDS": "2.5",
            "LEDGERWIRE_DRAIN_SECONDS": "0",
            "LEDGERWIRE_DATABASE_WAIT_SECONDS": "60",
            "LEDGERWIRE_LOG_LEVEL": "debug",
            "LEDGERWIRE_BATCH_LIMIT": "10",
        }
    )
    assert settings == GatewaySettings(
        ledger=LedgerSettings(batch_limit=10),
        host="0.0.0.0",
        port=0,
        allowed_origins=("https://a.example", "http://b.example:8080", "https://[::1]:1"),
        token_file=Path("/etc/tokens"),
        ping_interval_seconds=2.5,
        drain_seconds=0.0,
        database_wait_seconds=60.0,
        log_level="debug",
    )
    assert not settings.loopback_only


def test_the_command_line_wins_over_the_environment() -> None:
    """Where it was given; an empty variable is not set."""
    environment = {"LEDGERWIRE_PORT": "81", "LEDGERWIRE_HOST": "::1", "LEDGERWIRE_LOG_LEVEL": ""}
    settings = GatewaySettings.compose(environment, port=82, host=None, log_level=None)
    assert (settings.port, settings.host, settings.log_level) == (82, "::1", "info")


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "http"), ("PORT", "80.5"), ("PING_INTERVAL_SECONDS", "soon"), ("DRAIN_SECONDS", "1s")]
)
def test_a_variable_that_cannot_be_read_is_named(name: str, value: str) -> None:
    """With its value and the reason."""
    with pytest.raises(SettingsError) as error:
        GatewaySettings.compose({f"LEDGERWIRE_{name}": value})
    assert error.value.sentence.startswith(f"LEDGERWIRE_{name} is '{value}': ")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_loopback_no_authentication_is_needed(host: str) -> None:
    """Only this machine can reach it."""
    assert is_loopback(host)
    assert GatewaySettings(ledger=LEDGER, host=host).loopback_only


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "10.0.0.1", "192.168.1.1", "example.com", "127.0.0.1.example", "*"]
)
def test_elsewhere_it_refuses_to_listen_without_authentication(host: str) -> None:
    """With what to do about it; with a token file it listens."""
    assert not is_loopback(host)
    sentence = refused(host=host)
    assert sentence.startswith(f"Refusing to listen on {host} without authentication")
    assert "--token-file FILE" in sentence
    assert GatewaySettings(ledger=LEDGER, host=host, token_file=Path("t")).host == host


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example",
        "http://localhost",
        "http://127.0.0.1:8080",
        "https://xn--bcher-kva.example",
        "http://[::1]:1",
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(origin: str) -> None:
    """As a browser writes it."""
    assert GatewaySettings(ledger=LEDGER, allowed_origins=(origin,)).allowed_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        "", "app.example", "https://", "https://*.example", "https://app.example/", "https://app.example/x",
        "https://app.example?x", "https://app.example#x", "ftp://app.example", "//app.example", "https://[::1",
        "https://App.example", "HTTPS://app.example", "https://me@app.example", "https://app.example https://b.example/",
    ],
)  # fmt: skip
def test_what_no_browser_could_send_is_no_origin(origin: str) -> None:
    """It would never match: better to say so at the start."""
    assert refused(allowed_origins=("https://good.example", origin)).startswith(f"Allowed origin {origin!r} is not an")


@pytest.mark.parametrize("origin", ["*", "null"])
def test_everybody_is_no_origin(origin: str) -> None:
    """A page in a sandbox says `null`, whoever has made it."""
    assert refused(allowed_origins=(origin,)).startswith(f"Allowed origin {origin!r} would let in pages that nobody")


@pytest.mark.parametrize("network", ["", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "::1/129", "10.0.0.1:80"])
def test_a_trusted_proxy_is_a_network(network: str) -> None:
    """Written without a bit that does not belong to it: that would be a slip."""
    assert refused(trusted_proxies=("10.0.0.1", network)).startswith(f"Trusted proxy {network!r} is not a network")


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_not_everybody_is_a_trusted_proxy(network: str) -> None:
    """Any client could then choose its address."""
    assert "everybody" in refused(trusted_proxies=(network,))


def test_proxies_limits_and_tls_come_from_the_environment() -> None:
    """As all else; a certificate is nothing without its key."""
    settings = GatewaySettings.compose(
        {
            "LEDGERWIRE_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8",
            "LEDGERWIRE_LIMIT_REPORTS_PER_SECOND": "7",
            "LEDGERWIRE_TLS_CERT": "/c.pem",
            "LEDGERWIRE_TLS_KEY": "/k.pem",
        }
    )
    assert settings.trusted_proxies == ("10.0.0.0/8", "fd00::/8")
    assert settings.limits == Limits(reports_per_second=7)
    assert (settings.tls_cert, settings.tls_key) == (Path("/c.pem"), Path("/k.pem"))
    assert GatewaySettings.unknown_variables({"LEDGERWIRE_LIMIT_REPORTS_PER_SECOND": "7"}) == []
    for one in ({"tls_cert": Path("c")}, {"tls_key": Path("k")}):
        assert refused(**one) == "TLS needs both: --tls-cert FILE and --tls-key FILE, in PEM."


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_has_sixteen_bits(port: int) -> None:
    """Zero lets the system choose."""
    assert refused(port=port) == f"The port is {port}; it must be 0 to 65535."
    assert GatewaySettings(ledger=LEDGER, port=0).port == 0


@pytest.mark.parametrize("seconds", [0.5, 301.0, -1.0, float("nan"), float("inf")])
def test_a_ping_interval_is_a_second_to_five_minutes(seconds: float) -> None:
    """Below, it is noise; above, proxies have cut the connection long ago."""
    assert refused(ping_interval_seconds=seconds) == f"The ping interval is {seconds:g} s; it must be 1 to 300."


@pytest.mark.parametrize("seconds", [-1.0, 10_000.0, float("nan"), float("inf")])
def test_a_wait_at_the_start_or_the_end_has_a_bound(seconds: float) -> None:
    """And is no less than nothing."""
    assert refused(drain_seconds=seconds) == f"The drain time is {seconds:g} s; it must be 0 to 3600."
    assert refused(database_wait_seconds=seconds) == f"The database wait is {seconds:g} s; it must be 0 to 3600."


@pytest.mark.parametrize("connections", [0, -1, 1_000_001])
def test_the_connections_of_a_process_have_a_bound(connections: int) -> None:
    """At least one, at most a million."""
    sentence = f"The bound on connections is {connections}; it must be 1 to 1000000."
    assert refused(max_connections=connections) == sentence
    assert GatewaySettings.compose({"LEDGERWIRE_MAX_CONNECTIONS": "7"}).max_connections == 7


def test_a_variable_that_means_nothing_is_found() -> None:
    """A slip in a name would go unnoticed; variables of others are not looked at."""
    known = {"LEDGERWIRE_HOST": "", "LEDGERWIRE_BATCH_LIMIT": "", "LEDGERWIRE_TEST_SEED": "", "HOST": "", "PATH": ""}
    assert GatewaySettings.unknown_variables(known) == []
    slips = {"LEDGERWIRE_PROT": "1", "LEDGERWIRE_": "", "LEDGERWIRE_host": "x"}
    assert GatewaySettings.unknown_variables(known | slips) == sorted(slips)


def test_a_log_level_is_one_of_four() -> None:
    """The sentence lists them."""
    assert refused(log_level="loud") == "The log level is 'loud'; it may be debug, info, warning, error."
