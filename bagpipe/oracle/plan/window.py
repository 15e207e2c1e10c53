"""The batches in view as rings of entries and uses, wide enough for whatever the window turns out to be.

`window_kernels.py` gives the layout; this file owns the memory. Bytes: 4 for each row of the tables, and for
each distinct row of each batch in view 20 for its entry and 24 or more for its record (8 a use),
rounded up to powers of two.
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

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lookups:
    """One batch's lookups of a width group: rank r's are `keys_N[bounds[r]:bounds[r + 1]]`."""

    keys_N: Keys
    bounds: Int64s
    lengths: tuple[Lengths | None, ...]
    """Each rank's `lengths_BT`, None where every feature has exactly one lookup."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """A batch's distinct rows, numbered and not yet entered. Views of scratch memory."""

    count: int
    sizes: Int64s
    inverse_N: npt.NDArray[np.uint16] | Int32s
    wrong: int | None
    """The first lookup whose key is outside the tables; nothing after it was numbered."""

    @property
    def rows_of_rank(self) -> Int64s:
        rows: Int64s = self.sizes[2]
        return rows


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
    """Entries and records of the batches in view, and where each row of the tables was last seen."""

    def __init__(self, num_rows: int, world_size: int) -> None:
        self.num_rows, self.world_size = num_rows, world_size
        self.batches: deque[Pending] = deque()
        self.tail: Int32s = np.zeros(num_rows, np.int32)
        self.records: Int32s = np.zeros(1024, np.int32)
        self.links: Int32s = np.zeros(2048, np.int32)
        self.entry_keys: Keys = np.zeros(1024, np.int64)
        self.uses: Int32s = np.zeros(4096, np.int32)
        self.locals: Int32s = np.zeros(2048, np.int32)
        self.entry_end = self._use_end = self._use_begin = 0
        self._use_bounds: deque[int] = deque()
        """Position in the ring of uses after each batch in view."""
        self._scratch: Int32s = np.empty((6, 0), np.int32)
        self._row_keys: Keys = np.empty(0, np.int64)

    @property
    def first_living(self) -> int:
        return self.batches[0].first_entry if self.batches else self.entry_end

    @property
    def nbytes(self) -> int:
        rings = (self.records, self.links, self.entry_keys, self.uses, self.locals)
        batches = sum(b.inverse_N.nbytes for b in self.batches)
        return sum(ring.nbytes for ring in rings) + batches

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
        self._reserve_entries(lookups.keys_N.size)
        self._reserve_scratch(lookups.keys_N.size)
        numbered = self._number(lookups)
        try:
            if numbered.wrong is not None:
                raise PlanError(
                    f"step {step}: key {lookups.keys_N[numbered.wrong]} is outside [0, {self.num_rows}); "
                    "the reader must check ids"
                )
            check(numbered.rows_of_rank)
            self._reserve_uses(numbered)
        except Exception:
            kernels.forget_rows(numbered.count, self._scratch[1], self._row_keys, self.tail)
            raise
        self._enter(numbered, lookups, step)
        return numbered.rows_of_rank

    def _number(self, lookups: Lookups) -> Numbered:
        """Find the distinct rows of a batch."""
        keys = lookups.keys_N
        narrow = np.diff(lookups.bounds).max(initial=0) <= 1 << 16
        inverse = np.empty(keys.size, np.uint16) if narrow else np.empty(keys.size, np.int32)
        latest, previous, first_local, more_rows, more_local, _ = self._scratch
        sizes = np.zeros((3, self.world_size), np.int64)
        end = kernels.number_rows(
            keys, lookups.bounds, self.num_rows, self.tail, self.entry_end, self.records.shape[0] - 1,
            inverse, latest, previous, self._row_keys, first_local, more_rows, more_local, sizes,
        )  # fmt: skip
        return Numbered(int(sizes[0].max(initial=0)), sizes, inverse, wrong=None if end == keys.size else end)

    def _enter(self, numbered: Numbered, lookups: Lookups, step: int) -> None:
        """Bring the numbered batch into view."""
        _, previous, first_local, more_rows, more_local, fill = self._scratch
        self._use_end += kernels.enter_rows(
            self.entry_end, numbered.count, step, self.records, self.links, self.entry_keys, self.uses, self.locals,
            self._use_end, previous, self._row_keys, first_local, more_rows, more_local, numbered.sizes, fill,
        )  # fmt: skip
        self._use_bounds.append(self._use_end)
        self.batches.append(
            Pending(
                step,
                self.entry_end,
                numbered.count,
                numbered.rows_of_rank,
                numbered.inverse_N,
                lookups.bounds,
                lookups.lengths,
            )
        )
        self.entry_end += numbered.count

    def pop(self) -> None:
        """The oldest batch leaves the view; its places are free."""
        self.batches.popleft()
        self._use_begin = self._use_bounds.popleft()

    def resident(self) -> tuple[Keys, Int32s, Int32s]:
        """Keys, slots and owners of every row that is now in a cache."""
        total = self.entry_end - self.first_living
        keys, slots, ranks = np.empty(total, np.int64), np.empty(total, np.int32), np.empty(total, np.int32)
        count = kernels.resident_rows(
            self.first_living, self.entry_end, self.records, self.entry_keys, self.uses, keys, slots, ranks
        )
        return keys[:count], slots[:count], ranks[:count]

    def slots_in_use(self) -> list[list[int]]:
        """For each trainer, the slots of rows that are now in its cache. Slow: for checks."""
        used: list[list[int]] = [[] for _ in range(self.world_size)]
        for number in range(self.first_living, self.entry_end):
            record = self.uses[self.records[number & (self.records.shape[0] - 1)] :]
            if record[kernels.HOLDER] >= 0:
                pairs = record[kernels.FIRST :][: 2 * record[kernels.NUMBER]].reshape(-1, 2)
                for rank, slot in pairs.tolist():
                    used[rank].append(slot)
        return used

    def _reserve_scratch(self, lookups: int) -> None:
        if self._row_keys.size <= lookups:
            size = max(lookups, 1024) * 5 // 4
            self._scratch, self._row_keys = np.empty((6, size), np.int32), np.empty(size, np.int64)

    def _reserve_entries(self, count: int) -> None:
        low, need = self.first_living, self.entry_end - self.first_living + count
        if need <= self.records.shape[0]:
            return
        size = 1 << (need - 1).bit_length()
        if size > 1 << 30:
            raise PlanError(f"{need} distinct rows in view: the planner numbers at most 2^30; shorten the lookahead")
        records, links, keys = _touched(size), _touched(2 * size), _touched(size, np.int64)
        kernels.grow_entries(
            self.records, self.links, self.entry_keys, low, self.entry_end, records, links, keys, self.tail
        )
        self.records, self.links, self.entry_keys = records, links, keys

    def _reserve_uses(self, numbered: Numbered) -> None:
        # A record has at most five places beside its uses, and one does not fit at the end of a turn.
        uses = int(numbered.rows_of_rank.sum())
        longest = kernels.record_length(self.world_size)
        need = self._use_end - self._use_begin + 2 * uses + 5 * numbered.count + longest
        if need <= self.uses.shape[0]:
            return
        size = 1 << need.bit_length()
        if size > 1 << 31:
            raise PlanError(f"{need} places for the rows in view: at most 2^31; shorten the lookahead")
        wide, wide_locals = _touched(size), _touched(size // 2)
        bounds = kernels.move_uses(
            np.array([b.first_entry for b in self.batches] + [self.entry_end], np.int64),
            self.records, self.links, self.uses, self.locals, wide, wide_locals,
        )  # fmt: skip
        self.uses, self.locals = wide, wide_locals
        self._use_begin, self._use_end = 0, int(bounds[-1])
        self._use_bounds = deque(bounds[1:].tolist())


def _touched(size: int, dtype: type[np.int32] | type[np.int64] = np.int32) -> npt.NDArray[Any]:
    """Memory whose pages exist: a ring's first turn would else meet a page fault at every step."""
    ring = np.empty(size, dtype)
    ring.fill(0)
    return ring
