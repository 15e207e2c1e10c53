"""The start and the end of a process: what Python leaves out for commands, and what it does that a role has no use for.

A process may be started with descriptors 0, 1 or 2 closed, or in a folder that has been removed, and may be told to
end at any moment.

torch and numba bring a million objects. Looking for garbage among them while they load, and destroying every one of
them at the end, was a third of the processor time of a short run.
"""

import fcntl
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from bagpipe.errors import ExitCode


class Ended(BaseException):
    """The process was told to end (SIGTERM, SIGHUP). It passes every `except Exception` and runs every `finally`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


def occupy_standard_descriptors() -> None:
    """Open `/dev/null` in place of each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file that is opened gets its number, and what a library prints there goes into that file.
    """
    for descriptor in range(3):
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(nowhere, True)


def current_folder() -> str | None:
    """The current folder; None: it has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise `Ended`, so that a command that is told to end leaves no draft behind.

    A second signal ends the process at once. A signal that is ignored stays ignored, as `nohup` wants it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        raise Ended(number)

    asked = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in asked if signal.getsignal(number) == signal.SIG_DFL}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    except (BrokenPipeError, ValueError):
        pass  # its reader is gone, or it was closed: nobody is left to tell
    except OSError as error:
        with suppress(OSError):
            print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        code = code or ExitCode.TRANSIENT
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.flush()
    os._exit(code)
