"""Decides by measuring whether floats are worth packing on this link. Pure: it is given times and makes a choice.

Packing (`net/pack_floats.py`) saves a seventh of the bytes and costs some milliseconds of a step. Which of them counts
depends on link, processors and model together, so steps are timed with and without it, and what is faster stays. All
trainers of an attempt count the same steps, so they try at the same time; results do not depend on it at all.
"""

from statistics import median

from bagpipe.config.document import PackFloats

LATEST = 200
"""The first trial begins when caches are full, which takes as many steps as the lookahead, but at most so many."""
ORDER = (False, True, True, False) * 4
"""With packing or without, block after block. Neighbours make a pair: a machine that others slow down now and then
slows both, and which comes first alternates.
"""
BLOCK = 6
"""Steps in a row."""
TRIAL = len(ORDER) * BLOCK
SETTLING = 2
"""Steps at the start of a block that do not count: the link still carries bytes of the block before."""
CLEARLY = 0.97
"""Packing stays on if a step takes less than this fraction of its time without: times are noisy, and packing takes
processor time from others."""
AGAIN = 2000
"""Steps until the next trial: links change."""


class Packing:
    """Used by one thread. `on` says how to send now.

    Args:
        lookahead: of the job; caches take so many steps to fill, in which more is fetched than later.
    """

    def __init__(self, setting: PackFloats, lookahead: int) -> None:
        self.on = setting == "always"
        self._auto = setting == "auto"
        self._tried = -min(lookahead, LATEST) - 1
        """Steps of the trial that have ended; before it, how many are missing."""
        self._times: list[float] = []
        """Seconds of each step of the trial."""

    def __repr__(self) -> str:
        return f"Packing(on={self.on}, auto={self._auto}, tried={self._tried})"

    def step_took(self, seconds: float) -> str | None:
        """Count a step, from the end of the one before to its own; returns why, when a trial has ended."""
        if not self._auto:
            return None
        ended, self._tried = self._tried, self._tried + 1
        if 0 <= ended < TRIAL:
            self._times.append(seconds)
        if self._tried == TRIAL:
            return self._choose()
        if self._tried == AGAIN:
            self._tried = 0
        if 0 <= self._tried < TRIAL:
            self.on = ORDER[self._tried // BLOCK]
        return None

    def _choose(self) -> str:
        times, self._times = self._times, []
        block = [median(times[at + SETTLING : at + BLOCK]) for at in range(0, TRIAL, BLOCK)]
        ratios = [
            second / first if packed_second else first / second
            for first, second, packed_second in zip(block[::2], block[1::2], ORDER[1::2], strict=True)
        ]
        ratio = median(ratios)
        self.on = ratio < CLEARLY
        return (
            f"packFloats auto: {'packed' if self.on else 'as they are'}; with floats packed a step took {ratio:.2f} of "
            f"its time without ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} trials)"
        )
