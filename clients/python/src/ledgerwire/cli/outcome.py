"""Exit statuses, by what became of the tasks; of several, the worst."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ledgerwire.errors import LedgerwireError, Refused, Rejected, UnknownTask
from ledgerwire.model import Status

COMPLETED: Final = 0
FAILED: Final = 1
CANCELLED: Final = 3
LOST: Final = 4
UNKNOWN: Final = 5
CANCEL_REFUSED: Final = 6
CANCEL_TOO_LATE: Final = 7
UNREACHABLE: Final = 69
FORBIDDEN: Final = 77
WRONG: Final = 78
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

EXPLAINED: Final = """\
The gateway is at --url or LEDGERWIRE_URL. The token is LEDGERWIRE_TOKEN or the
first line of --token-file; never an argument, which other users could see.

Exit status:
   0  completed; of report: committed; of cancel: cancelled
   1  failed; of report and cancel: rejected
   2  wrong usage
   3  cancelled
   4  lost: nothing was heard of its worker
   5  nobody has created or reported the task
   6  the cancel was refused, the work goes on
   7  the cancel came too late
  69  the gateway cannot be reached
  77  the token is not taken, or the address is no gateway's
  78  wrong setting
 130  interrupted; the tasks go on
Of several tasks, the worst: 5, 4, 1, 3, 0.
"""

_BY_STATUS: Final = {
    Status.COMPLETED: COMPLETED,
    Status.FAILED: FAILED,
    Status.CANCELLED: CANCELLED,
    Status.LOST: LOST,
}
_BEST_FIRST: Final = (COMPLETED, CANCELLED, FAILED, LOST, UNKNOWN)


def of_status(status: Status) -> int:
    """Of a task that has ended so."""
    return _BY_STATUS[status]


def of_error(error: LedgerwireError) -> int:
    """Of what the client has raised."""
    if isinstance(error, UnknownTask):
        return UNKNOWN
    if isinstance(error, Rejected):
        return FAILED
    return FORBIDDEN if isinstance(error, Refused) else UNREACHABLE


def worst(statuses: Iterable[int]) -> int:
    """Of several tasks."""
    return max(statuses, key=_BEST_FIRST.index)
