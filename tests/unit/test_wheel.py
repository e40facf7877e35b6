"""The slots of the wheel: nobody is called early, nobody twice, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wheel import SLOT_SECONDS, Slots, Wheel


class Someone:
    """Who wants to be called."""

    due_slot: int | None = None

    def tick(self) -> None:
        raise AssertionError("the slots call nobody")


def test_each_is_due_at_its_time_and_once() -> None:
    """Never before it, and at most a slot behind it."""
    slots: Slots[Someone] = Slots(1.0)
    early, late = Someone(), Someone()
    slots.put(late, 20.5)
    slots.put(early, 10.0)
    assert slots.next_at == 10.0
    assert slots.due(9.99) == []
    assert slots.due(10.0) == [early]
    assert slots.next_at == 21.0
    assert slots.due(20.9) == []
    assert slots.due(21.0) == [late]
    assert slots.due(100.0) == []
    assert slots.next_at is None


def test_a_new_time_replaces_the_old_one() -> None:
    """Earlier or later."""
    slots: Slots[Someone] = Slots(1.0)
    one = Someone()
    for at in (10.0, 5.0, 7.0, 7.0):
        slots.put(one, at)
    assert slots.due(6.0) == []
    assert slots.due(7.0) == [one]
    assert slots.due(100.0) == []


def test_nobody_is_called_who_has_gone() -> None:
    """And nothing is kept of it; to go twice is no matter."""
    slots: Slots[Someone] = Slots(1.0)
    one = Someone()
    slots.put(one, 10.0)
    slots.remove(one)
    slots.remove(one)
    assert one.due_slot is None
    assert slots.next_at is None
    assert slots.due(100.0) == []


moves = st.tuples(st.integers(0, 4), st.floats(0, 3))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(moves, st.integers(0, 4), st.floats(0, 1)), max_size=60))
def test_whatever_is_put_comes_within_a_slot(steps: list[tuple[int, float] | int | float]) -> None:
    """Against a plain table of times, with removals and time that passes in between."""
    slots: Slots[Someone] = Slots()
    everyone = [Someone() for _ in range(5)]
    now = 100.0
    table: dict[int, float] = {}
    for step in [*steps, 10.0]:
        if isinstance(step, tuple):
            who, delay = step
            slots.put(everyone[who], now + delay)
            table[who] = now + delay
        elif isinstance(step, int):
            slots.remove(everyone[step])
            table.pop(step, None)
        else:
            now += step
            called = [everyone.index(one) for one in slots.due(now)]
            assert len(called) == len(set(called))
            assert all(table[who] <= now for who in called)
            for who in called:
                del table[who]
            assert all(at > now - SLOT_SECONDS for at in table.values())
    assert table == {}


class Rung:
    """Who is called, and puts itself back while there is a time left."""

    def __init__(self, wheel: Wheel, delays: list[float]) -> None:
        self.due_slot: int | None = None
        self._wheel = wheel
        self._delays = delays
        self.at = 0.0
        self.done = asyncio.Event()
        self.put()

    def put(self) -> None:
        self.at = time.monotonic() + self._delays.pop()
        self._wheel.put(self, self.at)

    def tick(self) -> None:
        assert time.monotonic() >= self.at
        if self._delays:
            self.put()
        else:
            self.done.set()
        raise RuntimeError("a fault of one is not a fault of others")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_all_are_called_whatever_one_does(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Also who is due at once or long since, on both event loops: the timer they share is never lost."""

    async def ring() -> None:
        wheel = Wheel()
        gone = Rung(wheel, [0.05])
        some = [Rung(wheel, [delay, 0.0, 0.01, -5.0]) for delay in (0.0, 0.04, 0.0, -1.0)]
        wheel.remove(gone)
        async with asyncio.timeout(10):
            for one in some:
                await one.done.wait()
        assert not gone.done.is_set()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ring())
