"""Which examples of one's own data are for tests: the latest, or whole groups.

By file order nothing has to be decided here: the last examples are for tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.data.column_kernels import mix_codes
from bagpipe.data.column_values import Floats64, Mask, codes_of, kind_of, numbers_of, plain
from bagpipe.errors import DataError

Part = Literal["training", "test"]
_TO_UNIT = 2.0**-53


def train_size(num_examples: int, test_fraction: float) -> int:
    """floor(n * (1 - f)), exact for f as it is written."""
    return int(num_examples * (1 - Fraction(str(test_fraction))))


@dataclass(frozen=True, slots=True)
class Split:
    """A rule for each example by itself; by time, only once `first_test_time` is known."""

    by: Literal["time", "group"]
    column: str
    fraction: float
    first_test_time: float | None = None

    def is_test(self, table: pa.Table, file: str) -> Mask:
        """Which rows are for tests.

        Raises:
            DataError: the time of a row is missing or cannot be read.
        """
        cells = plain(table.column(self.column))
        if self.by == "time":
            assert self.first_test_time is not None
            return np.asarray(times_of(cells, self.column, file) >= self.first_test_time)
        codes, _ = codes_of(cells, kind_of(file, self.column, cells.type))
        mixed = np.empty_like(codes)
        mix_codes(codes, mixed)
        shares = (mixed >> np.uint64(11)).astype(np.float64) * _TO_UNIT
        return np.asarray(shares < self.fraction)

    def with_times(self, tables: Iterator[tuple[str, pa.Table]]) -> "Split":
        """The rule with its time, found by looking at every row's: 8 bytes of memory each.

        All rows of one time are on one side, so the test part may be larger than asked for.
        """
        if self.by == "group":
            return self
        found = [times_of(plain(table.column(self.column)), self.column, file) for file, table in tables]
        times = np.concatenate([np.zeros(0), *found])
        place = min(train_size(len(times), self.fraction), len(times) - 1)
        if place < 0:
            return self
        return replace(self, first_test_time=float(np.partition(times, place)[place]))


def times_of(cells: Any, column: str, file: str) -> Floats64:
    """Times as numbers that rise with them: numbers as they are, dates and ISO 8601 texts in microseconds.

    Raises:
        DataError: one is missing or cannot be read.
    """
    numbers, wrong = numbers_of(cells)
    if wrong.any() and pa.types.is_string(cells.type):
        try:
            moments = pc.cast(cells, pa.timestamp("us"))
            numbers, wrong = numbers_of(moments)
        except pa.ArrowInvalid:
            pass
    bad = wrong | np.isnan(numbers)
    if bad.any():
        shown = cells[int(np.flatnonzero(bad)[0])].as_py()
        raise DataError(
            f"{file}: column {column}: expected a time (a number, a date or ISO 8601), found {shown!r}; fix the row, "
            "or choose another column for data.columns.time"
        )
    return numbers
