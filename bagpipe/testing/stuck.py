"""A deadline for a whole run: who takes longer is stuck, wherever it stands."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bagpipe.errors import BagpipeError


class Stuck(BagpipeError):
    """A run did not end."""


@contextmanager
def stuck_after(seconds: int) -> Iterator[None]:
    """What runs within has so many seconds; use it in the main thread, which alone hears a signal.

    Raises:
        Stuck: it took longer.
    """

    def stuck(number: int, frame: FrameType | None) -> None:
        raise Stuck(f"the run was stuck after {seconds} s")

    before = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
