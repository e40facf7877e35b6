"""Folding a batch: what may rest on a memory, what the arrays hold, and what a lost answer may not do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ledger.batch import Entry, Found, append_arguments, fold, heads_arguments, transitions_of
from ledger.machine import CancelStage, Status
from ledger.model import Cancel, CancelRequest, Create, Prior, Receipt, Rejection, Report, Request, State, task_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = task_key("t", "a")
MARK, OTHER = f"{1:032x}", f"{2:032x}"
STATE = State(tenant="t", task_id="a", status=Status.RUNNING, seq=5, attempt=1, n=3)


def report(**members: Any) -> Report:
    """A report of task `a`."""
    return Report(tenant="t", task_id="a", **members)


def entry(request: Request, digest: str = MARK, *, sent_seq: int = 0) -> Entry:
    """A request on its way."""
    made = Entry(key=task_key(request.tenant, request.task_id), request=request, digest=digest)
    made.sent_seq = sent_seq
    return made


def test_a_change_may_rest_on_a_memory() -> None:
    """The append compares the sequence: a stale memory costs another try, never a wrong transition."""
    first, second = entry(report(progress=1.0)), entry(report(attempt=1, n=4, digest=OTHER), OTHER)
    decided = fold([first, second], {KEY: STATE}, {})
    assert (decided.stale, decided.answers) == (set(), {})
    growth = decided.growth[KEY]
    assert growth.expected == 5
    assert [(own, change.step.seq) for own, change in growth.changes] == [(first, 6), (second, 7)]
    assert growth.state.seq == 7


def test_every_other_answer_must_rest_on_a_read() -> None:
    """A repeat or a rejection decided on a memory sends the whole task to be read, with what was decided for it."""
    change, fenced = entry(report(progress=1.0)), entry(report(attempt=1, n=2, digest=OTHER), OTHER)
    behind = entry(report(progress=2.0))
    decided = fold([change, fenced, behind], {KEY: STATE}, {})
    assert (decided.stale, decided.growth, decided.answers) == ({KEY}, {}, {})


def test_what_needs_a_read_is_not_decided_without_one() -> None:
    """An unknown task, a request with a key, and a request whose answer was lost."""
    keyed = entry(report(idem=OTHER, digest=MARK))
    assert fold([entry(report())], {}, {}).stale == {KEY}
    assert fold([keyed], {KEY: STATE}, {}).stale == {KEY}
    assert fold([entry(report(), sent_seq=6)], {KEY: STATE}, {}).stale == {KEY}


def test_one_task_that_must_be_read_does_not_hold_up_the_others() -> None:
    """Each task is decided by itself."""
    other = entry(Report(tenant="t", task_id="b"))
    b = State(tenant="t", task_id="b", status=Status.RUNNING, seq=2)
    decided = fold([entry(report()), other], {task_key("t", "b"): b}, {})
    assert decided.stale == {KEY}
    assert list(decided.growth) == [task_key("t", "b")]


def test_a_read_wins_over_a_memory() -> None:
    """And a rejection on it is an answer."""
    late = entry(report(progress=1.0))
    ended = State(tenant="t", task_id="a", status=Status.COMPLETED, seq=9)
    decided = fold([late], {KEY: STATE}, {late: Found(state=ended, prior=None)})
    ((answered, answer),) = decided.answers[KEY]
    assert answered is late
    assert isinstance(answer, Rejection)
    assert answer.code == "task_ended"
    assert (decided.growth, decided.stale) == ({}, set())


def test_a_repeat_within_a_batch_finds_the_first() -> None:
    """By its number or its key; with other content the name is used up."""
    same = [entry(report(attempt=1, n=4, digest=MARK)) for _ in range(2)]
    changed = entry(report(attempt=1, n=4, digest=OTHER), OTHER)
    keyed = [entry(report(idem=OTHER, digest=MARK)) for _ in range(2)]
    found = {one: Found(state=STATE, prior=None) for one in [*same, changed, *keyed]}
    decided = fold([*same, changed, *keyed], {}, found)
    assert [change.step.seq for _, change in decided.growth[KEY].changes] == [6, 7]
    answers = [answer for _, answer in decided.answers[KEY]]
    repeat, reused, again = answers
    assert isinstance(repeat, Receipt)
    assert (repeat.seq, repeat.repeat) == (6, True)
    assert isinstance(reused, Rejection)
    assert reused.code == "key_reused"
    assert isinstance(again, Receipt)
    assert (again.seq, again.repeat) == (7, True)


def test_a_request_found_after_a_lost_answer_is_no_repeat() -> None:
    """Its sender is told what it would have been told, with the cancel request that is open now."""
    cancel = Cancel(stage=CancelStage.RECORDED, seq=6, reason="why")
    now = State(tenant="t", task_id="a", status=Status.CANCELLING, seq=6, cancel=cancel)
    prior = Prior(seq=5, status=Status.RUNNING, attempt=0, digest=MARK)
    lost = entry(report(), sent_seq=5)
    ((_, answer),) = fold([lost], {}, {lost: Found(state=now, prior=prior)}).answers[KEY]
    assert answer == Receipt(task_id="a", seq=5, status=Status.RUNNING, attempt=0, repeat=False, cancel=cancel)


def test_a_cancel_found_after_a_lost_answer_tells_its_stage() -> None:
    """An answer to a cancel always holds the request."""
    cancel = Cancel(stage=CancelStage.HONOURED, seq=5, reason="why")
    now = State(tenant="t", task_id="a", status=Status.CANCELLED, seq=6, cancel=cancel)
    prior = Prior(seq=5, status=Status.CANCELLING, attempt=0, digest=MARK)
    lost = entry(CancelRequest(tenant="t", task_id="a", reason="why"), sent_seq=5)
    ((_, answer),) = fold([lost], {}, {lost: Found(state=now, prior=prior)}).answers[KEY]
    assert answer == Receipt(task_id="a", seq=5, status=Status.CANCELLING, attempt=0, repeat=False, cancel=cancel)


def test_the_same_content_under_another_name_is_not_ones_own() -> None:
    """A named request is found by its name alone: what stands at its place may only look like it."""
    lost = entry(report(attempt=1, n=4, digest=MARK), sent_seq=6)
    moved_on = State(tenant="t", task_id="a", status=Status.RUNNING, seq=6, attempt=1, n=3)
    decided = fold([lost], {}, {lost: Found(state=moved_on, prior=None)})
    assert [change.step.seq for _, change in decided.growth[KEY].changes] == [7]


def test_the_arrays_of_a_read_say_what_to_look_for() -> None:
    """The number within an attempt, the key, or the mark at a place: an element per request, in their order."""
    asked = [
        entry(report(attempt=2, n=7, digest=MARK)),
        entry(report(attempt="new", idem=OTHER, digest=MARK)),
        entry(Create(tenant="t", task_id="b", idem=OTHER, digest=MARK)),
        entry(report(), OTHER, sent_seq=9),
    ]
    b = task_key("t", "b")
    assert heads_arguments(asked) == [
        [0, 1, 2, 3],
        [KEY, KEY, b, KEY],
        [2, None, None, None],
        [7, None, None, None],
        [None, OTHER, OTHER, None],
        [None, None, None, 9],
        [MARK, MARK, MARK, OTHER],
    ]


def test_the_arrays_of_an_append_are_in_the_order_of_the_keys() -> None:
    """20 with an element per task, 15 with one per transition: two batches lock the same rows in the same order."""
    ids = ["a", "b", "c", "d"]
    asked = [entry(Report(tenant="t", task_id=task_id, data=b"1")) for task_id in ids for _ in range(2)]
    decided = fold(asked, {}, {one: Found(state=None, prior=None) for one in asked})
    arrays = append_arguments(decided.growth)
    assert [len(array) for array in arrays] == [4] * 20 + [8] * 15
    keys = sorted(task_key("t", task_id) for task_id in ids)
    assert arrays[0] == keys
    assert arrays[1] == [0] * 4
    assert arrays[20] == [key for key in keys for _ in range(2)]
    assert arrays[21] == [1, 2] * 4
    assert arrays[28] == ["1"] * 8


def test_readers_are_told_the_transitions_with_the_time_of_the_commit() -> None:
    """The same members as the step, under the task's names."""
    own = entry(report(progress=4.0, stage="s", message="m", data=b"1", result=b"2", error=b"3", attempt=2))
    asked = entry(CancelRequest(tenant="t", task_id="a", reason="why"))
    growth = fold([own, asked], {KEY: STATE}, {}).growth[KEY]
    one, two = transitions_of(KEY, growth, NOW)
    assert (one.key, one.task_id, one.seq, one.at) == (KEY, "a", 6, NOW)
    assert (one.status, one.attempt, one.progress, one.stage, one.message) == (Status.RUNNING, 2, 4.0, "s", "m")
    assert (one.data, one.result, one.error, one.cancel, one.reason) == (b"1", b"2", b"3", None, None)
    assert (two.seq, two.status, two.cancel, two.reason) == (7, Status.CANCELLING, CancelStage.RECORDED, "why")
