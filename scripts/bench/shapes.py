"""The shapes of delivery: how many subscribers of how many tasks, and how it is published. Pure.

f1000     1,000 subscribers of one task, closed loop (saturation): published as long as fewer deliveries are under way
          than a window of messages has
t5000     5,000 tasks with a subscriber each, closed loop
  w500      behind either: the window, instead of the usual one
  r50       behind either: open loop instead, 50 a second, latency from the scheduled time
idle10000 connections that have subscribed to a task of their own, where nothing happens: memory
beat15000 the same for one interval of the keep-alive: CPU
accept2000 connections that are opened and nothing else
"""

from __future__ import annotations

import re
from typing import Final, Literal

from msgspec import Struct

GRAMMAR: Final = re.compile(r"(f|t|idle|beat|accept)([1-9]\d*)(?:([wr])([1-9]\d*))?", re.ASCII)
LONGEST_WINDOW: Final = 4_000
"""Below what one connection of a worker may have in flight."""


Kind = Literal["delivery", "idle", "beat", "accept"]
_KINDS: Final[dict[str, Kind]] = {"idle": "idle", "beat": "beat", "accept": "accept"}


class Shape(Struct, frozen=True, kw_only=True):
    """One shape. `window` or `rate` is set where something is published."""

    name: str
    kind: Kind
    subscribers: int
    channels: int
    window: int | None = None
    rate: int | None = None


def parse(name: str) -> Shape:
    """The shape of that name. Raises `ValueError`."""
    found = GRAMMAR.fullmatch(name)
    if found is None or (found[3] and found[1] not in "ft"):
        raise ValueError(f"{name!r} is no shape; for example f1000, t5000, f1000r50, t5000w500, idle10000, accept2000")
    kind, many = found[1], int(found[2])
    if kind not in {"f", "t"}:
        return Shape(name=name, kind=_KINDS[kind], subscribers=many, channels=many)
    number = int(found[4]) if found[4] else 0
    usual = min(many, LONGEST_WINDOW) if kind == "t" else max(16, min(64, 32_000 // many))
    return Shape(
        name=name,
        kind="delivery",
        subscribers=many,
        channels=1 if kind == "f" else many,
        window=None if found[3] == "r" else number or usual,
        rate=number if found[3] == "r" else None,
    )
