"""The comparison that the scenarios rest on sees what is wrong with a stream."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.streams import assert_stream

LEDGER = [{"status": "running", "progress": n} for n in range(1, 6)]


def told(kind: str, seq: int, **more: Any) -> dict[str, Any]:
    """An event as an agent tells it."""
    return {"change": kind, "seq": seq, "status": "running", "progress": seq, **more}


def transitions(*seqs: int) -> list[dict[str, Any]]:
    return [told("transition", seq) for seq in seqs]


def jump(before: int, to: int) -> dict[str, Any]:
    return told("jumped", to, reason="polled", **{"from": {"epoch": "e", "seq": before}})


def test_a_stream_without_a_hole_or_with_a_jump_that_is_told_is_good() -> None:
    """From the first, from a snapshot, across a jump, and in another run from where the one before had kept."""
    assert_stream(transitions(1, 2, 3, 4, 5), LEDGER)
    assert_stream([told("snapshot", 3), *transitions(4, 5)], LEDGER)
    assert_stream([*transitions(1, 2), jump(2, 4), *transitions(5)], LEDGER)
    assert_stream([*transitions(1, 2, 3), *transitions(3, 4, 5)], LEDGER, runs=[3])


@pytest.mark.parametrize(
    "events",
    [
        transitions(1, 2, 4, 5),
        transitions(1, 2, 2, 3, 4, 5),
        transitions(1, 2, 3, 4),
        [*transitions(1, 2), jump(1, 4), *transitions(5)],
        [*transitions(1, 2, 3), told("snapshot", 5)],
        [*transitions(1, 2, 3, 4), {**told("transition", 5), "progress": 9}],
    ],
    ids=["hole", "repeat", "no end", "jump from elsewhere", "unannounced", "another state"],
)
def test_any_other_stream_is_not(events: list[dict[str, Any]]) -> None:
    """Each of these has one fault."""
    with pytest.raises(AssertionError):
        assert_stream(events, LEDGER)
