"""`ledgerwire key create | list | revoke`: API keys for workers and servers, on the command line."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from gateway import audit
from gateway.auth.api_keys import PREFIX, new_key, principal_of
from gateway.auth.tokens import NAME
from gateway.options import database_of
from gateway.principal import GrantError, parse_grants
from gateway.telemetry import configure_logging
from ledger.api_keys import ApiKey, ApiKeys
from ledger.errors import MigrationError, SettingsError, Unavailable
from ledger.pool import Pools
from ledger.settings import LedgerSettings, redacted

T = TypeVar("T")
MOST_DAYS: Final = 3_650
_KEYS: Final = """\
An API key lets a worker or a server in: `Authorization: Bearer lwk_…`, or as the token of hello. The ledger keeps its
digest only, so it is shown once, by `create`. What it may is said by grants (docs/security.md), by default everything
of its tenant. A revoked key is out within a minute, also where a connection is open.

The database is LEDGERWIRE_DIRECT_DATABASE_URL or DATABASE_URL, else the own PostgreSQL of a gateway that is stopped.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the others."""
    key = commands.add_parser(
        "key",
        help="create, list and revoke API keys",
        description=_KEYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = key.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key and show it, once")
    create.add_argument("--tenant", required=True, help="whose tasks it is for")
    create.add_argument("--subject", required=True, help="who uses it: for logs, and as `owner` of its own tasks")
    create.add_argument(
        "--grant",
        dest="grants",
        action="append",
        metavar="VERBS:OVER",
        help="as report,create:kind=import; may be given several times; default *:all, everything of the tenant",
    )
    create.add_argument("--days", type=int, metavar="N", help="in force for so many days; default: until it is revoked")
    list_ = actions.add_parser("list", help="show the keys, newest first; never a secret")
    list_.add_argument("--tenant", help="of this tenant only")
    revoke = actions.add_parser("revoke", help="end a key for ever")
    revoke.add_argument("id", help="as list shows it, lwk_…")
    for action, run in ((create, _create), (list_, _list), (revoke, _revoke)):
        action.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where its own PostgreSQL keeps its data")
        action.set_defaults(run=run)


def _create(options: argparse.Namespace) -> int:
    if not NAME.fullmatch(options.tenant) or not NAME.fullmatch(options.subject):
        raise SettingsError("--tenant and --subject are names: letters, digits and . _ @ : -, up to 128.")
    if options.days is not None and not 1 <= options.days <= MOST_DAYS:
        raise SettingsError(f"--days is {options.days}; it must be 1 to {MOST_DAYS}.")
    try:
        grants = [grant.words for grant in parse_grants(options.grants or ["*:all"])]
    except GrantError as error:
        raise SettingsError(f"--grant: {error}") from error
    id_, text, digest = new_key()
    lasts = None if options.days is None else timedelta(days=options.days)
    made = _ask(options, lambda keys: keys.add(id_, digest, options.tenant, options.subject, grants, lasts))
    _note("key_create", made)
    print(text)  # noqa: T201 - for a person
    return 0


def _list(options: argparse.Namespace) -> int:
    for key in _ask(options, lambda keys: keys.listed(options.tenant)):
        state = "in force"
        if key.revoked_at is not None:
            state = f"revoked {key.revoked_at:%Y-%m-%dT%H:%M:%SZ}"
        elif key.expires_at is not None:
            state = f"until {key.expires_at:%Y-%m-%dT%H:%M:%SZ}"
        made, grants = f"{key.created_at:%Y-%m-%dT%H:%M:%SZ}", " ".join(key.grants)
        shown = (f"{PREFIX}{key.id}", key.tenant, key.subject, made, state, grants)
        print("\t".join(shown))  # noqa: T201 - for a person
    return 0


def _revoke(options: argparse.Namespace) -> int:
    id_ = options.id.removeprefix(PREFIX)[:16]  # whoever pastes the whole key does not have it repeated
    key = _ask(options, lambda keys: keys.revoke(id_))
    if key is None:
        raise SettingsError(f"There is no key {PREFIX}{id_}; see `ledgerwire key list`.")
    _note("key_revoke", key)
    print(f"{PREFIX}{key.id} is revoked; whoever uses it is out within a minute")  # noqa: T201 - for a person
    return 0


def _note(action: str, key: ApiKey) -> None:
    configure_logging("info")
    audit.note(action, "done", principal_of(key), by=os.environ.get("USER"), grants=list(key.grants))


def _ask(options: argparse.Namespace, ask: Callable[[ApiKeys], Awaitable[T]]) -> T:
    """Ask the database that the gateway would use."""
    with database_of(options) as (settings, dsn):
        return asyncio.run(_asked(settings, dsn, ask))


async def _asked(settings: LedgerSettings, dsn: str, ask: Callable[[ApiKeys], Awaitable[T]]) -> T:
    pools = await Pools.open(settings, dsn)
    try:
        return await ask(ApiKeys(pools.control))
    except Unavailable as error:
        if error.reason == "schema_or_privilege":
            raise MigrationError("there is no ledger with keys in this database; run `ledgerwire migrate`") from error
        raise Unavailable(
            f"The database {redacted(dsn)} cannot be asked: {error.sentence}.", reason=error.reason
        ) from error
    finally:
        await pools.close()
