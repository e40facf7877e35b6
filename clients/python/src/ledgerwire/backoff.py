"""Full jitter: delays drawn evenly between a floor and a bound that doubles. Pure; the caller brings dice."""

from __future__ import annotations

import random
from dataclasses import dataclass

_DOUBLINGS_MAX = 32


@dataclass(frozen=True, slots=True)
class FullJitter:
    """Delays between `floor_seconds` and `ceiling_seconds`."""

    floor_seconds: float
    ceiling_seconds: float

    def delay(self, failures: int, dice: random.Random) -> float:
        """Seconds to wait after `failures` (1, 2, 3 …) in a row: from the floor to floor x 2^failures."""
        bound = self.floor_seconds * float(2 ** min(failures, _DOUBLINGS_MAX))
        return dice.uniform(self.floor_seconds, max(self.floor_seconds, min(self.ceiling_seconds, bound)))
