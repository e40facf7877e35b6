"""Single decisions that the conversations of the property tests reach only by luck."""

from __future__ import annotations

import pytest

from ledger.decide import NUMBER_MOST, decide
from ledger.machine import CancelStage, Status
from ledger.model import CancelRequest, Change, Create, Lapse, Receipt, Rejection, Report, State

RUNNING = State(tenant="t", task_id="a", status=Status.RUNNING, seq=5, attempt=1, n=3)


@pytest.mark.parametrize("n", [NUMBER_MOST + 1, 2**63, 10**30])
def test_a_number_that_has_no_room_is_refused_by_itself(n: int) -> None:
    """In words, and before the database sees it: there it would cost all that is committed with it another try."""
    answer = decide(RUNNING, Report(tenant="t", task_id="a", attempt=1, n=n, digest=f"{1:032x}"), None)
    assert isinstance(answer, Rejection)
    assert answer.code == "bad_request"
    last = decide(RUNNING, Report(tenant="t", task_id="a", attempt=1, n=NUMBER_MOST, digest=f"{1:032x}"), None)
    assert isinstance(last, Change)


def test_a_create_after_a_forced_tombstone_is_told_that_the_task_is_cancelled() -> None:
    """The cancel came first and nobody else did; the answer is the same as before it was forced."""
    asked = decide(None, CancelRequest(tenant="t", task_id="a", reason="no longer"), None)
    assert isinstance(asked, Change)
    forced = decide(asked.state, Lapse(tenant="t", task_id="a", seq=1, why="cancel"), None)
    assert isinstance(forced, Change)
    late = decide(forced.state, Create(tenant="t", task_id="a", idem=f"{1:032x}", digest=f"{1:032x}"), None)
    assert isinstance(late, Receipt)
    assert (late.seq, late.status, late.repeat) == (2, Status.CANCELLED, True)
    assert forced.state.cancel is not None
    assert forced.state.cancel.stage is CancelStage.FORCED
