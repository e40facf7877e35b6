"""The ledger's limits for tests of something else than limits: so generous that no busy machine reaches them.

With the limits of a production a statement that waits for a neighbour's disk or CPU ends as it should, and a test of
something else fails. A test of a limit names that limit, and those that must be in order with it.
"""

from __future__ import annotations

from typing import Any, Final

from ledger.settings import LedgerSettings

GENEROUS: Final[dict[str, Any]] = {
    "connect_timeout_seconds": 15.0,
    "acquire_timeout_seconds": 15.0,
    "command_timeout_seconds": 25.0,
    "request_deadline_seconds": 60.0,
    "statement_timeout_ms": 20_000,
    "lock_timeout_ms": 19_000,
    "append_lock_timeout_ms": 19_000,
    "idle_in_transaction_timeout_ms": 60_000,
    "queue_wait_seconds": 30.0,
}

ENVIRONMENT: Final = {f"LEDGERWIRE_{name.upper()}": str(value) for name, value in GENEROUS.items()}
"""The same, for a gateway that is a process."""

PRODUCTION: Final[dict[str, Any]] = {name: getattr(LedgerSettings(), name) for name in GENEROUS}
"""The product's own, for tests in which something is away and it must not take long to notice."""

QUICK: Final[dict[str, Any]] = {
    "connect_timeout_seconds": 1.0,
    "acquire_timeout_seconds": 1.0,
    "command_timeout_seconds": 1.5,
    "request_deadline_seconds": 3.5,
    "statement_timeout_ms": 1_200,
    "lock_timeout_ms": 1_000,
    "append_lock_timeout_ms": 50,
    "queue_wait_seconds": 1.5,
}
"""Limits that a test waits to be reached."""


def generous(**given: Any) -> LedgerSettings:
    """Settings of the ledger with all limits as above but those that are given."""
    return LedgerSettings(**(GENEROUS | given))
