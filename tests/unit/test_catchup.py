"""The joining of replay and live delivery, in its plain cases and at its full size."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.protocol.catchup import BUFFERED_EVENTS, Catchup


@dataclass(frozen=True)
class Seen:
    """An event."""

    seq: int


def events(*seqs: int) -> list[Seen]:
    """Events with these sequences."""
    return [Seen(seq) for seq in seqs]


@pytest.fixture
def live() -> Catchup[Seen]:
    """A subscription that has read up to 5 and gets live events now."""
    catchup: Catchup[Seen] = Catchup(3)
    catchup.begin_read()
    assert catchup.join(events(4, 5), 5) == events(4, 5)
    return catchup


def test_a_subscription_begins_with_a_read() -> None:
    """What comes before that read was committed before it, so the read sees it."""
    catchup: Catchup[Seen] = Catchup(3)
    assert (catchup.due, catchup.reading, catchup.delivered) == (True, False, 3)
    assert catchup.offer(Seen(4)) == ()
    catchup.begin_read()
    assert (catchup.due, catchup.reading) == (False, True)
    assert catchup.join(events(4), 4) == events(4)
    assert (catchup.due, catchup.reading, catchup.delivered) == (False, False, 4)


def test_live_events_are_given_out_in_order_and_once(live: Catchup[Seen]) -> None:
    """The next one at once; what was there already not again."""
    assert live.offer(Seen(6)) == (Seen(6),)
    assert live.offer(Seen(6)) == ()
    assert live.offer(Seen(2)) == ()
    assert live.offer(Seen(7)) == (Seen(7),)
    assert not live.due


def test_a_gap_is_read_and_never_skipped(live: Catchup[Seen]) -> None:
    """What lies behind it is not given out before."""
    assert live.offer(Seen(8)) == ()
    assert (live.due, live.delivered) == (True, 5)
    assert live.offer(Seen(6)) == ()
    live.begin_read()
    assert live.join(events(6, 7, 8), 8) == events(6, 7, 8)


def test_events_during_a_read_are_kept_and_joined(live: Catchup[Seen]) -> None:
    """Where the read saw them too, they come once."""
    live.due = True
    live.begin_read()
    for event in events(6, 7, 8):
        assert live.offer(event) == ()
    assert live.join(events(6, 7), 7) == events(6, 7, 8)
    assert not live.due


def test_a_gap_behind_the_read_is_read_next(live: Catchup[Seen]) -> None:
    """The kept event tells how far the ledger has come."""
    live.begin_read()
    live.offer(Seen(9))
    assert live.join(events(6), 6) == events(6)
    assert (live.due, live.delivered) == (True, 6)


def test_a_page_that_was_cut_is_followed_by_another(live: Catchup[Seen]) -> None:
    """Until the head is reached."""
    live.begin_read()
    assert live.join(events(6), 8) == events(6)
    assert live.due
    live.begin_read()
    assert live.join(events(7, 8), 8) == events(7, 8)
    assert not live.due


def test_more_than_can_be_kept_is_read_again(live: Catchup[Seen]) -> None:
    """256 events are kept; with one more the read is done again, and then all of them come."""
    live.begin_read()
    last = 5 + BUFFERED_EVENTS
    for seq in range(6, last + 1):
        assert live.offer(Seen(seq)) == ()
    assert live.join((), 5) == events(*range(6, last + 1))
    live.begin_read()
    for seq in range(last + 1, last + BUFFERED_EVENTS + 4):
        assert live.offer(Seen(seq)) == ()
    assert live.join((), last) == []
    assert live.due
    live.begin_read()
    assert live.join(events(last + 1), last + 1) == events(last + 1)
    assert not live.due


def test_a_snapshot_takes_the_place_of_what_was_before(live: Catchup[Seen]) -> None:
    """It goes on behind the snapshot; an older one takes nothing back."""
    live.begin_read()
    live.offer(Seen(9))
    live.offer(Seen(10))
    live.restart(9)
    assert live.join((), 9) == events(10)
    live.restart(2)
    assert live.delivered == 10


def test_a_failed_read_is_done_again(live: Catchup[Seen]) -> None:
    """What was kept is in the next one."""
    live.begin_read()
    live.offer(Seen(6))
    live.fail_read()
    assert (live.due, live.reading) == (True, False)
    live.begin_read()
    assert live.join(events(6), 6) == events(6)


def test_what_was_dropped_is_read_again(live: Catchup[Seen]) -> None:
    """From the first one that was dropped, but never from before the beginning."""
    live.rewind(9)
    assert not live.due
    live.rewind(5)
    assert (live.due, live.delivered) == (True, 4)
    live.rewind(1)
    assert live.delivered == 3


def test_a_read_under_way_is_given_up_when_something_was_dropped(live: Catchup[Seen]) -> None:
    """It began behind what has to be read now."""
    live.begin_read()
    live.rewind(5)
    assert (live.due, live.reading, live.delivered) == (True, False, 4)


def test_a_beginning_in_another_history_is_forgotten(live: Catchup[Seen]) -> None:
    """Then everything is still to come."""
    live.reset()
    live.rewind(1)
    assert live.delivered == 0
