"""Avoids work of Python's at the start and the end of a process that a role has no use for.

torch and numba bring a million objects. Looking for garbage among them while they load, and destroying every one of
them at the end, was a third of the processor time of a short run.
"""

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from bagpipe.errors import ExitCode


@contextmanager
def loading() -> Iterator[None]:
    """Around heavy imports: modules stay, so the garbage collector is off while they load, and ignores them later."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()


def leave(code: int) -> NoReturn:
    """End this process: flush what it printed and wait for its threads, but do not destroy its modules.

    As at any end of Python, threads that are not daemons are waited for. Functions registered with `atexit` are not
    called: none are ours, and code that writes a file closes it. If standard output cannot be written, exit code 0
    becomes that of a failed disk.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # its reader is gone, and nobody is left to tell
    except OSError as error:
        print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        code = code or ExitCode.TRANSIENT
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(code)
