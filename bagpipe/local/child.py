"""Starts one role so that it cannot outlive its supervisor: `child.py SUPERVISOR_PID COMMAND...`.

The kernel is asked to kill this process when its parent dies (Linux), then the command takes its place. This file is
run by its path, so that it costs milliseconds and imports nothing of the library.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        # The supervisor died before the kernel knew whom to watch.
        sys.exit(int(signal.SIGKILL) + 128)
    try:
        os.getcwd()
    except FileNotFoundError:
        # It was removed since the run began. torch's mathematics library does not load then, and no role needs it.
        os.chdir("/")
    os.execvp(sys.argv[2], sys.argv[2:])
