"""The ledger's connections: three bounded lanes, so that one kind of work cannot starve another.

    write     appends; an error that leaves the outcome open is `OutcomeUnknown`
    read      snapshots, replay, history; an error is `Unavailable`, as nothing can have been written
    control   heartbeats, cancels, health: what must get through while the others are full

`failure` says what an error means, `dial` opens connections, `lane` hands them out, `pools` holds the three.
Never LISTEN on a lane, and never migrate on one: both need a connection of their own.
"""

from ledger.pool.dial import LaneConnection
from ledger.pool.failure import Failure, Verdict, classify
from ledger.pool.lane import Hold, Lane
from ledger.pool.pools import Pools, PoolsStatus, ServerState
from ledger.pool.status import LaneStatus

__all__ = [
    "Failure",
    "Hold",
    "Lane",
    "LaneConnection",
    "LaneStatus",
    "Pools",
    "PoolsStatus",
    "ServerState",
    "Verdict",
    "classify",
]
