"""The error tree: what each error promises its reader."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from ledger import errors
from ledger.errors import (
    Busy,
    EmbeddedError,
    LedgerError,
    MigrationError,
    OutcomeUnknown,
    Refused,
    SettingsError,
    Unavailable,
)

TREE = [
    (SettingsError, "settings", False),
    (EmbeddedError, "embedded", False),
    (MigrationError, "migration", False),
    (Unavailable, "unavailable", True),
    (OutcomeUnknown, "unknown_retry", True),
    (Busy, "busy", True),
    (Refused, "bad_request", False),
]


@pytest.mark.parametrize(("kind", "code", "retryable"), TREE)
def test_each_error_has_its_code(kind: type[LedgerError], code: str, retryable: bool) -> None:
    """Each error carries a stable code and says whether the same request may be sent again."""
    error = kind("a sentence")
    assert (error.code, error.retryable, error.retry_after_ms) == (code, retryable, None)
    assert (str(error), error.sentence, error.reason) == ("a sentence", "a sentence", code)


def test_the_tree_is_complete() -> None:
    """One base, and the list above names all of its children."""
    assert {kind for kind, _, _ in TREE} == set(LedgerError.__subclasses__())
    assert len({code for _, code, _ in TREE}) == len(TREE)


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    """Every error stands in the drawing with its code, in the order of the file."""
    drawing = errors.__doc__ or ""
    places = [drawing.index(f'─ {kind.__name__:<20} "{code}"') for kind, code, _ in TREE]
    assert places == sorted(places)


def test_an_error_says_when_to_come_back_and_why() -> None:
    """The hint and the finer reason are the raiser's to give."""
    error = Unavailable("busy", reason="acquire_timeout", retry_after_ms=250)
    assert (error.reason, error.retry_after_ms) == ("acquire_timeout", 250)


def test_an_error_survives_a_process_boundary() -> None:
    """Pickled and read again, an error still carries its data."""
    copy = pickle.loads(pickle.dumps(Busy("full", reason="queue", retry_after_ms=100)))
    assert (type(copy), copy.sentence, copy.reason, copy.retry_after_ms) == (Busy, "full", "queue", 100)


def test_the_module_is_pure() -> None:
    """It imports nothing, so that the pure core may use it."""
    tree = ast.parse(Path(errors.__file__).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
