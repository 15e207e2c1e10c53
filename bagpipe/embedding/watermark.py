"""When may a fetch be answered? Once every write-back it depends on is here. Pure.

Rows are read and written only by fetches and write-backs. A row is fetched when no cache holds it, so
its value is the one written back after the step of its last eviction, and nobody writes it between
that and the fetch. The planner knows that step (`fetch_after`) but not which trainer's message arrives
when; so each trainer writes back after every step, in order and even if nothing left its cache, and
its **watermark** is the last step it has written back. A fetch waits until every watermark has reached
its step. That is enough for any prefetch depth, and it cannot deadlock: a row used again at the next
step is never evicted, so a fetch for step p waits for steps up to p - 2 only, and finishing those
does not need it. (`tests/unit/oracle` simulates it; without the rule, stale rows are read.)
"""

import numpy as np
import numpy.typing as npt

_NONE = -(1 << 62)


class Watermarks:
    """Last step each trainer has written back to this shard, and the step whose snapshot is due.

    The memory (one number a trainer, and one) is the caller's, so that it can outlive the process: a
    server that is killed between two trainers' last write-backs before a snapshot must still hold
    back the first one's next.
    """

    def __init__(self, memory: npt.NDArray[np.int64]) -> None:
        self.steps, self._due = memory[:-1], memory[-1:]

    def __repr__(self) -> str:
        return f"Watermarks({self.steps.tolist()})"

    def reset(self, first_step: int) -> None:
        """Everything before `first_step` is in the tables already."""
        self.steps[:] = first_step - 1
        self.snapshot_due = None

    @property
    def snapshot_due(self) -> int | None:
        """The step whose snapshot has to begin before anything later is applied."""
        due = int(self._due[0])
        return None if due == _NONE else due

    @snapshot_due.setter
    def snapshot_due(self, step: int | None) -> None:
        self._due[0] = _NONE if step is None else step

    def advance(self, rank: int, step: int) -> None:
        self.steps[rank] = step

    def reached(self, step: int) -> bool:
        """Whether every trainer's write-back of `step` is here."""
        return int(self.steps.min()) >= step
