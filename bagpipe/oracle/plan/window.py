"""The batches in view, in memory that grows to whatever the window turns out to need.

`window_kernels.py` gives the layout; this file owns the memory. Bytes: 4 for each row of the tables, and for each
distinct row of each batch in view 20 for its entry and 24 or more for its use list (12 for each user), rounded up to
powers of two.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Keys, Lengths
from bagpipe.errors import PlanError
from bagpipe.oracle.plan import window_kernels as kernels
from bagpipe.oracle.plan.window_kernels import Distinct, Int32s, Int64s, Rings

MAX_ENTRIES = 1 << 30
MAX_PLACES = 1 << 31
"""Of the ring of use lists: positions are int32."""


@dataclass(frozen=True, slots=True)
class Lookups:
    """One batch's lookups of a width group: rank r's are `keys_N[bounds[r]:bounds[r + 1]]`."""

    keys_N: Keys
    bounds: Int64s
    lengths: tuple[Lengths | None, ...]
    """Each rank's `lengths_BT`, None where every feature has exactly one lookup."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch that has been pushed and not yet planned. Its keys are in the entries."""

    step: int
    first_entry: int
    num_entries: int
    rows_of_rank: Int64s
    inverse_N: npt.NDArray[np.uint16] | Int32s
    bounds: Int64s
    lengths: tuple[Lengths | None, ...]


class Window:
    """Entries and use lists of the batches in view, and where each row of the tables was last seen."""

    def __init__(self, num_rows: int, world_size: int) -> None:
        self.num_rows, self.world_size = num_rows, world_size
        self.batches: deque[Pending] = deque()
        self.rings = Rings(
            last_seen=np.zeros(num_rows, np.int32),
            keys=np.zeros(1024, np.int64),
            lists=np.zeros(1024, np.int32),
            links=np.zeros(2048, np.int32),
            uses=np.zeros(4096, np.int32),
            local_indices=np.zeros(2048, np.int32),
        )
        self._entry_end = self._use_end = self._use_begin = 0
        self._use_bounds: deque[int] = deque()
        """Position in the ring of use lists after each batch in view."""
        self._distinct = self._distinct_of(0)

    @property
    def _first_living(self) -> int:
        return self.batches[0].first_entry if self.batches else self._entry_end

    @property
    def nbytes(self) -> int:
        return sum(ring.nbytes for ring in self.rings[1:]) + sum(batch.inverse_N.nbytes for batch in self.batches)

    def push(self, lookups: Lookups, step: int, check: Callable[[Int64s], None]) -> Int64s:
        """Bring a batch into view, or raise and leave the window as it was.

        Args:
            lookups: the batch.
            step: its step.
            check: is given the number of distinct rows of each trainer, and raises if they are too many.

        Returns:
            The number of distinct rows of each trainer.

        Raises:
            PlanError: a key is outside the group, or the view is larger than the planner can number.
        """
        keys = lookups.keys_N
        self._reserve_entries(keys.size)
        self._reserve_distinct(keys.size)
        narrow = np.diff(lookups.bounds).max(initial=0) <= 1 << 16
        inverse = np.empty(keys.size, np.uint16) if narrow else np.empty(keys.size, np.int32)
        distinct, rings = self._distinct, self.rings
        distinct.rows_end[:] = 0
        numbered = kernels.number_rows(keys, lookups.bounds, self._entry_end, rings, distinct, inverse)
        count = int(distinct.rows_end.max())
        try:
            if numbered < keys.size:
                raise PlanError(
                    f"step {step}: key {keys[numbered]} is outside [0, {self.num_rows}); the reader must check ids"
                )
            check(distinct.rows_of_rank)
            self._reserve_uses(count, int(distinct.rows_of_rank.sum()))
        except Exception:  # The window is as it was before, whatever was wrong with the batch.
            kernels.forget_rows(count, distinct, rings)
            raise
        self._use_end = kernels.enter_rows(self._entry_end, count, step, self._use_end, self.rings, distinct)
        self._use_bounds.append(self._use_end)
        rows_of_rank = distinct.rows_of_rank.copy()
        self.batches.append(
            Pending(step, self._entry_end, count, rows_of_rank, inverse, lookups.bounds, lookups.lengths)
        )
        self._entry_end += count
        return rows_of_rank

    def pop(self) -> None:
        """The oldest batch leaves the view; its places are free."""
        self.batches.popleft()
        self._use_begin = self._use_bounds.popleft()

    def resident(self) -> tuple[Keys, Int32s, Int32s]:
        """Keys, slots and owners of every row that is now in a cache."""
        total = self._entry_end - self._first_living
        keys, slots, ranks = np.empty(total, np.int64), np.empty(total, np.int32), np.empty(total, np.int32)
        count = kernels.resident_rows(self._first_living, self._entry_end, self.rings, keys, slots, ranks)
        return keys[:count], slots[:count], ranks[:count]

    def slots_in_use(self) -> list[list[int]]:
        """For each trainer, the slots of rows that are now in its cache. Slow: for checks."""
        used: list[list[int]] = [[] for _ in range(self.world_size)]
        for number in range(self._first_living, self._entry_end):
            use_list = self.rings.uses[self.rings.lists[number & (self.rings.lists.size - 1)] :]
            if use_list[kernels.OWNER] >= 0:
                pairs = use_list[kernels.FIRST :][: 2 * use_list[kernels.NUM_USERS]].reshape(-1, 2)
                for rank, slot in pairs.tolist():
                    used[rank].append(slot)
        return used

    def _reserve_distinct(self, lookups: int) -> None:
        if self._distinct.keys.size <= lookups:
            self._distinct = self._distinct_of(max(lookups, 1024) * 5 // 4)

    def _distinct_of(self, size: int) -> Distinct:
        by_row, by_rank = np.empty((5, size), np.int32), np.zeros((3, self.world_size), np.int64)
        return Distinct(np.empty(size, np.int64), *by_row, *by_rank)

    def _reserve_entries(self, count: int) -> None:
        need = self._entry_end - self._first_living + count
        if need <= self.rings.lists.size:
            return
        size = 1 << (need - 1).bit_length()
        if size > MAX_ENTRIES:
            raise PlanError(
                f"{need} distinct rows in view: the planner numbers at most {MAX_ENTRIES}; shorten the lookahead"
            )
        larger = self.rings._replace(keys=_touched(size, np.int64), lists=_touched(size), links=_touched(2 * size))
        kernels.enlarge_entries(self.rings, larger, self._first_living, self._entry_end)
        self.rings = larger

    def _reserve_uses(self, rows: int, uses: int) -> None:
        # A use list has at most five places beside its users, and at the ring's end one list's length may stay unused.
        longest = kernels.use_list_length(self.world_size)
        need = self._use_end - self._use_begin + 2 * uses + 5 * rows + longest
        if need <= self.rings.uses.size:
            return
        size = 1 << need.bit_length()
        if size > MAX_PLACES:
            raise PlanError(f"{need} places for the rows in view: at most {MAX_PLACES}; shorten the lookahead")
        larger = self.rings._replace(uses=_touched(size), local_indices=_touched(size // 2))
        firsts = np.array([batch.first_entry for batch in self.batches] + [self._entry_end], np.int64)
        bounds = np.empty_like(firsts)
        kernels.enlarge_uses(self.rings, larger, firsts, bounds)
        self.rings = larger
        self._use_begin, self._use_end = 0, int(bounds[-1])
        self._use_bounds = deque(bounds[1:].tolist())


def _touched(size: int, dtype: type[np.int32] | type[np.int64] = np.int32) -> npt.NDArray[Any]:
    """Memory whose pages are mapped already: otherwise a ring's first turn would cause page faults at every step."""
    ring = np.empty(size, dtype)
    ring.fill(0)
    return ring
