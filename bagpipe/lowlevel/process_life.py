"""What Python does at either end of a process for its own sake, and a role has no use for.

torch and numba bring a million objects. Looking for garbage among them while they load, and taking every one of
them apart at the end, was a third of the processor time of a short run.
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
    """Around imports that are heavy: modules stay, so no garbage is looked for while they load, or among them later."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()


def leave(code: int) -> NoReturn:
    """End this process, with what it printed passed on and its threads ended, but without taking its modules apart.

    As at any end of Python, threads that are not daemons are waited for. Functions registered with `atexit` are not
    called: none are ours, and whoever writes a file closes it. Where standard output cannot take what was printed,
    a code that said success becomes that of a failed disk.
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
