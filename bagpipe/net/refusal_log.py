"""Logs what a socket refused, in a few lines however much that is: a flood of messages must not fill a disk."""

import logging
import time
from collections.abc import Callable

LOG_SECONDS = 5.0
"""One line at most in so many seconds."""
LONGEST_LINE = 300

log = logging.getLogger(__name__)


class RefusalLog:
    """Counts what was refused, `total` in all; a log line names the latest, and how many came before it since the last
    line.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._clock = clock
        self._unsaid = 0
        self._said: float | None = None

    def add(self, what: str) -> None:
        """Count one refusal; `what` may hold text of an unknown sender, so it is made printable and short."""
        self.total += 1
        now = self._clock()
        if self._said is not None and now - self._said < LOG_SECONDS:
            self._unsaid += 1
            return
        line = "".join(c if c.isprintable() else "?" for c in what[:LONGEST_LINE])
        more = f" (and {self._unsaid} more before it, {self.total} in all)" if self._unsaid else ""
        log.warning("%s%s", line, more)
        self._said, self._unsaid = now, 0
