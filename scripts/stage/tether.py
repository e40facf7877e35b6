"""Run as a program: binds its life to its parent's, then becomes the command it was given.

`python tether.py PARENT_PID COMMAND…`. On Linux the kernel sends it SIGKILL when the parent dies, however it
dies; the binding survives exec. Elsewhere it only becomes the command. Nothing runs between fork and exec in
the parent, which may have threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Bind, make sure that the parent did not die before, and become the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):
        sys.exit("the parent is gone")
    os.execv(command[0], command)  # noqa: S606 - becoming another program is what this one is for


if __name__ == "__main__":
    main()
