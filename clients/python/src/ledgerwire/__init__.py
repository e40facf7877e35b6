"""Report, watch and cancel tasks through a Ledgerwire gateway; its docs/protocol.md is the contract.

`Worker` and `SyncWorker` report tasks; `watch`, `Watcher` show them; `cancel` asks for their end.
"""

from ledgerwire.errors import (
    CancelRequested,
    Closed,
    DeliveryTimeout,
    Fenced,
    LedgerwireError,
    QueueFull,
    Refused,
    Rejected,
    TaskEnded,
    UnknownTask,
    Unreachable,
)
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
from ledgerwire.task_store import TaskStore
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
    "TaskStore",
    "Timing",
    "Transition",
    "UnknownTask",
    "Unreachable",
    "Watcher",
    "Worker",
    "WorkerLiveness",
    "cancel",
    "watch",
]
