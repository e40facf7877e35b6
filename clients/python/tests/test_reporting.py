"""What keeps reports exactly once and in order: the decisions of `ledgerwire.reporting`, one by one."""

from __future__ import annotations

import random

import pytest

from ledgerwire import wire
from ledgerwire.backoff import FullJitter
from ledgerwire.errors import Closed, Fenced, QueueFull, Rejected, TaskEnded, rejected
from ledgerwire.model import Receipt, Status
from ledgerwire.reporting import INTERNAL_TRIES_MAX, Pending, Series, Settled, Stalled, Unacknowledged

LIMIT = 6
BACKOFF = FullJitter(0.1, 10.0)


def unacknowledged(limit: int = LIMIT) -> Unacknowledged:
    return Unacknowledged(limit, BACKOFF, random.Random(1))


def accepted(wire_id: int, seq: int = 1, attempt: int = 1) -> wire.Reply:
    receipt = Receipt(task_id="t", seq=seq, status=Status.RUNNING, attempt=attempt, repeat=False)
    return wire.Reply(wire_id, receipt=receipt)


def refused(wire_id: int, code: str, *, retryable: bool = False, retry_after_seconds: float = 0.0) -> wire.Reply:
    return wire.Reply(wire_id, rejection=rejected(code, "No.", retryable), retry_after_seconds=retry_after_seconds)


def opened(queue: Unacknowledged) -> Series:
    """A series whose attempt 1 is acknowledged."""
    series = queue.series("t")
    queue.offer(series, "report", {"task_id": "t", "attempt": "new", "key": "k"}, opening=True)
    (message,) = queue.due(0.0, 10)
    queue.settle(accepted(message["id"]), 0.0)
    return series


def report(queue: Unacknowledged, series: Series, **marks: bool) -> Pending:
    return queue.offer(series, "report", {"task_id": "t", "progress": 1}, **marks)


def test_an_attempt_is_opened_by_key_and_its_reports_are_numbered_from_one() -> None:
    """Reports offered before the attempt has its number wait for it, and then carry it."""
    queue = unacknowledged()
    series = queue.series("t")
    queue.offer(series, "report", {"task_id": "t", "attempt": "new", "key": "k"}, opening=True)
    report(queue, series)
    report(queue, series)
    (opening,) = queue.due(0.0, 10)
    assert (opening["attempt"], opening["key"]) == ("new", "k")
    assert "n" not in opening
    queue.settle(accepted(opening["id"], attempt=7), 0.0)
    (first,) = queue.due(0.0, 10)
    assert (first["attempt"], first["n"]) == (7, 1)
    queue.settle(accepted(first["id"]), 0.0)
    (second,) = queue.due(0.0, 10)
    assert (second["attempt"], second["n"]) == (7, 2)


def test_of_one_series_one_message_is_under_way_and_of_many_series_many() -> None:
    """A later n never overtakes an earlier one; other tasks need not wait."""
    queue = unacknowledged(limit=20)
    all_series = [opened(queue) for _ in range(3)]
    for series in all_series:
        report(queue, series)
        report(queue, series)
    assert [message["n"] for message in queue.due(0.0, 10)] == [1, 1, 1]
    assert queue.due(0.0, 10) == []


@pytest.mark.parametrize("code", ["busy", "unavailable", "unknown_retry", "internal"])
def test_a_retryable_answer_sends_the_same_again_not_before_retry_after(code: str) -> None:
    """The same n under another id, after the time the gateway named, and nothing of the task before it."""
    queue = unacknowledged()
    series = opened(queue)
    report(queue, series)
    report(queue, series)
    (first,) = queue.due(0.0, 10)
    assert queue.settle(refused(first["id"], code, retryable=True, retry_after_seconds=3.0), 0.0) == []
    assert queue.due(2.9, 10) == []
    wait = queue.next_due(2.9, 15.0)
    assert wait is not None
    (again,) = queue.due(2.9 + wait, 10)
    assert again == {**first, "id": again["id"]}
    assert again["id"] != first["id"]


def test_a_lost_connection_sends_what_was_under_way_again_in_its_old_place() -> None:
    """Before what was queued behind it, with the same n."""
    queue = unacknowledged()
    series = opened(queue)
    report(queue, series)
    report(queue, series)
    (first,) = queue.due(0.0, 10)
    queue.lost()
    (again,) = queue.due(1.0, 10)
    assert again["n"] == first["n"] == 1
    assert queue.settle(accepted(first["id"]), 1.0) == [], "a reply to the lost connection says nothing any more"
    assert len(queue.settle(accepted(again["id"]), 1.0)) == 1


@pytest.mark.parametrize("code", ["fenced", "task_ended"])
def test_a_lost_hold_ends_all_that_waits_and_all_that_comes(code: str) -> None:
    """Everything of the attempt is answered with it; another attempt of the same worker goes on."""
    queue = unacknowledged()
    lost, other = opened(queue), opened(queue)
    report(queue, lost)
    report(queue, lost)
    (first,) = queue.due(0.0, 10)
    settled = queue.settle(refused(first["id"], code), 0.0)
    kind = Fenced if code == "fenced" else TaskEnded
    assert [type(each.error) for each in settled] == [kind, kind]
    with pytest.raises(kind):
        report(queue, lost)
    assert len(queue) == 0
    report(queue, other)


def test_any_other_rejection_concerns_one_report_and_the_next_goes_out() -> None:
    """Its number is not used again."""
    queue = unacknowledged()
    series = opened(queue)
    report(queue, series)
    report(queue, series)
    (first,) = queue.due(0.0, 10)
    (settled,) = queue.settle(refused(first["id"], "bad_request"), 0.0)
    assert isinstance(settled.error, Rejected)
    (second,) = queue.due(0.0, 10)
    assert second["n"] == 2


def test_a_rejected_opening_ends_the_attempt() -> None:
    """There is nothing to report for."""
    queue = unacknowledged()
    series = queue.series("t")
    queue.offer(series, "report", {"task_id": "t", "attempt": "new", "key": "k"}, opening=True)
    report(queue, series)
    (opening,) = queue.due(0.0, 10)
    assert len(queue.settle(refused(opening["id"], "bad_task_id"), 0.0)) == 2


def test_nothing_follows_a_report_that_ends_the_task_unless_it_is_rejected() -> None:
    """A job whose result is too large may still report that it failed."""
    queue = unacknowledged()
    series = opened(queue)
    report(queue, series, terminal=True)
    with pytest.raises(TaskEnded):
        report(queue, series)
    (end,) = queue.due(0.0, 10)
    queue.settle(refused(end["id"], "bad_request"), 0.0)
    report(queue, series, terminal=True)


def test_the_queue_is_bounded_but_an_answer_to_a_cancel_and_an_end_always_fit() -> None:
    """Counted messages are refused beyond the limit; there is room again after an acknowledgement."""
    queue = unacknowledged(limit=2)
    series = opened(queue)
    report(queue, series)
    report(queue, series)
    with pytest.raises(QueueFull):
        report(queue, series)
    report(queue, series, counted=False)
    (first,) = queue.due(0.0, 10)
    queue.settle(accepted(first["id"]), 0.0)
    assert queue.room == 1
    report(queue, series)


def test_a_fault_of_the_server_that_repeats_does_not_hold_up_a_task_for_ever() -> None:
    """After so many tries the report is rejected, and the next one goes out."""
    queue = unacknowledged()
    series = opened(queue)
    report(queue, series)
    report(queue, series)
    now, settled = 0.0, list[Settled]()
    for _ in range(INTERNAL_TRIES_MAX + 1):
        now += 100.0
        (message,) = queue.due(now, 10)
        assert message["n"] == 1
        settled = queue.settle(refused(message["id"], "internal", retryable=True), now)
    assert [each.pending.number for each in settled] == [1]
    (message,) = queue.due(now, 10)
    assert message["n"] == 2


def test_an_overdue_reply_condemns_the_connection() -> None:
    """`next_due` names the moment at which `check_replies` raises."""
    queue = unacknowledged()
    series = opened(queue)
    report(queue, series)
    queue.due(100.0, 10)
    assert queue.next_due(101.0, 15.0) == pytest.approx(14.0)
    queue.check_replies(114.9, 15.0)
    with pytest.raises(Stalled):
        queue.check_replies(115.0, 15.0)


def test_what_the_caller_changes_after_offering_is_not_sent() -> None:
    """Payloads are encoded when they are offered."""
    queue = unacknowledged()
    series = opened(queue)
    rows = [1]
    queue.offer(series, "report", {"task_id": "t", "data": rows})
    rows.append(2)
    (message,) = queue.due(0.0, 10)
    assert wire.decode(wire.encode(message))["data"] == [1]


def test_what_fits_no_frame_is_rejected_when_it_is_offered() -> None:
    """The gateway could not tell whose message it was; nothing is queued and no number used."""
    queue = unacknowledged()
    series = opened(queue)
    with pytest.raises(Rejected, match="frame_too_large"):
        queue.offer(series, "report", {"task_id": "t", "data": "x" * 70_000})
    with pytest.raises(TypeError):
        queue.offer(series, "report", {"task_id": "t", "data": object()})
    assert len(queue) == 0
    assert report(queue, series).number == 1


def test_an_end_answers_everybody_and_later_offers_too() -> None:
    """Each gets an exception object of its own."""
    queue = unacknowledged(limit=20)
    all_series = [opened(queue) for _ in range(3)]
    for series in all_series:
        report(queue, series)
    (_, delayed) = queue.due(0.0, 2)
    queue.settle(refused(delayed["id"], "busy", retryable=True), 0.0)
    settled = queue.end(Closed("over"))
    assert len({id(each.error) for each in settled}) == 3
    assert len(queue) == 0
    assert queue.next_due(0.0, 15.0) is None
    with pytest.raises(Closed):
        report(queue, all_series[0])
