"""When a worker process that has ended is started again, and when there is no point in it. Pure: no clock, no process.

Full jitter, as for clients: the processes of many machines that fail for one reason, such as a database that is away,
do not come back in step.
"""

from __future__ import annotations

import random
from typing import Final

FIRST_SECONDS: Final = 0.5
MOST_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 30.0
"""A process that has lived for so long was well: its end is the first one again."""
START_TRIES: Final = 3
"""So many processes in a row that were never ready, while none ever was: what is wrong will not mend itself."""


class Restarts:
    """The ends of one place's processes."""

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random()  # noqa: S311 - spreads load, guards nothing
        self.failures = 0
        """Ends in a row, none of them after a long life."""

    def delay_seconds(self, lived_seconds: float) -> float:
        """A process has ended after so long: how long to wait before the next one."""
        self.failures = 1 if lived_seconds >= STEADY_SECONDS else self.failures + 1
        return self._dice.uniform(0.0, min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(self.failures - 1, 16)))

    @property
    def hopeless(self) -> bool:
        """Whether a start should be given up."""
        return self.failures >= START_TRIES
