"""Which examples are for training, validation and tests: by file order, by time, or by a hash of their group."""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import pyarrow as pa

from bagpipe.config.document import DataConfig
from bagpipe.config.parts import Shares, shares_of
from bagpipe.data.column_cells import group_cells
from bagpipe.data.column_kernels import mix_codes
from bagpipe.data.column_values import Floats64, Mask, Problems, is_text, moments_of, numbers_of, plain
from bagpipe.data.raw import Kind
from bagpipe.errors import DataError

Part = Literal["training", "validation", "test"]
Range = tuple[int, int]
_TO_UNIT = 2.0**-53
_SIGN = np.uint64(1 << 63)
STRETCH = 1 << 20
OUR_DAYS = (5e8, 2.5e9)
"""Seconds since 1970 between 1985 and 2049."""
UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
FAR = 0.05
"""Difference of shares from which it is told, if it is half of the share too."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Where the parts lie among the examples, each from its first example up to the one after its last."""

    train: Range
    validation: Range
    test: Range

    @classmethod
    def in_order(cls, num_examples: int, shares: Shares) -> "Ranges":
        """Training first, tests last, validation before them; each boundary is rounded down, exactly."""
        tests = int(num_examples * (1 - shares.test))
        validation = int(num_examples * (1 - shares.test - shares.validation))
        train = validation if shares.train is None else int(num_examples * shares.train)
        return cls((0, train), (validation, tests), (tests, num_examples))

    @classmethod
    def one_after_another(cls, train: int, validation: int, num_examples: int) -> "Ranges":
        """Data that was split while it was prepared."""
        tests = train + validation
        return cls((0, train), (train, tests), (tests, num_examples))


def check_parts(sizes: dict[Part, int], data: DataConfig) -> None:
    """Refuse a split that leaves a part empty.

    Raises:
        DataError: names the part; or there is no example at all, which no other split would change.
    """
    if not any(sizes.values()):
        raise DataError("data.path: no valid example in the data; check data.path and data.format")
    shares = shares_of(data)
    wanted: dict[Part, bool] = {
        "training": True, "validation": bool(shares.validation), "test": bool(shares.test)
    }  # fmt: skip
    empty = next((part for part, size in sizes.items() if wanted[part] and not size), None)
    if empty is not None:
        raise DataError(
            f"data.splitBy: {data.split_by} leaves the {empty} part empty ({_sizes(sizes)}); choose other shares in "
            "data.train, data.validation, data.test or data.testFraction, or another split"
        )


def far_from_asked(sizes: dict[Part, int], data: DataConfig) -> str | None:
    """One line if a part is far larger or smaller than its share; None: all are about as they were asked for.

    Whole groups, and all examples of one moment, lie on one side: with few of them, no boundary is near the share.
    """
    if data.split_by == "order":
        return None
    shares, total = shares_of(data), max(1, sum(sizes.values()))
    asked: dict[Part, float] = {"validation": float(shares.validation), "test": float(shares.test)}
    for part, share in asked.items():
        found = sizes[part] / total
        if share and abs(found - share) > max(FAR, share / 2):
            why = "all examples of one moment" if data.split_by == "time" else "whole groups"
            return (
                f"the {part} part is {found:.0%} of the examples where {share:.0%} are asked for ({_sizes(sizes)}), "
                f"because {why} lie on one side; split by something finer, or set splitBy: order"
            )
    return None


def _sizes(sizes: dict[Part, int]) -> str:
    return ", ".join(f"{size} examples for {part}" for part, size in sizes.items())


def sizes_of(ranges: Ranges) -> dict[Part, int]:
    """Examples of each part."""
    found: dict[Part, Range] = {"training": ranges.train, "validation": ranges.validation, "test": ranges.test}
    return {part: end - begin for part, (begin, end) in found.items()}


@dataclass(frozen=True, slots=True)
class Split:
    """A rule for each example by itself; by time, only once `times` are known."""

    by: Literal["time", "group"]
    column: str
    shares: Shares
    form: str = ""
    """How times are written in text, in the signs of strptime; empty: numbers or ISO 8601."""
    times: tuple[float, float, float] | None = None
    """Training ends before the first, validation begins at the second, tests begin at the third."""

    def chosen(self, table: pa.Table, kind: Kind | None, part: Part, problems: Problems) -> Mask:
        """Which rows belong to a part; those whose time or group cannot be read are told to `problems`.

        Args:
            kind: of the groups' codes, the same for all files; None: the split is by time.
        """
        if self.by == "time":
            assert self.times is not None
            times = self.times_in(table, problems)
            trained, validation, tests = self.times
            if part == "training":
                return np.asarray(times < trained)
            return np.asarray(times >= tests if part == "test" else (times >= validation) & (times < tests))
        assert kind is not None
        places, shares = self._places(table, kind, problems), self.shares
        tests_end, validation_end = float(shares.test), float(shares.test + shares.validation)
        if part == "training":
            return np.asarray(places >= max(validation_end, 1 - float(1 if shares.train is None else shares.train)))
        return np.asarray(places < tests_end if part == "test" else (places >= tests_end) & (places < validation_end))

    def _places(self, table: pa.Table, kind: Kind, problems: Problems) -> Floats64:
        """A number in [0, 1) for each row, the same for all rows of a group; NaN where `problems` has the row."""
        codes = group_cells(table, self.column, kind, problems).view(np.uint64)
        mixed = np.empty_like(codes)
        mix_codes(codes, mixed)
        return np.where(problems.bad, np.nan, (mixed >> np.uint64(11)).astype(np.float64) * _TO_UNIT)

    def with_times(self, blocks: Iterator[bytes], scratch: Path | None = None) -> "Split":
        """The rule with its times, found by looking at every row's: 8 bytes each, in a file.

        All rows of one time are on one side, so later parts may be larger than asked for.

        Args:
            blocks: the times of some rows each, as floats of 64 bits.
            scratch: a folder for that file, which has no name in it. None: the system's.

        Raises:
            DataError: the times are of several units, so that they have no order.
        """
        with cast("AbstractContextManager[IO[bytes]]", tempfile.TemporaryFile(dir=scratch)) as file:
            count = sum(file.write(block) for block in blocks) // np.dtype(np.float64).itemsize
            if not count:
                return self
            file.flush()
            ranges, times = Ranges.in_order(count, self.shares), np.memmap(file, np.float64, "r")
            self._check_units(times)
            trained, validation, tests = (
                nth_smallest(times, begin) if begin < count else np.inf
                for begin in (ranges.train[1], ranges.validation[0], ranges.test[0])
            )
        return replace(self, times=(trained, validation, tests))

    def _check_units(self, times: Floats64) -> None:
        """Every number is a time of our days in some unit: then it is the same unit for all of them.

        Raises:
            DataError: it is not.
        """
        seen: dict[str, float] = {}
        for at in range(0, len(times), STRETCH):
            stretch, told = np.asarray(times[at : at + STRETCH]), 0
            for unit, by in UNITS.items():
                inside = (stretch >= OUR_DAYS[0] * by) & (stretch <= OUR_DAYS[1] * by)
                told += int(np.count_nonzero(inside))
                if inside.any():
                    seen.setdefault(unit, float(stretch[int(np.argmax(inside))]))
            if told < len(stretch):
                return
        if len(seen) > 1:
            (first, one), (second, other) = list(seen.items())[:2]
            raise DataError(
                f"data.columns.time: {self.column}: times in {first} and in {second}, such as {one:.0f} and "
                f"{other:.0f} (dates count as microseconds), so that they have no order; write one unit in all rows"
            )

    def times_in(self, table: pa.Table, problems: Problems) -> Floats64:
        """The times of rows; NaN where it cannot be read."""
        cells = plain(table.column(self.column))
        times, bad, as_number = times_of(cells, self.form)
        if as_number.any():
            first = bool(as_number[~bad][0])
            other = ~bad & (as_number != first)
            problems.add(self.column, other, f"{'a number' if first else 'a date'}, as in the rows before", cells)
            times[other] = np.nan
        known = "a time (a number, a date, ISO 8601, or as columns.timeFormat says)"
        problems.add(self.column, bad, f"a time like {self.form}" if self.form else known, cells)
        return times


def split_of(data: DataConfig, times: tuple[float, float, float] | None = None) -> Split | None:
    """How own columns are split, with the times if they are known; None: by file order."""
    if data.columns is None or data.split_by == "order":
        return None
    column = getattr(data.columns, data.split_by)
    return Split(data.split_by, column, shares_of(data), data.columns.time_format, times)


def nth_smallest(numbers: Floats64, place: int) -> float:
    """The number at `place` (from 0) if they were sorted; memory holds a stretch of them. None is NaN.

    By digits of 16 bits, the highest first: how many numbers have which, among those that agree so far.
    """
    found = np.uint64(0)
    for shift in (48, 32, 16, 0):
        having = np.zeros(1 << 16, np.int64)
        for at in range(0, len(numbers), STRETCH):
            bits = np.ascontiguousarray(numbers[at : at + STRETCH]).view(np.uint64)
            # As integers that rise with the numbers: below 0, all bits are turned over, else the sign.
            rising = np.where(bits >> np.uint64(63), ~bits, bits | _SIGN)
            if shift < 48:
                rising = rising[rising >> np.uint64(shift + 16) == found]
            digits = (rising >> np.uint64(shift)) & np.uint64(0xFFFF)
            having += np.bincount(digits.astype(np.int64), minlength=1 << 16)
        up_to = np.cumsum(having)
        digit = int(np.searchsorted(up_to, place, side="right"))
        place -= int(up_to[digit] - having[digit])
        found = (found << np.uint64(16)) | np.uint64(digit)
    pattern = found ^ _SIGN if found >> np.uint64(63) else ~found
    return float(np.array([pattern], np.uint64).view(np.float64)[0])


def times_of(cells: Any, form: str = "") -> tuple[Floats64, Mask, Mask]:
    """Times as numbers that rise with them; which cells are none, where the number is NaN; which were numbers.

    Numbers are taken as they are, dates and texts in microseconds.

    Args:
        form: of texts, in the signs of strptime; empty: ISO 8601, all with a zone or all without one.
    """
    as_number = np.zeros(len(cells), np.bool_)
    if is_text(cells.type):
        numbers, wrong = numbers_of(cells) if not form else (np.full(len(cells), np.inf), np.ones(len(cells), np.bool_))
        as_number = ~wrong & ~np.isnan(numbers)
        if wrong.any():
            moments, _ = numbers_of(moments_of(cells, form))
            numbers = np.where(wrong, moments, numbers)
    else:
        numbers, _ = numbers_of(cells)
    bad = ~np.isfinite(numbers)
    return np.where(bad, np.nan, numbers), bad, as_number
