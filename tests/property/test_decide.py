"""The one decision of the ledger, against its table, against the document, and against its own transitions."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from ledger.batch import Entry, Growth, transitions_of
from ledger.decide import decide
from ledger.machine import NEXT, TERMINAL, CancelStage, Move, Status
from ledger.model import (
    Cancel,
    CancelRequest,
    Change,
    Create,
    Lapse,
    Prior,
    Receipt,
    Rejection,
    Report,
    Request,
    State,
    Task,
    advance,
    task_key,
)
from ledger.receipts import receipt
from tests.property import document_model
from tests.property.conversation import Conversation
from tests.property.document_model import Accepted, PaperTask, Refused, in_paper_words
from tests.property.requests_of_all_shapes import REPORTED, TASK, TENANT, aimed, key, named, requests

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS: Final = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# What a worker's words ask for, in the words of the state machine.
MOVES: Final[dict[str, Move]] = {
    "nothing": Move.RUN,
    "pending": Move.WAIT,
    "running": Move.RUN,
    "completed": Move.COMPLETE,
    "failed": Move.FAIL,
    "cancelled": Move.STOP,
    "delivered": Move.DELIVER,
    "refused": Move.REFUSE,
}


def states() -> Iterator[State]:
    """A task in every status, with every cancel request that can go with it, held by attempt 2 at n=3."""
    unanswered = (CancelStage.RECORDED, CancelStage.DELIVERED)
    possible: dict[Status, tuple[CancelStage | None, ...]] = {
        Status.PENDING: (None,),
        Status.RUNNING: (None, CancelStage.REFUSED),
        Status.CANCELLING: unanswered,
        Status.COMPLETED: (None, CancelStage.REFUSED, CancelStage.TOO_LATE),
        Status.FAILED: (None, CancelStage.REFUSED, CancelStage.TOO_LATE),
        Status.CANCELLED: (None, CancelStage.REFUSED, CancelStage.HONOURED, CancelStage.FORCED),
        Status.LOST: (None, CancelStage.REFUSED, CancelStage.TOO_LATE),
    }
    for status in Status:
        for stage, created in itertools.product(possible[status], (False, True)):
            cancel = None if stage is None else Cancel(stage=stage, seq=4, reason="enough")
            yield State(
                tenant=TENANT,
                task_id=TASK,
                kind="import",
                created=created,
                status=status,
                seq=7,
                attempt=2,
                n=3,
                progress=40.0,
                stage="reading",
                message="half",
                data_seq=2,
                error_seq=6,
                cancel=cancel,
                anchor=6,
            )


def all_reports() -> Iterator[tuple[str, Report]]:
    """Every report by what it says, its attempt (lower, held, higher, new, none), its number and its members."""
    placed: list[tuple[int | str | None, int | None]] = [(None, None), ("new", None)]
    placed += [(attempt, n) for attempt in (1, 2, 3) for n in (None, 1, 3, 4)]
    members: list[dict[str, object]] = [
        {},
        {"progress": None, "stage": None, "message": None},
        {"progress": 55.0, "stage": "writing", "message": "more", "data": b"1", "result": b"2", "error": b"3"},
        {"kind": "export", "owner": "alice"},
        {"lease_ms": 5_000, "deadline_ms": 60_000},
    ]
    for says, (attempt, n), some in itertools.product(document_model.SAYS, placed, members):
        report = Report(
            tenant=TENANT,
            task_id=TASK,
            attempt=attempt,  # type: ignore[arg-type] # "new" is the only string above
            n=n,
            status=Status(says) if MOVES[says] not in {Move.DELIVER, Move.REFUSE} and says != "nothing" else None,
            cancel="delivered" if says == "delivered" else "refused" if says == "refused" else None,
            **some,  # type: ignore[arg-type] # by name
        )
        made = named(report)
        assert isinstance(made, Report)
        yield says, made


def other_requests() -> Iterator[Request]:
    """Every create, every cancel, and every lapse of the task as it stands, and as it stood."""
    digest = key("content")
    yield from (
        Create(tenant=TENANT, task_id=TASK, idem=digest, digest=digest, kind=kind, owner=owner, data=data)
        for kind, owner, data in itertools.product((None, "export"), (None, "alice"), (None, b"1"))
    )
    yield from (
        CancelRequest(tenant=TENANT, task_id=TASK, idem=idem, digest=idem, reason=reason)
        for idem, reason in itertools.product((None, digest), (None, "now"))
    )
    yield from lapses()


def lapses() -> Iterator[Lapse]:
    """Every lapse, of a task at 7 and of one at 6."""
    for seq in (6, 7):
        yield Lapse(tenant=TENANT, task_id=TASK, seq=seq, why="lease")
        yield Lapse(tenant=TENANT, task_id=TASK, seq=seq, why="deadline")
        yield Lapse(tenant=TENANT, task_id=TASK, seq=seq, why="cancel")


def test_every_report_in_every_status_follows_the_table() -> None:
    """An accepted report leads to NEXT[status][move] at the next sequence; a missing entry is an illegal move."""
    seen: Counter[str] = Counter()
    for state, (says, report) in itertools.product([None, *states()], all_reports()):
        status = Status.PENDING if state is None else state.status
        after = NEXT[status].get(MOVES[says])
        decision = decide(state, report, None)
        if isinstance(decision, Change):
            seen["accepted"] += 1
            assert decision.state.status is decision.state.status is after
            assert decision.state.seq == decision.state.seq == (0 if state is None else state.seq) + 1
        elif isinstance(decision, Rejection) and decision.code == "illegal_transition":
            seen["illegal"] += 1
            assert after is None
            assert status not in TERMINAL
        elif isinstance(decision, Rejection):
            seen[decision.code] += 1
            assert state is not None
            fenced = isinstance(report.attempt, int) and report.attempt < 2
            superseded = report.n is not None and report.attempt == 2 and report.n <= 3
            wanted = "fenced" if fenced else "task_ended" if status in TERMINAL else "superseded"
            assert decision.code == wanted
            assert superseded or wanted != "superseded"
        else:
            seen["heard twice"] += 1
            assert (says, report.n) == ("delivered", None)
            assert decision.repeat
    assert set(seen) == {"accepted", "illegal", "fenced", "task_ended", "superseded", "heard twice"}
    assert sum(seen.values()) == 37 * 8 * 14 * 5
    assert min(seen.values()) >= 16


def test_every_lapse_in_every_status_follows_the_table() -> None:
    """A lapse ends the task as it stood; a task that has moved on, or cannot end so, is left alone."""
    moves = {"lease": Move.LOSE, "deadline": Move.EXPIRE, "cancel": Move.FORCE}
    ended = 0
    for state, lapse in itertools.product([None, *states()], lapses()):
        after = None if state is None or lapse.seq != 7 else NEXT[state.status].get(moves[lapse.why])
        decision = decide(state, lapse, None)
        if after is None:
            assert isinstance(decision, Rejection)
            assert decision.code == "superseded"
            continue
        assert isinstance(decision, Change)
        assert state is not None
        stage = None
        if state.status is Status.CANCELLING:
            stage = CancelStage.FORCED if lapse.why == "cancel" else CancelStage.TOO_LATE
        error_seq = state.error_seq if lapse.why == "cancel" else 8
        cancel = state.cancel if stage is None or state.cancel is None else replace(state.cancel, stage=stage)
        assert decision.state == replace(state, status=after, seq=8, error_seq=error_seq, cancel=cancel, anchor=8)
        assert (decision.cancel, decision.reason, decision.data, decision.result) == (stage, None, None, None)
        assert (decision.error is None) is (lapse.why == "cancel")
        assert (decision.plain, decision.deadline_ms) == (False, None)
        ended += 1
    assert ended == 2 * ((2 + 2) + (1 + 2 + 2) + 2)


def test_what_goes_the_short_way_is_progress_and_no_more() -> None:
    """All that the narrow statement does not write is as before; the usual report goes this way."""
    short = 0
    for state, (says, report) in itertools.product(states(), all_reports()):
        change = decide(state, report, None)
        if not isinstance(change, Change):
            continue
        after = change.state
        assert after.anchor == (state.anchor if change.plain else after.seq)
        if change.plain:
            kept = {name: getattr(after, name) for name in ("seq", "n", "progress", "stage", "message", "data_seq")}
            assert after == replace(state, **kept)
            assert after.status is Status.RUNNING
            assert (change.result, change.error, change.cancel, change.reason) == (None,) * 4
            # The data in force is found in the last transition or in the task's row, and nowhere between.
            assert after.data_seq == after.seq or after.data_seq <= after.anchor
            assert (change.deadline_ms, report.idem, report.lease_ms) == (None,) * 3
            short += 1
        usual = says in {"nothing", "running"} and report.attempt in {None, 2} and report.result is None
        if usual and state.status is Status.RUNNING and report.owner is None and report.lease_ms is None:
            assert change.plain, report
    assert short >= 32


def test_a_terminal_state_never_changes() -> None:
    """Whatever is asked of an ended task: nothing is appended."""
    asked = [report for _, report in all_reports()] + list(other_requests())
    ended = [state for state in states() if state.status in TERMINAL]
    answers = Counter(type(decide(state, request, None)) for state, request in itertools.product(ended, asked))
    assert set(answers) == {Receipt, Rejection}
    assert sum(answers.values()) == len(ended) * len(asked) >= 8_000


def test_what_a_report_leaves_out_is_kept_and_null_clears() -> None:
    """UNSET keeps, None clears, a value replaces; a payload in force is the one of the transition that brought it."""
    checked = 0
    for state, (_, report) in itertools.product(states(), all_reports()):
        change = decide(state, report, None)
        if not isinstance(change, Change):
            continue
        after = change.state
        for member in ("progress", "stage", "message"):
            said = getattr(report, member)
            wanted = getattr(state, member) if said is UNSET else said
            assert getattr(after, member) == wanted
        for member in ("data", "result", "error"):
            said = getattr(report, member)
            assert getattr(after, f"{member}_seq") == (getattr(state, f"{member}_seq") if said is None else after.seq)
            assert getattr(change, member) == said
        assert after.kind == "import"  # it was named before
        assert after.owner == report.owner
        assert (after.created, after.tenant, after.task_id) == (state.created, TENANT, TASK)
        checked += 1
    assert checked >= 500


def test_a_higher_attempt_holds_the_task_and_a_number_grows_within_it() -> None:
    """The attempt never falls, `n` counts within it, and `new` is the next attempt."""
    holds = 0
    for state, (_, report) in itertools.product(states(), all_reports()):
        change = decide(state, report, None)
        if not isinstance(change, Change):
            continue
        after = change.state
        wanted = 3 if report.attempt == "new" else report.attempt or 2
        assert after.attempt == change.state.attempt == wanted
        assert (after.n > state.n) if report.n is not None and wanted == 2 else True
        kept = 3 if wanted == 2 else 0
        assert after.n == (kept if report.n is None else report.n)
        assert change.n == report.n
        holds += after.attempt > state.attempt
    assert holds >= 100


def test_a_repeat_gets_the_receipt_of_the_first() -> None:
    """Whatever has become of the task since: the sequence, status and attempt of then; never a second effect."""
    named_ones = [request for _, request in all_reports() if request.digest is not None]
    repeats = 0
    for state, request in itertools.product(states(), [*named_ones, *other_requests()]):
        digest = request.digest
        if digest is None:
            continue  # a cancel without a key cannot be found again
        prior = Prior(seq=4, status=Status.CANCELLING, attempt=1, digest=digest)
        again = decide(state, request, prior)
        assert isinstance(again, Receipt)
        assert (again.seq, again.status, again.attempt, again.repeat) == (4, Status.CANCELLING, 1, True)
        if isinstance(request, CancelRequest):
            assert again.cancel is not None
            assert again.cancel.seq == 4
        else:
            assert again.cancel == (state.cancel if state.status is Status.CANCELLING else None)
        other = decide(state, request, replace(prior, digest=key("other content")))
        assert isinstance(other, Rejection)
        assert other.code == "key_reused"
        repeats += 1
    assert repeats == 36 * (8 * 9 * 5 + 8 + 2)


def test_a_reused_number_and_a_reused_key_are_told_apart() -> None:
    """The sentence names the number where there is one, so that a worker finds its mistake."""
    prior = Prior(seq=1, status=Status.RUNNING, attempt=2, digest=key("other content"))
    numbered = named(Report(tenant=TENANT, task_id=TASK, attempt=2, n=3))
    keyed = named(Report(tenant=TENANT, task_id=TASK, idem=key("k1")))
    first, second = decide(None, numbered, prior), decide(None, keyed, prior)
    assert isinstance(first, Rejection)
    assert first.message == "Attempt 2 of task task-1 already used n=3 for another report."
    assert isinstance(second, Rejection)
    assert second.message == "This key was already used in task task-1 for another request."


def told_of(decision: Change | Receipt | Rejection) -> Accepted | Refused:
    """What the asker is told."""
    return in_paper_words(receipt(decision.state) if isinstance(decision, Change) else decision)


@SETTINGS
@given(st.lists(requests(), min_size=1, max_size=25))
def test_every_conversation_goes_as_the_document_says(asked: list[Request]) -> None:
    """Each answer, each transition and the state after it are those of a model made from docs/protocol.md."""
    talk, paper = Conversation(), PaperTask()
    for place, any_time in enumerate(asked):
        request = aimed(any_time, paper.seq)
        digest = request.digest or f"{place:032x}"
        assert told_of(talk.ask(request, digest)) == paper.happen(request, digest), request
        assert len(talk.changes) == paper.seq
    for change, happened in zip(talk.changes, paper.log, strict=True):
        for member in ("seq", "status", "attempt", "progress", "stage", "message"):
            assert getattr(change.state, member) == getattr(happened, member), member
        assert (change.data, change.result) == (happened.data, happened.result)
        if happened.error_code is None:
            assert change.error == happened.error
        else:
            assert json.loads(change.error or b"")["code"] == happened.error_code
        assert change.deadline_ms == happened.deadline_ms
        assert (change.cancel, change.reason) == (happened.cancel, happened.reason)
    if talk.state is not None:
        for member in (
            "kind",
            "owner",
            "created",
            "status",
            "seq",
            "attempt",
            "progress",
            "stage",
            "message",
            "lease_ms",
        ):
            assert getattr(talk.state, member) == getattr(paper, member), member
        assert talk.state.n == paper.last_n
        assert {name: getattr(talk.state, f"{name}_seq") for name in paper.payload_at} == paper.payload_at
        last = paper.cancels[-1] if paper.cancels else None
        assert talk.state.cancel == (last and Cancel(stage=CancelStage(last.stage), seq=last.seq, reason=last.reason))


@SETTINGS
@given(st.lists(requests(), min_size=1, max_size=25))
def test_a_snapshot_advanced_by_each_transition_is_the_state(asked: list[Request]) -> None:
    """Who follows a task by its transitions knows what the ledger knows; an open cancel goes with `cancelling`."""
    talk = Conversation()
    for place, request in enumerate(asked):
        talk.ask(aimed(request, len(talk.changes)), request.digest or f"{place:032x}")
    task = Task(
        key=task_key(TENANT, TASK), tenant=TENANT, task_id=TASK, kind=None, owner=None, status=Status.PENDING,
        seq=0, attempt=0, progress=None, stage=None, message=None, data=None, result=None, error=None, cancel=None,
        created_at=NOW, updated_at=NOW, deadline_at=None, beat_at=None, beat_age_ms=None, liveness=None,
    )  # fmt: skip
    payloads: dict[str, dict[int, bytes | None]] = {"data": {0: None}, "result": {0: None}, "error": {0: None}}
    for change in talk.changes:
        state = change.state
        (transition,) = transitions_of(task.key, Growth(state.seq - 1, Entry(task.key, _report(), ""), change), NOW)
        task = advance(task, transition)
        for member in ("status", "seq", "attempt", "progress", "stage", "message", "cancel"):
            assert getattr(task, member) == getattr(state, member), member
        for member, held in payloads.items():
            held[state.seq] = getattr(change, member)
            assert getattr(task, member) == held[getattr(state, f"{member}_seq")], member
        is_open = state.cancel is not None and state.cancel.stage in {CancelStage.RECORDED, CancelStage.DELIVERED}
        assert is_open is (state.status is Status.CANCELLING)


def _asked(*asked: Request) -> list[Accepted | Refused]:
    talk = Conversation()
    return [told_of(talk.ask(request, request.digest or f"{i:032x}")) for i, request in enumerate(asked)]


def _report(**members: object) -> Request:
    return named(Report(tenant=TENANT, task_id=TASK, **members))  # type: ignore[arg-type] # by name


def _create(content: str = "content", idem: str | None = None, **members: str) -> Create:
    digest = key(content)
    return Create(
        tenant=TENANT,
        task_id=TASK,
        idem=digest if idem is None else key(idem),
        digest=digest,
        **members,  # type: ignore[arg-type]
    )


def _cancel(reason: str | None = None, idem: str | None = None) -> Request:
    return named(CancelRequest(tenant=TENANT, task_id=TASK, idem=None if idem is None else key(idem), reason=reason))


def test_a_task_is_created_once() -> None:
    """The same content again is a repeat; other content, under the same key or another, is refused."""
    first, same, other, reused = _asked(_create(), _create(), _create("other"), _create("other", idem="k"))
    assert first == Accepted(seq=1, status="pending", attempt=0, repeat=False, cancel=None)
    assert same == Accepted(seq=1, status="pending", attempt=0, repeat=True, cancel=None)
    assert other == reused == Refused(code="task_exists")
    assert _asked(_create(idem="k"), _create("other", idem="k"))[1] == Refused(code="key_reused")


def test_a_create_after_the_first_report_keeps_what_the_report_named() -> None:
    """`kind` and `owner` are set once, by whoever names them first; the status stays."""
    talk = Conversation()
    talk.ask(_report(kind="import", progress=5.0), f"{1:032x}")
    change = talk.ask(_create(kind="export", owner="alice"), f"{2:032x}")
    assert isinstance(change, Change)
    assert (change.state.kind, change.state.owner, change.state.status) == ("import", "alice", Status.RUNNING)
    assert (change.state.created, change.state.progress, change.state.seq) == (True, 5.0, 2)


@pytest.mark.parametrize(
    ("answer", "stage", "status"),
    [
        ({"status": Status.CANCELLED}, "honoured", "cancelled"),
        ({"status": Status.COMPLETED}, "too_late", "completed"),
        ({"status": Status.FAILED}, "too_late", "failed"),
    ],
)
@pytest.mark.parametrize("delivered", [False, True])
def test_a_cancel_goes_through_its_stages_to_an_end(
    answer: dict[str, object], stage: str, status: str, delivered: bool
) -> None:
    """Recorded, perhaps delivered, then honoured or too late; asked again, the answer is the stage reached."""
    heard = [_report(cancel="delivered")] if delivered else []
    told = _asked(_report(), _cancel("why"), *heard, _report(progress=9.0), _report(**answer), _cancel(), _cancel())
    assert told[1] == Accepted(seq=2, status="cancelling", attempt=0, repeat=False, cancel=("recorded", 2, "why"))
    if delivered:
        assert told[2] == Accepted(seq=3, status="cancelling", attempt=0, repeat=False, cancel=("delivered", 2, "why"))
    progress, ended, again, once_more = told[-4:]
    assert isinstance(progress, Accepted)
    assert progress.status == "cancelling"
    assert ended == Accepted(seq=progress.seq + 1, status=status, attempt=0, repeat=False, cancel=None)
    assert (
        again
        == once_more
        == Accepted(seq=progress.seq + 1, status=status, attempt=0, repeat=True, cancel=(stage, 2, "why"))
    )


def test_a_refused_cancel_leaves_the_task_running_and_may_be_asked_again() -> None:
    """Each request has its own fate: the key of the first still finds `refused` while a second one is open."""
    told = _asked(_report(), _cancel("why", "k1"), _report(cancel="refused"), _cancel(None, "k2"), _cancel("why", "k1"))
    assert told[2] == Accepted(seq=3, status="running", attempt=0, repeat=False, cancel=None)
    assert told[3] == Accepted(seq=4, status="cancelling", attempt=0, repeat=False, cancel=("recorded", 4, None))
    assert told[4] == Accepted(seq=2, status="cancelling", attempt=0, repeat=True, cancel=("refused", 2, "why"))


def test_a_cancel_is_recorded_once() -> None:
    """Asked again, with a key or without, by the same client or another: the request that is open."""
    again = Accepted(seq=2, status="cancelling", attempt=0, repeat=True, cancel=("recorded", 2, "why"))
    told = _asked(_report(), _cancel("why", "k1"), _cancel(), _cancel("other", "k2"), _cancel("why", "k1"))
    assert told[1] == Accepted(seq=2, status="cancelling", attempt=0, repeat=False, cancel=("recorded", 2, "why"))
    assert told[2:] == [again, again, again]
    assert _asked(_cancel("why", "k1"), _cancel("other", "k1"))[1] == Refused(code="key_reused")


def test_a_cancel_of_an_ended_task_is_too_late() -> None:
    """Nothing changes, and the answer says so, however often it is asked; also after an earlier one was refused."""
    late = Accepted(seq=1, status="completed", attempt=0, repeat=True, cancel=("too_late", 1, None))
    end = _report(status=Status.COMPLETED)
    assert _asked(end, _cancel("why"), _cancel("why", "k"))[1:] == [late, late]
    told = _asked(_report(), _cancel("why"), _report(cancel="refused"), end, _cancel("again"))
    assert told[-1] == Accepted(seq=4, status="completed", attempt=0, repeat=True, cancel=("too_late", 4, None))


def test_a_cancel_before_its_task_is_kept() -> None:
    """A create that comes later ends at once as cancelled; a worker that begins without is told in its first reply."""
    kept, created, report = _asked(_cancel("why"), _create(), _report())
    assert kept == Accepted(seq=1, status="cancelling", attempt=0, repeat=False, cancel=("recorded", 1, "why"))
    assert created == Accepted(seq=2, status="cancelled", attempt=0, repeat=False, cancel=None)
    assert report == Refused(code="task_ended")
    _, begun, later = _asked(_cancel("why"), _report(progress=1.0), _create())
    assert begun == Accepted(seq=2, status="cancelling", attempt=0, repeat=False, cancel=("recorded", 1, "why"))
    assert later == Accepted(seq=3, status="cancelling", attempt=0, repeat=False, cancel=("recorded", 1, "why"))


def test_a_numbered_answer_to_a_cancel_keeps_its_place() -> None:
    """Heard of twice under two numbers: each gets its answer, and gets it again; without a number it is a repeat."""
    one, two = _report(attempt=1, n=1, cancel="delivered"), _report(attempt=1, n=2, cancel="delivered")
    three = _report(attempt=1, n=3, progress=1.0)
    told = _asked(_cancel(), one, two, three, two, _report(cancel="delivered"))
    assert [answer.seq for answer in told if isinstance(answer, Accepted)] == [1, 2, 3, 4, 3, 4]
    assert [answer.repeat for answer in told if isinstance(answer, Accepted)] == [
        False,
        False,
        False,
        False,
        True,
        True,
    ]


def test_a_worker_may_not_count_far_ahead() -> None:
    """A slip of the pen would use up the numbers of attempts; a thousand ahead is no slip yet."""
    far, near = _report(attempt=1_001), _report(attempt=1_000)
    assert _asked(far) == [Refused(code="bad_request")]
    assert _asked(near) == [Accepted(seq=1, status="running", attempt=1_000, repeat=False, cancel=None)]
    assert _asked(near, _report(attempt="new"), _report(attempt=2_001), _report(attempt=2_002))[1:] == [
        Accepted(seq=2, status="running", attempt=1_001, repeat=False, cancel=None),
        Accepted(seq=3, status="running", attempt=2_001, repeat=False, cancel=None),
        Accepted(seq=4, status="running", attempt=2_002, repeat=False, cancel=None),
    ]


def test_a_create_after_the_end_is_refused() -> None:
    """Nothing of it would be kept."""
    assert _asked(_report(status=Status.FAILED), _create())[1] == Refused(code="task_ended")


def test_every_reported_status_has_its_move() -> None:
    """`cancelling` and `lost` are not a worker's to report; everything else in the table can be reached by words."""
    assert {MOVES[status] for status in REPORTED} == {Move.WAIT, Move.RUN, Move.COMPLETE, Move.FAIL, Move.STOP}
    reachable = {*MOVES.values(), Move.CANCEL, Move.LOSE, Move.EXPIRE, Move.FORCE}
    assert reachable == {move for moves in NEXT.values() for move in moves} == set(Move)
