"""A clock that is passed in, so that tests can replace it: for code that polls something outside this process.

Code that waits for an event, a socket or a child waits on that itself. This is for an API server or a machine in a
cloud, which can only be asked again and again.
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
