"""Report, watch and cancel tasks through a Ledgerwire gateway; its docs/protocol.md is the contract.

`Worker` and `SyncWorker` report tasks; `watch`, `Watcher` and `SyncWatcher` show them, `history` lists them;
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
from ledgerwire.history import history
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
from ledgerwire.single import cancel, cancel_stages, watch
from ledgerwire.sync import SyncTask, SyncWorker
from ledgerwire.sync_watcher import SyncWatcher
from ledgerwire.task import Task
from ledgerwire.task_store import TaskStore
from ledgerwire.watcher import Watcher
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
    "SyncWatcher",
    "SyncWorker",
    "Task",
    "TaskEnded",
    "TaskStore",
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
