"""Folding a batch: what may rest on a memory, what the arrays hold, and what a lost answer may not do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ledger.batch import Entry, Found, fold, transitions_of
from ledger.machine import CancelStage, Status
from ledger.model import (
    Cancel,
    CancelRequest,
    Create,
    Lapse,
    Prior,
    Receipt,
    Rejection,
    Report,
    Request,
    State,
    task_key,
)

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
    assert [(own, change.state.seq) for own, change in growth.changes] == [(first, 6), (second, 7)]
    assert growth.state.seq == 7


def test_every_other_answer_must_rest_on_a_read() -> None:
    """A repeat or a rejection decided on a memory sends the whole task to be read, with what was decided for it."""
    change, fenced = entry(report(progress=1.0)), entry(report(attempt=1, n=2, digest=OTHER), OTHER)
    behind = entry(report(progress=2.0))
    decided = fold([change, fenced, behind], {KEY: STATE}, {})
    assert (decided.stale, decided.growth, decided.answers) == ({KEY}, {}, {})


def test_what_needs_a_read_is_not_decided_without_one() -> None:
    """An unknown task, a request with a key, one whose answer was lost, and one that was decided wrongly without."""
    keyed = entry(report(idem=OTHER, digest=MARK))
    wrong = entry(report())
    wrong.must_read = True
    lapse = Lapse(tenant="t", task_id="a", seq=5, why="lease")
    for one in (report(), report(attempt=1, n=2, digest=MARK), CancelRequest(tenant="t", task_id="a"), lapse):
        assert fold([entry(one)], {}, {}).stale == {KEY}
    for made in (keyed, wrong, entry(report(), sent_seq=6)):
        assert fold([made], {KEY: STATE}, {}).stale == {KEY}


def test_what_is_likely_the_first_of_its_task_is_decided_without_a_read() -> None:
    """A create, and the first numbered report: the append finds out whether there is such a task already."""
    create = Create(tenant="t", task_id="a", idem=OTHER, digest=OTHER)
    for first in (create, report(attempt=1, n=1, digest=MARK)):
        growth = fold([entry(first)], {}, {}).growth[KEY]
        assert (growth.expected, growth.state.seq) == (0, 1)
        guessed = entry(first)
        guessed.must_read = True
        assert fold([guessed], {}, {}).stale == {KEY}
        known = fold([guessed], {}, {guessed: Found(state=STATE, prior=None)})
        assert (known.stale, KEY in known.growth or KEY in known.answers) == (set(), True)
    begun = fold([entry(create), entry(report(attempt=1, n=1, digest=MARK))], {}, {})
    assert [change.state.seq for _, change in begun.growth[KEY].changes] == [1, 2]


def test_a_first_report_that_cannot_be_is_read_after_all() -> None:
    """An attempt beyond reach may be within reach of what the ledger knows."""
    far = entry(report(attempt=2_000, n=1, digest=MARK))
    assert fold([far], {}, {}).stale == {KEY}
    near = State(tenant="t", task_id="a", status=Status.RUNNING, seq=5, attempt=1_500)
    assert fold([far], {}, {far: Found(state=near, prior=None)}).growth[KEY].expected == 5


def test_a_lapse_rests_on_the_task_as_it_stood() -> None:
    """It may be decided on a memory of that very state; another memory sends it to be read."""
    lapse = entry(Lapse(tenant="t", task_id="a", seq=5, why="lease"))
    growth = fold([lapse], {KEY: STATE}, {}).growth[KEY]
    assert (growth.expected, growth.state.status) == (5, Status.LOST)
    later = State(tenant="t", task_id="a", status=Status.RUNNING, seq=6)
    assert fold([lapse], {KEY: later}, {}).stale == {KEY}
    ((_, answer),) = fold([lapse], {}, {lapse: Found(state=later, prior=None)}).answers[KEY]
    assert isinstance(answer, Rejection)
    assert answer.code == "superseded"
    both = fold([entry(report()), lapse], {}, {lapse: Found(state=STATE, prior=None)})
    assert both.stale == {KEY}


def test_progress_goes_the_short_way() -> None:
    """However much there is of it; all else needs the general statement."""
    assert fold([entry(report(progress=1.0))], {KEY: STATE}, {}).growth[KEY].plain
    assert fold([entry(report()), entry(report(data=b"1"))], {KEY: STATE}, {}).growth[KEY].plain
    assert not fold([entry(report(lease_ms=5_000))], {KEY: STATE}, {}).growth[KEY].plain
    assert (
        not fold([entry(report()), entry(report(lease_ms=5_000)), entry(report())], {KEY: STATE}, {}).growth[KEY].plain
    )


def test_data_in_force_is_in_the_last_transition_or_in_the_row() -> None:
    """Progress without data behind progress with data has the row take it in."""
    heads = {KEY: STATE}
    for said, plain, anchor in (
        (report(), True, STATE.anchor),
        (report(data=b"1"), True, STATE.anchor),
        (report(data=b"2"), True, STATE.anchor),
        (report(), False, STATE.seq + 4),
        (report(), True, STATE.seq + 4),
    ):
        growth = fold([entry(said)], heads, {}).growth[KEY]
        assert (growth.plain, growth.state.anchor) == (plain, anchor)
        heads[KEY] = growth.state


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
    assert [change.state.seq for _, change in decided.growth[KEY].changes] == [6, 7]
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
    assert [change.state.seq for _, change in decided.growth[KEY].changes] == [7]


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
