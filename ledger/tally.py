"""What the writer has done since the start of the process, in figures. Pure; counted once per batch.

The figures only grow. They are read by whoever shows them (`gateway.metrics`), at its own time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final

COMMIT_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""From a server without fsync to the time at which a statement is given up."""
COMMIT_TRANSITIONS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""From nothing to wait for to a full batch."""


class Distribution:
    """How often a figure was at most so large: `counts[i]` of at most `bounds[i]`, the last one of more."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, figure: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, figure)] += 1
        self.sum += figure


class Tally:
    """One for all shards of a writer."""

    def __init__(self) -> None:
        self.commit_seconds = Distribution(COMMIT_SECONDS)
        """Statements that append, from sending to the answer."""
        self.commit_transitions = Distribution(COMMIT_TRANSITIONS)
        """The transitions of each."""
        self.refused: Counter[str] = Counter()
        """Requests that had no effect, by the code of their answer."""
