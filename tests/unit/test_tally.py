"""The figures of the writer: each is counted where it belongs."""

from __future__ import annotations

from ledger.tally import COMMIT_TRANSITIONS, Distribution, Tally


def test_a_figure_is_counted_at_the_first_bound_that_holds_it() -> None:
    """The bound itself is within; what no bound holds comes last."""
    some = Distribution((1, 10))
    for figure in (0.5, 1, 1.5, 10, 11):
        some.note(figure)
    assert (some.counts, some.sum) == ([2, 2, 1], 24.0)


def test_a_writer_begins_with_nothing() -> None:
    """And has a place for every size of a batch, and one for more."""
    tally = Tally()
    assert tally.commit_transitions.counts == [0] * (len(COMMIT_TRANSITIONS) + 1)
    assert (tally.commit_seconds.sum, tally.refused) == (0.0, {})
