"""Time as a port: whoever asks something outside again and again is handed a clock, and a test hands in its own.

Waiting for something of this process is done on the thing itself (an event, a socket, a child); this is for what has
nothing to wait on, an API server or a machine of a cloud that must be asked.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What can tell the time and let it pass."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""

    def pause(self, seconds: float) -> None:
        """Let so many seconds pass. A signal whose handler raises ends it."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
