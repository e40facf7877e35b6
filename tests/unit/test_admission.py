"""The door: so many a second, so many at once, and a hint when to come again."""

from __future__ import annotations

import random

import pytest

from gateway.admission import BURST_SECONDS, FIRST_HINT_SECONDS, MOST_SPREAD_SECONDS, Admission
from gateway.protocol.errors import ERRORS, ProtocolError


def let_in(door: Admission, now: float, wish: int) -> tuple[int, list[int]]:
    """How many of so many are let in at this moment, and when the others are to come again (ms)."""
    hints = [hint for _ in range(wish) if (hint := knock(door, now)) is not None]
    return wish - len(hints), hints


def knock(door: Admission, now: float) -> int | None:
    """None: come in; else when to come again."""
    try:
        door.admit(now)
    except ProtocolError as error:
        refused = error
    else:
        return None
    assert (refused.code, ERRORS[refused.code].http) == ("busy", 503)
    return refused.retry_after_ms or 0


def test_a_burst_is_let_in_and_then_the_rate() -> None:
    """What the bucket holds comes in at once; after that so many a second, however many knock."""
    door = Admission(per_second=100, most_opening=10_000)
    assert let_in(door, 50.0, 1_000)[0] == 100 * BURST_SECONDS
    assert let_in(door, 50.5, 1_000)[0] == 50
    assert let_in(door, 51.5, 1_000)[0] == 100
    assert let_in(door, 1_000.0, 1_000)[0] == 100 * BURST_SECONDS
    assert (door.admitted, door.refused) == (550, 3_450)


def test_hints_are_spread_over_the_time_that_the_crowd_needs(seed: int) -> None:
    """The more were turned away, the later they come, each at its own moment; nobody waits for ever."""
    door = Admission(per_second=100, most_opening=10_000, dice=random.Random(seed))
    let_in(door, 0.0, 200)
    _, few = let_in(door, 0.0, 50)
    _, many = let_in(door, 0.0, 1_000)
    _, too_many = let_in(door, 0.0, 100_000)
    assert min(few) >= 1000 * FIRST_HINT_SECONDS
    assert max(few) <= 2_500
    assert 5_000 < max(many) <= 11_000
    assert len(set(many)) > 500
    assert max(too_many) <= 1000 * (FIRST_HINT_SECONDS + MOST_SPREAD_SECONDS)
    let_in(door, 100.0, 200)  # the crowd has gone
    assert max(let_in(door, 100.0, 50)[1]) <= 2_500


def test_those_who_are_not_welcomed_yet_are_bounded() -> None:
    """A process that falls behind lets nobody in until it has welcomed some; whoever goes makes room as well."""
    door = Admission(per_second=0, most_opening=3)
    clients = [object() for _ in range(4)]
    for client in clients[:3]:
        assert let_in(door, 0.0, 1)[0] == 1
        door.enter(client)
    assert door.opening == 3
    assert let_in(door, 10.0, 5)[0] == 0
    door.leave(clients[0])
    door.leave(clients[0])
    assert let_in(door, 10.0, 1)[0] == 1


def test_without_a_rate_as_many_as_come_are_let_in() -> None:
    """0 means no bound."""
    assert let_in(Admission(per_second=0, most_opening=1), 0.0, 10_000)[0] == 10_000


def test_a_closed_door_says_that_the_server_goes() -> None:
    """It is no crowd that keeps them out."""
    door = Admission(per_second=0, most_opening=1)
    door.close()
    with pytest.raises(ProtocolError, match="shutting down") as refused:
        door.admit(0.0)
    assert refused.value.code == "unavailable"
    assert refused.value.retry_after_ms


def test_asking_whether_one_would_be_let_in_counts_nothing() -> None:
    """The answer is that of `admit` at the same moment: for the rate, for those who say nothing, and after the end."""
    door = Admission(per_second=10, most_opening=1)
    for _ in range(3 * int(10 * BURST_SECONDS)):
        would = door.would_admit(0.0)
        assert would is (knock(door, 0.0) is None)
    assert not door.would_admit(0.0)
    assert door.would_admit(0.2)
    door.enter("mute")
    assert not door.would_admit(0.2)
    assert Admission(per_second=0, most_opening=1).would_admit(0.0)
    door.leave("mute")
    door.close()
    assert not door.would_admit(0.2)
