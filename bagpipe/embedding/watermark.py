"""Stores how far each trainer has written back: a fetch may be answered once every write-back it depends on is here.

Rows are read and written only by fetches and write-backs. A row is fetched when no cache holds it, so
its value is the one written back after the step of its last eviction, and nobody writes it between
that and the fetch. The planner knows that step (`fetch_after`) but not which trainer's message arrives
when; so each trainer writes back after every step, in order and even if nothing left its cache, and
its **watermark** is the last step it has written back. A fetch waits until every watermark has reached
its step. That is enough for any prefetch depth, and it cannot deadlock: a row used again at the next
step is never evicted, so a fetch for step p waits for steps up to p - 2 only, and finishing those
does not need it. (`tests/unit/oracle` simulates it; without the rule, stale rows are read.)
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bagpipe.errors import StorageError
from bagpipe.lowlevel import crash_points

_NONE = -(1 << 62)


class Watermarks:
    """Last step each trainer has written back to this shard, and the step whose snapshot is due, as they are stored.

    The memory (one number a trainer, and one) is the caller's, so that it can outlive the process: a
    server that is killed between two trainers' last write-backs before a snapshot must still hold
    back the first one's next. `Gate` decides what to store, and begins with what is stored here.
    """

    def __init__(self, memory: npt.NDArray[np.int64]) -> None:
        self._steps, self._due = memory[:-1], memory[-1:]

    def __repr__(self) -> str:
        return f"Watermarks({self.steps}, snapshot due: {self.snapshot_due})"

    @property
    def steps(self) -> Sequence[int]:
        """By rank."""
        found: list[int] = self._steps.tolist()
        return found

    @property
    def snapshot_due(self) -> int | None:
        """The step whose snapshot has to begin before anything later is applied."""
        due = int(self._due[0])
        return None if due == _NONE else due

    def reset(self, first_step: int) -> None:
        """Everything before `first_step` is in the tables already."""
        crash_points.passed("first marks")
        self._steps[:] = first_step - 1
        crash_points.passed("no snapshot due")
        self.store_due(None)

    def store_mark(self, rank: int, step: int) -> None:
        self._steps[rank] = step

    def store_due(self, step: int | None) -> None:
        self._due[0] = _NONE if step is None else step

    def check(self, first_step: int) -> None:
        """Whether an earlier process can have left this.

        Raises:
            StorageError: it cannot: a mark lies before the first step, or beyond a snapshot that has not begun.
        """
        due = self.snapshot_due
        if min(self.steps) < first_step - 1 or (due is not None and max(self.steps) > due):
            raise StorageError(f"{self!r}: expected marks from {first_step - 1} on, none beyond a snapshot that is due")
