"""What a shard remembers of tasks: never more than it may, and nothing of another copy of the ledger."""

from __future__ import annotations

import pytest

from ledger.epoch import History
from ledger.heads import Heads
from ledger.machine import Status
from ledger.model import State


def state(task_id: str, seq: int = 3, status: Status = Status.RUNNING) -> State:
    """A task that has come so far."""
    return State(tenant="t", task_id=task_id, status=status, seq=seq)


@pytest.fixture
def history() -> History:
    """In the epoch `e`."""
    history = History()
    history.note("e", "")
    return history


def test_an_ended_task_is_forgotten(history: History) -> None:
    """Nothing follows it."""
    heads = Heads(history)
    heads.remember("a", state("a"))
    heads.remember("a", state("a", 4, Status.COMPLETED))
    heads.remember("b", state("b", 4, Status.COMPLETED))
    assert not heads.states


def test_the_least_used_makes_room(history: History) -> None:
    """At the bound."""
    heads = Heads(history, most=2)
    for task in ("a", "b", "a", "c"):
        heads.remember(task, state(task))
    assert list(heads.states) == ["a", "c"]


def test_another_copy_of_the_ledger_is_known_nothing_of(history: History) -> None:
    """And what it should have is expected of it: a task that comes less far has lost commits."""
    heads = Heads(history)
    heads.answered("one", "e")
    heads.remember("a", state("a", 7))
    heads.answered("one", "e")
    assert heads.states
    heads.answered("other", "e")
    assert not heads.states
    assert history.lost("a", 6) is not None


def test_who_was_overtaken_is_read(history: History) -> None:
    """Unless it has come as far itself."""
    heads = Heads(history)
    heads.remember("a", state("a", 7))
    heads.overtaken("a", 7)
    heads.overtaken("b", 7)
    assert heads.states
    heads.overtaken("a", 8)
    assert not heads.states


def test_who_is_dropped_must_have_come_as_far(history: History) -> None:
    """What was remembered is expected of the next read; of others nothing is."""
    heads = Heads(history)
    for task in ("a", "b"):
        heads.remember(task, state(task, 7))
    heads.drop(["a", "unheard of"])
    assert list(heads.states) == ["b"]
    assert history.lost("unheard of", 0) is None
    assert history.lost("b", 6) is None
    assert history.lost("a", 6) is not None
