"""What a client was shown, compared with the ledger: each transition once and in order, or a jump told in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]


@dataclass
class Shown:
    """One client's view of one task."""

    ledger: Sequence[Event]
    """The transitions of the task, from the first."""
    position: int = 0
    """The newest sequence that was shown."""
    began: bool = False
    """Whether this run of the program was shown anything."""
    kinds: list[str] = field(default_factory=list)

    def begin_anew(self) -> None:
        """Another run of the program: it may be shown again what the run before had not kept."""
        self.began = False

    def show(self, event: Event) -> None:
        """The next event. Raises AssertionError for a hole, a repeat or a state that the ledger does not have."""
        kind, seq = event["change"], event["seq"]
        self.kinds.append(kind)
        where = f"{event} after {self.position} ({self.kinds[-6:]})"
        if kind == "liveness":
            return
        assert 1 <= seq <= len(self.ledger), where
        row = self.ledger[seq - 1]
        assert (event["status"], event["progress"]) == (row["status"], row["progress"]), where
        if kind == "transition":
            assert seq == self.position + 1 or (not self.began and seq <= self.position), where
        elif kind == "jumped":
            origin = event["from"]
            assert event["reason"], where
            assert origin is None or not self.began or origin["seq"] == self.position, where
        elif kind == "known":
            assert not self.began, where
        else:
            assert kind == "snapshot", where
            assert not self.began or seq == self.position + 1, where
        self.position, self.began = seq, True

    @property
    def at_the_end(self) -> bool:
        """Whether the last of the ledger was shown."""
        return self.position == len(self.ledger)


def assert_stream(told: Sequence[Event], ledger: Sequence[Event], runs: Sequence[int] = ()) -> Shown:
    """All that one client told of the task of this ledger; `runs`: how many events there were when a new run began."""
    shown = Shown(ledger)
    for at, event in enumerate(told):
        if at in runs:
            shown.begin_anew()
        if event.get("change"):
            try:
                shown.show(event)
            except AssertionError as error:
                raise AssertionError(f"{error}; it was told {told[max(0, at - 12) : at + 1]}") from None
    assert shown.at_the_end, f"the stream ends at {shown.position} of {len(ledger)}: {told[-8:]}"
    return shown
