"""Numbered reports come in their order, also around one that could not be accepted."""

from __future__ import annotations

from ledger.errors import Unavailable
from ledger.model import Report
from ledger.turns import HOLD_SECONDS, Turns, out_of_turn

KEY = f"{1:032x}"
NOW = 100.0


def report(n: int | None, attempt: int = 1) -> Report:
    return Report(tenant="t", task_id="a", attempt=attempt, n=n)


def test_what_is_numbered_behind_a_missed_report_has_to_wait_for_it() -> None:
    """Higher numbers are kept away until the missed one comes; lower ones are repeats and may come."""
    turns = Turns()
    assert turns.may_come(KEY, report(2), NOW)
    turns.miss(KEY, report(3), NOW)
    assert not turns.may_come(KEY, report(4), NOW)
    assert turns.may_come(KEY, report(2), NOW)
    assert turns.may_come(f"{2:032x}", report(4), NOW)
    assert turns.may_come(KEY, report(3), NOW)
    assert turns.may_come(KEY, report(4), NOW)


def test_the_lowest_missed_number_counts() -> None:
    """Whichever was answered first."""
    turns = Turns()
    turns.miss(KEY, report(5), NOW)
    turns.miss(KEY, report(3), NOW)
    turns.miss(KEY, report(4), NOW)
    assert not turns.may_come(KEY, report(4), NOW)
    assert turns.may_come(KEY, report(3), NOW)


def test_another_attempt_does_not_wait_for_a_number_of_this_one() -> None:
    """A new worker begins anew, and the old one is fenced by the ledger."""
    turns = Turns()
    turns.miss(KEY, report(3), NOW)
    assert turns.may_come(KEY, report(1, attempt=2), NOW)
    assert turns.may_come(KEY, report(9, attempt=1), NOW)


def test_what_has_no_number_neither_waits_nor_is_waited_for() -> None:
    """Nobody could tell its place."""
    turns = Turns()
    turns.miss(KEY, report(None), NOW)
    assert turns.may_come(KEY, report(7), NOW)
    turns.miss(KEY, report(3), NOW)
    assert turns.may_come(KEY, report(None), NOW)
    assert not turns.may_come(KEY, report(4), NOW)


def test_who_gives_a_missed_report_up_goes_on_after_a_while() -> None:
    """The hold is for what was sent before the answer could be heard, not for ever."""
    turns = Turns()
    turns.miss(KEY, report(3), NOW)
    assert not turns.may_come(KEY, report(4), NOW + HOLD_SECONDS - 0.1)
    assert turns.may_come(KEY, report(4), NOW + HOLD_SECONDS)
    assert turns.may_come(KEY, report(4), NOW)


def test_the_memory_is_bounded() -> None:
    """The task that was missed longest ago is forgotten first."""
    turns = Turns(remembered_tasks=2)
    keys = [f"{place:032x}" for place in range(3)]
    for key in keys:
        turns.miss(key, report(3), NOW)
    assert [turns.may_come(key, report(4), NOW) for key in keys] == [True, False, False]


def test_the_answer_says_what_to_send_first() -> None:
    """It is retryable, and nothing was written."""
    answer = out_of_turn()
    assert isinstance(answer, Unavailable)
    assert answer.retryable
    assert answer.retry_after_ms
    assert "lower n" in answer.sentence
