"""Which row each value of a table gets: counted over the training part, frequent values first.

Row 0 belongs to every value that was seen fewer than `min_count` times, or never, in the training
part. The others get rows 1, 2, ... by descending count, then by code; so the result depends on the
values alone, not on their order. The missing value is a value like any other. Memory is 16 bytes for
each distinct value, twice at most while counting.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.data import encode_kernels as kernels
from bagpipe.data.raw import Codes

Counts = npt.NDArray[np.int64]


class ValueCounter:
    """Exact counts of the values of one table, in one hash table that grows."""

    def __init__(self) -> None:
        self._codes: Codes = np.zeros(1024, np.uint64)
        self._counts: Counts = np.zeros(1024, np.int64)
        self._held = 0
        self._missing = 0

    def __repr__(self) -> str:
        return f"ValueCounter(distinct={self._held + (self._missing > 0)})"

    def add(self, codes_N: Codes) -> None:
        present = codes_N[codes_N != 0]
        self._missing += len(codes_N) - len(present)
        at = 0
        while True:
            limit = len(self._codes) * 5 // 8
            at, self._held = kernels.count_codes(present, at, self._codes, self._counts, self._held, limit)
            if at == len(present):
                return
            old_codes, old_counts = self._codes, self._counts
            self._codes, self._counts = (
                np.zeros(2 * len(old_codes), np.uint64),
                np.zeros(2 * len(old_codes), np.int64),
            )
            kernels.insert_counts(old_codes, old_counts, self._codes, self._counts)

    def result(self) -> tuple[Codes, Counts]:
        """Distinct values and their counts, by descending count, then by code."""
        used = self._codes != 0
        codes, counts = self._codes[used], self._counts[used]
        if self._missing:
            codes = np.append(codes, np.uint64(0))
            counts = np.append(counts, np.int64(self._missing))
        order = np.lexsort((codes, -counts))
        return codes[order], counts[order]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The values of one table that have a row of their own: `codes[i]` has row `first_row + i`.

    The rows before are for all other values, shared by hash.
    """

    codes: Codes
    counts: Counts
    first_row: int = 1

    @classmethod
    def of(cls, counter: ValueCounter, min_count: int, max_rows: int | None = None, first_row: int = 1) -> "Vocabulary":
        """`max_rows` caps the table, first rows included: the most frequent values keep theirs."""
        codes, counts = counter.result()
        kept = int(np.count_nonzero(counts >= min_count))
        if max_rows is not None:
            kept = min(kept, max(0, max_rows - first_row))
        return cls(codes[:kept], counts[:kept], first_row)

    @property
    def num_rows(self) -> int:
        return len(self.codes) + self.first_row


@dataclass(frozen=True, slots=True)
class LookupTables:
    """Several vocabularies as one hash table each, in shared arrays, for the compiled lookup."""

    firsts: Counts
    masks: Counts
    missing: Counts
    others: Counts
    """Rows for values without one of their own."""
    codes: Codes
    numbers: npt.NDArray[np.int32]

    @classmethod
    def of(cls, vocabularies: list[Vocabulary]) -> "LookupTables":
        sizes = [1 << max(3, (2 * v.num_rows).bit_length()) for v in vocabularies]
        firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, np.int64))])
        codes, numbers = (np.zeros(int(firsts[-1]), np.uint64), np.zeros(int(firsts[-1]), np.int32))
        missing = np.zeros(len(sizes), np.int64)
        for i, vocabulary in enumerate(vocabularies):
            rows = np.arange(vocabulary.first_row, vocabulary.num_rows, dtype=np.int32)
            present = vocabulary.codes != 0
            missing[i] = rows[~present].sum()
            kernels.fill_table(vocabulary.codes[present], rows[present], codes, numbers, firsts[i], sizes[i] - 1)
        others = np.array([v.first_row for v in vocabularies], np.int64)
        return cls(firsts[:-1], np.array(sizes, np.int64) - 1, missing, others, codes, numbers)
