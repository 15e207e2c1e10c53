"""Writes the stack of every thread of a role into its log when its start takes too long, or when it crashes.

Every wait of the library has a deadline that names who is missing. This is for waits inside other code: a lock within a
library, an import that never returns. The stacks are written by a thread of the interpreter that needs no lock of
Python's, shortly before the deadline at which the other roles give this one up and it is ended.
"""

import faulthandler
import sys

SHARE = 0.9
"""Share of the time that a role has to start: the stacks must be in its log before it is ended."""

_seconds: float | None = None
"""Time for each part of the start; None: this process is not watched, or has started."""


def tell_of_crashes() -> None:
    """Have a fatal signal, as of a segmentation fault, leave every thread's stack in this process's log."""
    if (log := _log()) is not None:
        faulthandler.enable(file=log)


def watch_start(seconds: float) -> None:
    """Watch the start of this process, each part of which may take so long; see `start_goes_on` and `started`."""
    global _seconds  # noqa: PLW0603  # the interpreter has one such timer
    _seconds = seconds
    start_goes_on()


def start_goes_on() -> None:
    """A part of the start is done, and the next may take as long. Does nothing in a process that is not watched."""
    if _seconds is not None and (log := _log()) is not None:
        faulthandler.dump_traceback_later(SHARE * _seconds, file=log)


def started() -> None:
    """The start is over: from here on each wait has its own deadline. Does nothing in a process that is not watched."""
    global _seconds  # noqa: PLW0603  # as above
    if _seconds is not None:
        faulthandler.cancel_dump_traceback_later()
        _seconds = None


def _log() -> int | None:
    """The descriptor of standard error; None where that is closed, or no file, as within another program."""
    try:
        return None if sys.stderr is None else sys.stderr.fileno()
    except (OSError, ValueError):
        return None
