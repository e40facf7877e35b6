"""The program of a worker process: asks the kernel to end it with its supervisor, then becomes `ledgerwire`.

Run by path, with the supervisor's pid as its first argument, so that the same code serves as in the supervisor whatever
the current folder holds. Nothing runs between fork and exec in the supervisor.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve; returns the exit status."""
    supervisor = int(sys.argv[1])
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != supervisor:  # it may have died before
        sys.exit("the supervisor is gone")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from gateway.__main__ import main as ledgerwire  # noqa: PLC0415 - where it is has just been said

    return ledgerwire(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
