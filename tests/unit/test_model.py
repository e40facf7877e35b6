"""The words of the ledger: keys, fingerprints, the table of states, and a snapshot that goes on."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.machine import LEASED, NEXT, REPORTED, TERMINAL, CancelStage, Liveness, Move, Status, liveness_of
from ledger.model import TASK_ID, Cancel, Task, Transition, advance, fingerprint, task_key

THEN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
TASK = Task(
    key=f"{1:032x}", tenant="t", task_id="a", kind="import", owner="alice", status=Status.RUNNING, seq=3, attempt=1,
    progress=10.0, stage="reading", message=None, data=b"1", result=None, error=None, cancel=None, created_at=THEN,
    updated_at=THEN, deadline_at=None, beat_at=THEN, beat_age_ms=70_000, liveness=Liveness.LATE,
)  # fmt: skip


def transition(**members: Any) -> Transition:
    """The transition after `TASK`."""
    plain: dict[str, Any] = {
        "key": TASK.key, "task_id": "a", "seq": 4, "status": Status.RUNNING, "attempt": 1, "progress": 20.0,
        "stage": None, "message": "on", "data": None, "result": None, "error": None, "cancel": None, "reason": None,
        "at": NOW,
    }  # fmt: skip
    return Transition(**{**plain, **members})


def test_the_key_of_a_task_is_half_a_digest_of_both_names() -> None:
    """As SQL computes it; no tenant can come to another's task by choosing names."""
    assert task_key("default", "a") == hashlib.sha256(b"default\x1fa").hexdigest()[:32]
    names = [("a", "b"), ("ab", ""), ("a", "b "), ("b", "a"), ("", "ab")]
    assert len({task_key(tenant, task_id) for tenant, task_id in names}) == len(names)


def test_a_fingerprint_tells_contents_apart() -> None:
    """What is left out, null, empty and zero are four different things; so is where one part ends."""
    contents: list[tuple[object, ...]] = [
        (), (None,), ("",), (0,), (False,), ([None],), ("a", "b"), ("ab",), (["a"], "b"), (1.5,), ("1.5",),
    ]  # fmt: skip
    assert len({fingerprint(*parts) for parts in contents}) == len(contents)
    assert fingerprint("report", [None, "a"], 0.5) == fingerprint("report", [None, "a"], 0.5)


def test_the_table_leads_from_pending_to_four_ends() -> None:
    """Every status has its row, ends have an empty one, and every other can come to each end."""
    assert set(NEXT) == set(Status)
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.LOST} == TERMINAL
    for status, moves in NEXT.items():
        assert (status in TERMINAL) is (not moves)
        assert status in TERMINAL or set(moves.values()) >= TERMINAL - {Status.LOST}
    assert {NEXT[status][move] for status, move in REPORTED.items() if move in NEXT[status]} <= {
        Status.PENDING,
        Status.RUNNING,
    }
    assert Move.CANCEL not in NEXT[Status.CANCELLING]


def test_only_who_is_at_work_can_be_missed() -> None:
    """Running and cancelling are leased: their worker is live, late, or given up; nobody waits for one elsewhere."""
    assert {Status.RUNNING, Status.CANCELLING} == LEASED
    assert {status for status, moves in NEXT.items() if Status.LOST in moves.values()} == LEASED
    said = {status: (liveness_of(status), liveness_of(status, late=True)) for status in Status}
    at_work, nobody = (Liveness.LIVE, Liveness.LATE), (None, None)
    assert said.pop(Status.LOST) == (Liveness.LOST, Liveness.LOST)
    assert said == {status: at_work if status in LEASED else nobody for status in said}


@pytest.mark.parametrize("good", ["a", "0", "Z" * 128, "a.b_c:d-e"])
def test_a_task_id_is_safe_in_a_url_and_a_log(good: str) -> None:
    """1 to 128 characters, the first a letter or digit."""
    assert TASK_ID.fullmatch(good)


@pytest.mark.parametrize("bad", ["", "-a", ".", "a b", "a*", "a>", "ä", "a\n", "Z" * 129, "²"])
def test_any_other_task_id_does_not_match(bad: str) -> None:
    """No wildcard of a bus, no space, no line break, no letter outside ASCII."""
    assert not TASK_ID.fullmatch(bad)


def test_a_snapshot_takes_the_small_state_of_a_transition() -> None:
    """Also where that clears something; kind, owner and the beat are not a transition's to tell."""
    after = advance(TASK, transition())
    assert after == replace(
        TASK, seq=4, progress=20.0, stage=None, message="on", updated_at=NOW, beat_age_ms=0, liveness=Liveness.LIVE
    )


def test_a_snapshot_keeps_payloads_that_a_transition_does_not_bring() -> None:
    """What it brings replaces them, JSON null too."""
    assert advance(TASK, transition()).data == b"1"
    after = advance(TASK, transition(data=b"null", result=b"2", error=b'"x"'))
    assert (after.data, after.result, after.error) == (b"null", b"2", b'"x"')
    assert advance(after, transition(seq=5)).result == b"2"


def test_a_snapshot_follows_a_cancel_request() -> None:
    """Recorded begins one with its sequence and reason; later stages belong to it; others leave it alone."""
    recorded = advance(TASK, transition(status=Status.CANCELLING, cancel=CancelStage.RECORDED, reason="why"))
    assert recorded.cancel == Cancel(stage=CancelStage.RECORDED, seq=4, reason="why")
    told = advance(recorded, transition(seq=5, status=Status.CANCELLING, cancel=CancelStage.DELIVERED))
    assert told.cancel == Cancel(stage=CancelStage.DELIVERED, seq=4, reason="why")
    assert advance(told, transition(seq=6, status=Status.CANCELLING)).cancel == told.cancel
    refused = advance(told, transition(seq=6, cancel=CancelStage.REFUSED))
    again = advance(refused, transition(seq=7, status=Status.CANCELLING, cancel=CancelStage.RECORDED))
    assert again.cancel == Cancel(stage=CancelStage.RECORDED, seq=7, reason=None)


def test_a_stage_of_a_cancel_request_that_was_never_seen_is_left_out() -> None:
    """A snapshot does not invent a request from its answer."""
    assert advance(TASK, transition(cancel=CancelStage.REFUSED)).cancel is None


def test_what_a_client_asks_is_no_sign_of_the_worker() -> None:
    """A report makes a late worker live again, and a cancel request does not; a task that ended has nobody at work."""
    asked = advance(TASK, transition(status=Status.CANCELLING, cancel=CancelStage.RECORDED))
    assert (asked.beat_age_ms, asked.liveness) == (70_000, Liveness.LATE)
    told = advance(asked, transition(seq=5, status=Status.CANCELLING, cancel=CancelStage.DELIVERED))
    assert (told.beat_age_ms, told.liveness) == (0, Liveness.LIVE)
    again = advance(told, transition(seq=6, status=Status.CANCELLING, cancel=CancelStage.RECORDED))
    assert (again.beat_age_ms, again.liveness) == (0, Liveness.LIVE)
    nobody = replace(TASK, status=Status.PENDING, beat_at=None, beat_age_ms=None, liveness=None)
    tombstone = advance(nobody, transition(status=Status.CANCELLING, cancel=CancelStage.RECORDED))
    assert (tombstone.beat_age_ms, tombstone.liveness) == (None, None)
    ended = advance(told, transition(seq=6, status=Status.CANCELLED, cancel=CancelStage.FORCED))
    assert (ended.beat_age_ms, ended.liveness) == (None, None)
    assert ended.cancel == Cancel(stage=CancelStage.FORCED, seq=4, reason=None)
    lost = advance(TASK, transition(status=Status.LOST, error=b'{"code":"lost"}'))
    assert (lost.beat_age_ms, lost.liveness, lost.error) == (None, Liveness.LOST, b'{"code":"lost"}')
