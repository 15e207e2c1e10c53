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


class Watermarks:
    """Last step each trainer has written back to this shard.

    `steps` is memory given by the caller, so that it can outlive the process; `reset` starts it.
    """

    def __init__(self, steps: npt.NDArray[np.int64]) -> None:
        self.steps = steps

    def __repr__(self) -> str:
        return f"Watermarks({self.steps.tolist()})"

    def reset(self, first_step: int) -> None:
        """Everything before `first_step` is in the tables already."""
        self.steps[:] = first_step - 1

    def is_new(self, rank: int, step: int) -> bool:
        """False for a write-back that was applied before and is being sent again."""
        return step > int(self.steps[rank])

    def advance(self, rank: int, step: int) -> None:
        self.steps[rank] = step

    def reached(self, step: int) -> bool:
        """Whether every trainer's write-back of `step` is here."""
        return int(self.steps.min()) >= step
