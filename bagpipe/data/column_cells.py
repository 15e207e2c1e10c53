"""Cells of one's own columns as labels, dense values, weights, groups and codes, as `data.columns` asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.batch import Floats, Int64s, Lengths
from bagpipe.config.column_rules import UNIX_TIMES, exact_number, label_rule
from bagpipe.config.columns import DenseColumn, LabelColumn, SparseColumn
from bagpipe.data import column_kernels as kernels
from bagpipe.data.column_values import (
    EXACT,
    MINUS,
    Floats64,
    Mask,
    Problems,
    as_held,
    codes_of,
    is_list,
    moments_of,
    numbers_of,
    plain,
    sides_of,
)
from bagpipe.data.raw import BIN_OFFSET, Codes, Kind
from bagpipe.data.transform import DenseStatistics
from bagpipe.data.value_counts import ValueCounts
from bagpipe.data.written_lists import as_lists
from bagpipe.data.written_numbers import as_numbers, what_was_expected

_ISO_OR_NUMBERS = "a time in ISO 8601 (for numbers, set timeFormat: unix, unix-ms, unix-us or unix-ns)"
_YEAR_1, _YEAR_10000 = -62_135_596_800, 253_402_300_800
"""In seconds since 1970."""
LARGEST = float(np.finfo(np.float32).max)
_WHOLE = ("a whole number of 64 bits", "text")


def source_of(column: SparseColumn | DenseColumn) -> str:
    """Where a feature is read."""
    return column.column or column.name


def label_source(label: LabelColumn) -> str:
    """The column that a label is made of."""
    rule = label_rule(label)
    return rule.column if rule else label.name


def label_cells(table: pa.Table, label: LabelColumn, problems: Problems) -> Floats64:
    rule, name = label_rule(label), label_source(label)
    column = plain(table.column(name))
    if rule is not None and isinstance(rule.value, str):
        missing = column.is_null().to_numpy(zero_copy_only=False)
        problems.add(name, missing, "a value for the label", column)
        same, known = _equal(column, rule.value)
        problems.add(name, ~known & ~missing, f"text such as {rule.value!r} for the label", column)
        if isinstance(rule.other, str):
            neither = ~(same | _equal(column, rule.other)[0] | missing)
            problems.add(name, neither, f"the label {rule.value!r} or {rule.other!r}", column)
        return np.where(same if rule.operator == "==" else ~same, 1.0, 0.0)
    numbers, wrong = numbers_of(column)
    problems.add(name, wrong | np.isnan(numbers), f"a number for the label (or a rule such as {name} == 'yes')", column)
    numbers = np.where(wrong | np.isnan(numbers), 0.0, numbers)
    if rule is not None and not isinstance(rule.value, str):
        order = sides_of(column, numbers, rule.value)
        if isinstance(rule.other, int | float):
            neither = (order != 0) & (sides_of(column, numbers, rule.other) != 0)
            problems.add(name, neither, f"the label {rule.value} or {rule.other}", column)
        return _compared(order, rule.operator)
    if label.kind == "binary":
        problems.add(name, (numbers != 0) & (numbers != 1), "a label of 0 or 1 (or a rule)", column)
    elif label.kind == "count":
        problems.add(name, (numbers < 0) | (numbers != np.floor(numbers)), "a whole number from 0", column)
    problems.add(name, np.abs(numbers) > LARGEST, "a number of 32 bits", column)
    return np.clip(numbers, -LARGEST, LARGEST)


def _equal(column: Any, text: str) -> tuple[Mask, Mask]:
    """Which plain cells are the value that a rule writes as text, and which can be compared with it at all."""
    kind, every = column.type, np.ones(len(column), np.bool_)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        (number,), (wrong,) = numbers_of(pa.array([text], pa.string()))
        numbers, _ = numbers_of(column)
        value = float(number) if wrong or np.isnan(number) else exact_number(text.strip().replace(MINUS, "-"))
        return sides_of(column, numbers, value) == 0, ~np.isnan(numbers) & (not wrong)
    if pa.types.is_boolean(kind):  # Python writes True, most others true.
        every[:], text = text.lower() in ("true", "false"), text.lower()
    return np.asarray(np.array(column.cast(pa.string()).to_pylist(), object) == text), every


def _compared(sides: Floats64, operator: str) -> Floats64:
    """1 where the comparison holds.

    Args:
        sides: of the cells, as `sides_of` tells them.
    """
    compare = {
        ">=": np.greater_equal,
        "<=": np.less_equal,
        "==": np.equal,
        "!=": np.not_equal,
        ">": np.greater,
        "<": np.less,
    }[operator]
    return np.asarray(compare(sides, 0.0), np.float64)


def dense_cells(
    table: pa.Table,
    dense: DenseColumn,
    known: DenseStatistics | None,
    problems: Problems,
    counts: ValueCounts | None = None,
) -> Floats:
    """`[B]`.

    Args:
        known: of a standardised column; None: not learned yet.
        counts: of a column with `count`.
    """
    if counts is not None:
        codes = counted_cells(table, dense, counts.kind, problems).codes
        return finished(dense, counted(dense, counts, codes), known)
    column = plain(table.column(source_of(dense)))
    numbers, wrong = numbers_of(as_numbers(column, dense))
    wrong |= np.abs(numbers) > LARGEST
    problems.add(source_of(dense), wrong, what_was_expected(column, wrong), column)
    return finished(dense, np.where(np.isnan(numbers) | wrong, dense.fill, numbers), known)


def counted(dense: DenseColumn, counts: ValueCounts, codes: Codes) -> Floats64:
    """What `count` makes of values."""
    return counts.log_shares(codes) if dense.count == "log-share" else counts.of(codes)


def finished(dense: DenseColumn, numbers: Floats64, known: DenseStatistics | None) -> Floats:
    """Numbers that are all there, clipped, as logarithms and standardised as the column says."""
    if dense.clip:
        numbers = np.clip(numbers, dense.clip[0], dense.clip[1])
    if dense.log1p:
        numbers = np.log1p(np.maximum(numbers, 0.0))
    if known is not None:
        numbers = (numbers.astype(np.float32).astype(np.float64) - known.mean) / known.deviation
    return numbers.astype(np.float32)


def missing_dense(dense: DenseColumn) -> float:
    """What a missing value becomes, before it is standardised."""
    table = pa.table({source_of(dense): pa.nulls(1, pa.float64())})
    return float(dense_cells(table, dense, None, Problems(np.zeros(1, np.bool_)))[0])


def weight_cells(table: pa.Table, name: str, problems: Problems) -> Floats:
    column = plain(table.column(name))
    numbers, wrong = numbers_of(column)
    wrong |= ~(numbers >= 0) | (numbers > LARGEST)
    problems.add(name, wrong, "a weight, a finite number from 0", column)
    return np.where(wrong, 0.0, numbers).astype(np.float32)


def group_cells(table: pa.Table, name: str, kind: Kind, problems: Problems) -> Int64s:
    """Codes as they are for features; of one kind in all files, so that equal values have equal numbers in them."""
    column = plain(table.column(name))
    if pa.types.is_nested(column.type):
        problems.add(name, column.is_valid().to_numpy(zero_copy_only=False), "one value for the group", column)
        return np.zeros(len(column), np.int64)
    codes, wrong = codes_of(column, kind)
    problems.add(name, wrong, _WHOLE[kind == "token"] + " for the group", column)
    return codes.view(np.int64)


@dataclass(frozen=True, slots=True)
class Lists:
    """The codes of one feature; of example b, `codes[begins[b] : begins[b] + lengths[b]]`."""

    codes: Codes
    begins: Int64s
    lengths: Int64s
    weights: Floats | None = None
    """Of each code; None: all are 1."""


def sparse_cells(
    table: pa.Table, sparse: SparseColumn, kind: Kind, problems: Problems, *, jagged: bool = True
) -> Lists:
    """A missing list is one missing value, an empty one is none.

    Args:
        jagged: examples may have several values; else a list is no cell.
    """
    name = source_of(sparse)
    given = plain(table.column(name))
    column, unread = as_lists(given, sparse)
    if unread is not None:
        problems.add(name, unread, "a list in brackets, such as [1, 2]", given)
    if kind == "interval":
        numbers, wrong = numbers_of(column)
        bounds = np.array([as_held(bound, column.type) for bound in sparse.boundaries])
        places = np.searchsorted(bounds, numbers, side="right").astype(np.uint64)
        problems.add(name, wrong, "a number", column)
        return _one_each(np.where(np.isnan(numbers), np.uint64(0), places + np.uint64(1)))
    if sparse.bins != "none":
        return _one_each(_bins(column, name, problems))
    if sparse.part != "none":
        return _one_each(_part_of_time(column, sparse, problems))
    if is_list(column.type) and not jagged:
        there = column.is_valid().to_numpy(zero_copy_only=False)
        problems.add(name, there, "one value, as in the data that this was learned from", column)
        lists = _one_each(np.zeros(len(column), np.uint64))
    elif is_list(column.type):
        lists = _several(column, name, kind, problems)
    else:
        codes, wrong = codes_of(column, kind)
        problems.add(name, wrong, _WHOLE[kind == "token"], column)
        lists = _one_each(codes)
    if sparse.weight:
        lists = _weighted(lists, table, sparse, problems)
    return lists if sparse.max_length is None else _shortened(lists, sparse.max_length, sparse.keep)


def counted_cells(table: pa.Table, dense: DenseColumn, kind: Kind, problems: Problems) -> Lists:
    """The values of a column with `count`, one in each cell."""
    name, column = source_of(dense), plain(table.column(source_of(dense)))
    if pa.types.is_nested(column.type):
        problems.add(name, column.is_valid().to_numpy(zero_copy_only=False), "one value to be counted", column)
        return _one_each(np.zeros(len(column), np.uint64))
    codes, wrong = codes_of(column, kind)
    problems.add(name, wrong, _WHOLE[kind == "token"], column)
    return _one_each(codes)


def _bins(column: Any, name: str, problems: Problems) -> Codes:
    """See `bagpipe.data.raw.bin_text`."""
    numbers, wrong = numbers_of(column)
    missing = np.isnan(numbers)
    wrong |= ~missing & ((np.abs(numbers) >= EXACT) | (numbers != np.floor(numbers)))
    problems.add(name, wrong, "a whole number", column)
    whole = np.where(missing | wrong, 0.0, numbers)
    above = np.floor(np.log(np.maximum(whole, 1.0)) ** 2) + 3.0
    codes = (np.where(whole <= 2, whole, above).astype(np.int64) + BIN_OFFSET).view(np.uint64)
    codes[missing] = 0
    return codes


def _part_of_time(column: Any, sparse: SparseColumn, problems: Problems) -> Codes:
    """Hours and days of the week as texts of digits: `09`, `0`.

    A moment has the same ones however it is written. Arrow would take those of the column's own zone, and the zone is
    that of the program that wrote the file: a model would meet other hours where it scores than where it was trained.
    """
    moments = column
    if sparse.time_format in UNIX_TIMES:
        moments = _since_1970(column, UNIX_TIMES[sparse.time_format])
    elif pa.types.is_date(column.type):
        moments = column.cast(pa.timestamp("ms"))  # A date has no hour of its own, and Arrow makes none of a number.
    elif not pa.types.is_timestamp(column.type):
        moments = moments_of(column, sparse.time_format)
    elif column.type.tz is not None:
        moments = column.cast(pa.timestamp(column.type.unit, "UTC"))
    missing = column.is_null().to_numpy(zero_copy_only=False)
    unread = moments.is_null().to_numpy(zero_copy_only=False)
    expected = f"a time like {sparse.time_format}" if sparse.time_format else _ISO_OR_NUMBERS
    if sparse.time_format in UNIX_TIMES:
        expected = f"a number, as timeFormat is {sparse.time_format}"
    problems.add(source_of(sparse), unread & ~missing, expected, column)
    there = pc.fill_null(moments, pa.scalar(0, pa.int64()).cast(moments.type))
    if sparse.part == "weekday":
        digits = pc.day_of_week(there).to_numpy(zero_copy_only=False).astype(np.uint64)
        codes = (digits + np.uint64(ord("0"))) << np.uint64(56)
    else:
        hours = pc.hour(there).to_numpy(zero_copy_only=False).astype(np.uint64)
        tens, ones = hours // np.uint64(10), hours % np.uint64(10)
        codes = ((tens + np.uint64(ord("0"))) << np.uint64(56)) | ((ones + np.uint64(ord("0"))) << np.uint64(48))
    codes[unread] = 0
    return np.asarray(codes)


def _since_1970(column: Any, in_a_second: int) -> Any:
    """Numbers as timestamps; what is no number, or lies outside of the years 1 to 9999, is missing.

    Args:
        in_a_second: units of the numbers.
    """
    if pa.types.is_temporal(column.type):
        return pa.nulls(len(column), pa.timestamp("s"))
    if pa.types.is_integer(column.type) and not pa.types.is_uint64(column.type):  # Nanoseconds are no exact floats.
        none = column.is_null().to_numpy(zero_copy_only=False)
        seconds = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False) // in_a_second
    else:
        numbers, none = numbers_of(column)
        none |= np.isnan(numbers)
        seconds = np.floor(np.where(none, 0.0, numbers) / in_a_second)
    none = none | (seconds < _YEAR_1) | (seconds >= _YEAR_10000)
    return pa.array(np.where(none, 0, seconds).astype(np.int64), pa.timestamp("s"), mask=none)


def _one_each(codes: Codes) -> Lists:
    return Lists(codes, np.arange(len(codes), dtype=np.int64), np.ones(len(codes), np.int64))


def _bounds(column: Any) -> tuple[Any, Int64s, Int64s, Mask]:
    """A column of lists: all values, where each list begins and how long it is, and which are missing (and have 0)."""
    lists = column.cast(pa.large_list(column.type.value_type))
    null = lists.is_null().to_numpy(zero_copy_only=False)
    offsets = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = np.diff(offsets)
    lengths[null] = 0
    return plain(lists.values), offsets[:-1].copy(), lengths, null


def _several(column: Any, name: str, kind: Kind, problems: Problems) -> Lists:
    values, begins, lengths, null = _bounds(column)
    codes, wrong = codes_of(values, kind)
    if wrong.any():
        expected = "texts" if kind == "token" else "whole numbers of 64 bits"
        problems.add(name, _any_of(wrong, begins, lengths), expected, column)
    begins[null], lengths[null] = len(codes), 1
    return Lists(np.append(codes, np.uint64(0)), begins, lengths)


def _any_of(marked: Mask, begins: Int64s, lengths: Int64s) -> Mask:
    """Lists of which a value is marked."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(marked)])
    return np.asarray(before[begins + lengths] - before[begins] > 0)


def _weighted(lists: Lists, table: pa.Table, sparse: SparseColumn, problems: Problems) -> Lists:
    """A missing value whose weight is missing too has weight 1."""
    column, _ = as_lists(plain(table.column(sparse.weight)), sparse)
    if is_list(column.type):
        values, begins, lengths, _ = _bounds(column)
        numbers, wrong = numbers_of(values)
    else:
        numbers, wrong = numbers_of(column)
        begins, lengths = np.arange(len(numbers), dtype=np.int64), 1 - np.isnan(numbers).astype(np.int64)
    wrong |= ~(numbers >= 0) | (numbers > LARGEST)
    lone = (lists.lengths == 1) & (lengths == 0)
    lone[lone] = lists.codes[lists.begins[lone]] == 0
    odd = (lengths != lists.lengths) & ~lone | _any_of(wrong, begins, lengths)
    problems.add(sparse.weight, odd, f"as many numbers from 0 as {source_of(sparse)} has values", column)
    weights, counts = np.ones(len(lists.codes), np.float32), np.where(odd | lone, 0, lengths)
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    weights[np.repeat(lists.begins, counts) + within] = numbers[np.repeat(begins, counts) + within]
    return replace(lists, weights=weights)


def _shortened(lists: Lists, most: int, keep: Literal["first", "last"]) -> Lists:
    kept = np.minimum(lists.lengths, most)
    begins = lists.begins + (lists.lengths - kept if keep == "last" else 0)
    return replace(lists, begins=begins, lengths=kept)


def side_by_side(lists: Sequence[Lists], *, jagged: bool) -> tuple[Codes, Lengths | None, Floats | None]:
    """All features, example by example: codes, their numbers, their weights (None: all are 1)."""
    if not jagged:
        return np.ascontiguousarray(np.stack([one.codes for one in lists], axis=1)).reshape(-1), None, None
    lengths_BT = np.stack([one.lengths for one in lists], axis=1).astype(np.int32)
    starts = np.cumsum([0] + [len(one.codes) for one in lists])[:-1]
    begins_BT = np.stack([one.begins + start for one, start in zip(lists, starts, strict=True)], axis=1)
    total = int(lengths_BT.sum(dtype=np.int64))
    codes_N, weights_N = np.empty(total, np.uint64), None
    kernels.interleave(np.concatenate([one.codes for one in lists]), begins_BT, lengths_BT, codes_N)
    if any(one.weights is not None for one in lists):
        parts = [np.ones(len(one.codes), np.float32) if one.weights is None else one.weights for one in lists]
        weights_N = np.empty(total, np.float32)
        kernels.interleave(np.concatenate(parts), begins_BT, lengths_BT, weights_N)
    return codes_N, lengths_BT, weights_N
