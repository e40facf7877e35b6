"""What every connection of a node works with. Made once, by `gateway.runtime`."""

from __future__ import annotations

from msgspec import Struct, field

from gateway.admission import Admission
from gateway.auth import Authenticator
from gateway.auth.tickets import TicketOffice
from gateway.hub import Hub
from gateway.limits.quotas import Quotas
from gateway.replay import Replays
from gateway.sending import Turn
from gateway.wheel import Wheel
from ledger.epoch import History
from ledger.leases import Beats
from ledger.reader import Reader
from ledger.writer import Writer


class Services(Struct, frozen=True, kw_only=True):
    """What a connection works with; one for all connections of a node."""

    hub: Hub
    writer: Writer
    reader: Reader
    replays: Replays
    beats: Beats
    authenticator: Authenticator
    tickets: TicketOffice
    admission: Admission
    quotas: Quotas
    history: History
    ping_interval_seconds: float
    max_connections: int
    turn: Turn = field(default_factory=Turn)
    wheel: Wheel = field(default_factory=Wheel)

    @property
    def epoch(self) -> str:
        """The identity of the ledger's history, as of the last answer of the ledger."""
        return self.history.epoch
