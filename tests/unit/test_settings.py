"""The ledger's settings: what is read, what is refused and in which words, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ledger.errors import SettingsError
from ledger.settings import LedgerSettings, redacted, unreadable

SECRET = "s3cr3t"


def test_an_empty_environment_gives_the_start_values() -> None:
    """Nothing has to be set; without a URL our own PostgreSQL is started."""
    settings = LedgerSettings.from_environment({})
    assert settings == LedgerSettings()
    assert settings.database_url is None
    assert (settings.write_pool_max, settings.read_pool_max, settings.control_pool_max) == (2, 4, 2)


def test_values_are_read_from_the_environment() -> None:
    """Each field has a variable: whole numbers, numbers, text and paths."""
    url = f"postgresql://me:{SECRET}@a:5432,b:5433/x?target_session_attrs=read-write"
    settings = LedgerSettings.from_environment(
        {
            "DATABASE_URL": url,
            "LEDGERWIRE_DIRECT_DATABASE_URL": "postgres://direct/x",
            "LEDGERWIRE_DATA_DIR": "/srv/ledgerwire",
            "LEDGERWIRE_READ_POOL_MAX": "8",
            "LEDGERWIRE_RECYCLE_SECONDS": "90.5",
            "LEDGERWIRE_STATEMENT_CACHE_SIZE": "0",
            "LEDGERWIRE_APPLICATION_NAME": "roadmaps",
            "LEDGERWIRE_SOMETHING_OF_THE_GATEWAY": "is not ours",
        }
    )
    assert settings.database_url == url
    assert settings.direct_database_url == "postgresql://direct/x"
    assert settings.data_dir == Path("/srv/ledgerwire")
    assert (settings.read_pool_max, settings.recycle_seconds) == (8, 90.5)
    assert (settings.statement_cache_size, settings.application_name) == (0, "roadmaps")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg2"])
def test_the_url_of_an_sqlalchemy_application_is_taken_as_it_is(scheme: str) -> None:
    """A driver in the scheme is left out, so that an application's own setting can be reused."""
    settings = LedgerSettings.from_environment({"DATABASE_URL": f"{scheme}://u@h/d"})
    assert settings.database_url == "postgresql://u@h/d"


def test_an_empty_value_means_not_set() -> None:
    """Compose files write `DATABASE_URL=` for a variable that is not there."""
    empty = {"DATABASE_URL": "", "LEDGERWIRE_READ_POOL_MAX": " "}
    assert LedgerSettings.from_environment(empty) == LedgerSettings()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"LEDGERWIRE_READ_POOL_MAX": "many"}, ["'many'", "a whole number"]),
        ({"LEDGERWIRE_READ_POOL_MAX": "4.5"}, ["'4.5'", "a whole number"]),
        ({"LEDGERWIRE_READ_POOL_MAX": "0"}, ["is 0", "1 to 200"]),
        ({"LEDGERWIRE_ACQUIRE_TIMEOUT_SECONDS": "soon"}, ["'soon'", "a number"]),
        ({"LEDGERWIRE_ACQUIRE_TIMEOUT_SECONDS": "nan"}, ["is nan"]),
        ({"LEDGERWIRE_COMMAND_TIMEOUT_SECONDS": "inf"}, ["is inf"]),
        ({"LEDGERWIRE_CONNECT_TIMEOUT_SECONDS": "2000"}, ["is 2000", "0.05 to 60"]),
        ({"LEDGERWIRE_WRITE_POOL_MIN": "3"}, ["is 3", "LEDGERWIRE_WRITE_POOL_MAX is 2"]),
        ({"LEDGERWIRE_STATEMENT_TIMEOUT_MS": "2000"}, ["shorter than LEDGERWIRE_COMMAND_TIMEOUT_SECONDS"]),
        ({"LEDGERWIRE_LOCK_TIMEOUT_MS": "1500"}, ["shorter than LEDGERWIRE_STATEMENT_TIMEOUT_MS"]),
        ({"LEDGERWIRE_REQUEST_DEADLINE_SECONDS": "4.5"}, ["is 4.5", "may take 5 s"]),
        ({"LEDGERWIRE_APPLICATION_NAME": "x" * 51}, ["1 to 50"]),
        ({"LEDGERWIRE_DIRECT_DATABASE_URL": "nonsense"}, ["postgresql://"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_an_example(environment: dict[str, str], words: list[str]) -> None:
    """The error names the variable, the value, and a line that works."""
    with pytest.raises(SettingsError) as caught:
        LedgerSettings.from_environment(environment)
    (variable,) = environment
    for word in [variable, *words]:
        assert word in caught.value.sentence
    example = caught.value.sentence.partition("Example: ")[2]
    corrected = dict(line.split("=", 1) for line in example.split(" with "))
    assert LedgerSettings.from_environment(environment | corrected)


def test_a_wrong_url_is_never_shown() -> None:
    """The URL holds a password, so the error shows an example in its place."""
    with pytest.raises(SettingsError) as caught:
        LedgerSettings.from_environment({"DATABASE_URL": f"mysql://u:{SECRET}@h/d"})
    assert "DATABASE_URL" in caught.value.sentence
    assert SECRET not in caught.value.sentence


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h/d",
        f"postgresql://u:a/{SECRET}@h/d",
        f"postgresql://u:a@{SECRET}@h/d",
        f"postgresql://u@h/d?password={SECRET}&x=1",
        f"postgresql://u@h/d?x=1&sslpassword={SECRET}",
        f"postgresql+asyncpg://u:{SECRET}?#@h1,h2/d",
    ],
)
def test_passwords_do_not_reach_a_log(url: str) -> None:
    """Neither the redacted URL, nor the settings' repr, nor an error shows a password."""
    for text in (redacted(url), repr(LedgerSettings(database_url=url)), str(unreadable(url))):
        assert SECRET not in text
        assert "***" in text


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    """Redaction takes nothing else away."""
    for url in ("postgresql://u@h:5432/d?sslmode=require", "postgresql://u@/d?host=%2Ftmp%2Fa&port=5432"):
        assert redacted(url) == url


def test_settings_are_frozen_and_named() -> None:
    """Settings are read once: no field can be changed, and none be given by position."""
    with pytest.raises(AttributeError):
        LedgerSettings().read_pool_max = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        LedgerSettings("postgresql://h/d")  # type: ignore[call-arg]
    assert all(field.default is not msgspec.NODEFAULT for field in msgspec.structs.fields(LedgerSettings))
