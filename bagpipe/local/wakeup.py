"""Waits for the end of a child or for a signal, whichever comes first.

The interpreter writes a byte into a socket for every signal that has a handler; SIGCHLD tells that a child has ended.
So a wait ends at once, even if the signal came just before it.
"""

import math
import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Self

DRAIN_BYTES = 4096


class Wakeup:
    """Use it in a `with`, from the main thread; at its end the former handlers are restored."""

    def __enter__(self) -> Self:
        self._reading, self._writing = socket.socketpair()
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self._child = signal.signal(signal.SIGCHLD, _nothing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGCHLD, self._child)
        signal.set_wakeup_fd(self._before)
        self._reading.close()
        self._writing.close()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until a signal has come since the last wait; False if none did in that time."""
        # Not `select.select`, which takes no descriptor from 1024 on: the program around a run may have as many files.
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        if not poll.poll(math.ceil(1000 * timeout_seconds)):
            return False
        self._reading.recv(DRAIN_BYTES)
        return True


def _nothing(number: int, frame: FrameType | None) -> None:
    """Does nothing, but the interpreter writes its byte only for signals that have a handler."""
