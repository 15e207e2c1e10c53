"""Whether floats are worth packing on this link: tried, not guessed. Pure: it takes times and gives a choice.

Packing (`floatpacking.py`) saves a seventh of the bytes and costs some milliseconds of a step. Which of them counts
depends on link, processors and model together, so steps are timed with and without it, and what is faster stays. All
trainers of an attempt count the same steps, so they try at the same time; results do not depend on it at all.
"""

from statistics import median

from bagpipe.config import PackFloats

LATEST = 200
"""The first trial begins when caches are full, which takes a lookahead, but within so many steps."""
ORDER = (False, True, True, False)
"""With packing or without, block after block; what drifts slowly meanwhile cancels out."""
BLOCK = 12
"""Steps in a row."""
TRIAL = len(ORDER) * BLOCK
SETTLING = 3
"""Steps at the start of a block that do not count: the link still carries bytes of the block before."""
CLEARLY = 0.97
"""Packing must take this much of the time without it at most: times are noisy, and it takes processors from others."""
AGAIN = 2000
"""Steps until the next trial: links change."""


class Packing:
    """Used by one thread. `on` says how to send now.

    Args:
        lookahead: of the job; caches take as many steps to fill, and fetch more than later.
    """

    def __init__(self, setting: PackFloats, lookahead: int) -> None:
        self.on = setting == "always"
        self._auto = setting == "auto"
        self._tried = -min(lookahead, LATEST) - 1
        """Steps of the trial that have ended; before it, how many are missing."""
        self._times: dict[bool, list[float]] = {False: [], True: []}

    def __repr__(self) -> str:
        return f"Packing(on={self.on}, auto={self._auto}, tried={self._tried})"

    def step_took(self, seconds: float) -> str | None:
        """Count a step, from the end of the one before to its own; returns why, when a trial has ended."""
        if not self._auto:
            return None
        ended, self._tried = self._tried, self._tried + 1
        if 0 <= ended < TRIAL and ended % BLOCK >= SETTLING:
            self._times[ORDER[ended // BLOCK]].append(seconds)
        if self._tried == TRIAL:
            return self._choose()
        if self._tried == AGAIN:
            self._tried = 0
        if 0 <= self._tried < TRIAL:
            self.on = ORDER[self._tried // BLOCK]
        return None

    def _choose(self) -> str:
        without, packed = median(self._times[False]), median(self._times[True])
        self.on = packed < CLEARLY * without
        self._times = {False: [], True: []}
        return (
            f"packFloats auto: {'packed' if self.on else 'as they are'}; a step took {packed * 1000:.0f} ms "
            f"with floats packed, {without * 1000:.0f} ms without"
        )
