"""What a node has done for its watchers since the start of the process. Plain numbers that only grow, added to once
per batch; `gateway.metrics` reads them.
"""

from __future__ import annotations


class Counts:
    """One per node; the hub has it."""

    def __init__(self) -> None:
        self.deliveries = 0
        """Transitions handed to watchers, once for each."""
        self.rereads = 0
        """Questions to the ledger how far the watched tasks have come."""
        self.fills = 0
        """Pages that the hub read because transitions were missing."""
        self.reads = 0
        """Reads for single sessions: snapshots and replays."""
        self.rewinds = 0
        """Subscriptions taken back to the ledger because their client was slower than their task."""
        self.cuts = 0
        """Connections cut because they took nothing at all."""
        self.sent_bytes = 0
        """Frames of connections that have ended; those of the others are with them."""
        self.epoch_changes = 0
