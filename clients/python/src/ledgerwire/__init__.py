"""Report, watch and cancel tasks through a Ledgerwire gateway; its docs/protocol.md is the contract.

`Worker` and `SyncWorker` report tasks; `watch`, `Watcher` show them, `history` lists them;
`cancel` and `cancel_stages` ask for their end.
"""

from ledgerwire.errors import (
    CancelRequested,
    Closed,
    DeliveryTimeout,
    Fenced,
    JournalError,
    LedgerwireError,
    QueueFull,
    Refused,
    Rejected,
    TaskEnded,
    Unauthenticated,
    UnknownTask,
    Unreachable,
)
from ledgerwire.history import cancel_stages, history
from ledgerwire.model import (
    KEEP,
    CancelRequest,
    CancelState,
    Change,
    Cursor,
    Jumped,
    Liveness,
    Receipt,
    Snapshot,
    Status,
    Transition,
    WorkerLiveness,
)
from ledgerwire.settings import Timing
from ledgerwire.sync import SyncTask, SyncWorker
from ledgerwire.task import Task
from ledgerwire.watcher import Watcher, cancel, watch
from ledgerwire.worker import Worker

__all__ = [
    "KEEP",
    "CancelRequest",
    "CancelRequested",
    "CancelState",
    "Change",
    "Closed",
    "Cursor",
    "DeliveryTimeout",
    "Fenced",
    "JournalError",
    "Jumped",
    "LedgerwireError",
    "Liveness",
    "QueueFull",
    "Receipt",
    "Refused",
    "Rejected",
    "Snapshot",
    "Status",
    "SyncTask",
    "SyncWorker",
    "Task",
    "TaskEnded",
    "Timing",
    "Transition",
    "Unauthenticated",
    "UnknownTask",
    "Unreachable",
    "Watcher",
    "Worker",
    "WorkerLiveness",
    "cancel",
    "cancel_stages",
    "history",
    "watch",
]
