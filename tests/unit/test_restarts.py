"""When a worker process is started again."""

from __future__ import annotations

import random

from gateway.restarts import FIRST_SECONDS, MOST_SECONDS, START_TRIES, STEADY_SECONDS, Restarts


def test_each_quick_end_may_double_the_wait_up_to_a_bound(seed: int) -> None:
    """Full jitter: somewhere between nothing and a bound that doubles; never beyond the most."""
    dice = random.Random(seed)
    waits = [[restarts.delay_seconds(0.1) for _ in range(40)] for restarts in (Restarts(dice) for _ in range(200))]
    for n in range(40):
        bound = min(MOST_SECONDS, FIRST_SECONDS * 2**n)
        nth = [wait[n] for wait in waits]
        assert all(0 <= wait <= bound for wait in nth)
        assert max(nth) > bound * 0.9
        assert min(nth) < bound * 0.1


def test_a_long_life_makes_the_next_end_the_first() -> None:
    """What has run well is started again at once, and a start is hopeless only after several ends in a row."""
    restarts = Restarts()
    for _ in range(START_TRIES - 1):
        restarts.delay_seconds(1.0)
        assert not restarts.hopeless
    restarts.delay_seconds(1.0)
    assert restarts.hopeless
    assert restarts.delay_seconds(STEADY_SECONDS) <= FIRST_SECONDS
    assert not restarts.hopeless
