"""What a node concludes from the epoch of an answer, and from what is not there any more."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.epoch import EXPECTED_TASKS, History, Loss
from ledger.errors import Unavailable


@pytest.fixture
def told() -> list[str]:
    """The epochs in which somebody was told to begin anew."""
    return []


@pytest.fixture
def history(told: list[str]) -> History:
    """Of a node that knows epoch A."""
    made = History()
    made.listen(lambda: told.append(made.epoch))
    assert made.note("A", "")
    return made


def test_the_first_answer_is_no_change(history: History, told: list[str]) -> None:
    """Nor is one that was asked for before it came."""
    assert history.note("A", "")
    assert (history.epoch, told) == ("A", [])


def test_a_change_is_told_once(history: History, told: list[str]) -> None:
    """However many answers name it."""
    assert history.note("B", "A")
    assert history.note("B", "A")
    assert (history.epoch, told) == ("B", ["B"])


def test_an_answer_that_was_overtaken_is_of_no_use(history: History, told: list[str]) -> None:
    """It was asked for in A and comes from A, but the history is B by now."""
    assert history.note("B", "A")
    assert not history.note("A", "A")
    assert history.note("A", "B"), "asked for in B, it is the newer one"
    assert told == ["B", "A"]


def test_a_loss_is_what_was_committed_in_this_epoch_and_is_not_there(history: History) -> None:
    """Once; and a change of the epoch explains all that is missing."""
    history.expect("A", "k", 5)
    assert history.lost("k", 5) is None
    history.expect("A", "k", 5)
    assert history.lost("k", 3) == Loss("k", 5, 3)
    assert history.lost("k", 3) is None
    history.expect("A", "k", 5)
    history.note("B", "A")
    assert history.lost("k", 3) is None
    history.expect("A", "k", 5)
    assert history.lost("k", 3) is None


def test_what_is_expected_has_a_bound(history: History) -> None:
    """Beyond it the older expectations are given up."""
    for number in range(EXPECTED_TASKS + 1):
        history.expect("A", str(number), 5)
    assert history.lost("0", 0) is None
    assert history.lost(str(EXPECTED_TASKS), 0) is not None


async def test_a_loss_begins_an_epoch_but_not_again_and_again(history: History, told: list[str]) -> None:
    """A node that sees losses all the time has another trouble."""
    asked = []

    async def fetch(sql: str, *arguments: object) -> Any:
        asked.append(arguments)
        return [{"epoch": "B"}]

    for _ in range(3):
        await history.rewound(fetch, Loss("k", 5, 3))
    assert (asked, told) == ([("A",)], ["B"])


async def test_an_epoch_that_another_node_has_begun_is_taken_over(history: History, told: list[str]) -> None:
    """The name is given only while the history has the old one."""
    answers = [[], [{"epoch": "C"}]]

    async def fetch(sql: str, *arguments: object) -> Any:
        return answers.pop(0)

    await history.rewound(fetch, Loss("k", 5, 3))
    assert (history.epoch, told) == ("C", ["C"])


async def test_where_no_epoch_can_be_begun_the_sessions_end_all_the_same(history: History, told: list[str]) -> None:
    """Nobody goes on as if nothing had happened."""

    async def fetch(sql: str, *arguments: object) -> Any:
        raise Unavailable("PostgreSQL is read-only.", reason="read_only")

    await history.rewound(fetch, Loss("k", 5, 3))
    assert (history.epoch, told) == ("A", ["A"])
