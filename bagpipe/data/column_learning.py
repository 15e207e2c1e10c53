"""The pass over one's own columns before the vocabulary: means, deviations, and columns that say nothing."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from bagpipe.config.columns import ColumnsConfig, DenseColumn
from bagpipe.data.column_cells import counted, finished, missing_dense
from bagpipe.data.columns import ColumnSource
from bagpipe.data.encoded import first_examples
from bagpipe.data.found_tables import FoundTable
from bagpipe.data.raw import RawBlock
from bagpipe.data.transform import DenseStatistics
from bagpipe.data.value_counts import ValueCounts
from bagpipe.data.vocabulary import AnyCounter, Vocabulary
from bagpipe.errors import DataError

Moments = tuple[int, float, float]
"""Of some values: how many, their mean, and the sum of their squared deviations from it."""


class Look(msgspec.Struct, frozen=True):
    """What one block of the training part says about its columns."""

    examples: int
    first_bad: str | None
    least: tuple[float, ...]
    """Of each label; empty if there is no example."""
    greatest: tuple[float, ...]
    told: tuple[bool, ...]
    """Which dense columns have a value."""
    moments: tuple[Moments, ...]
    """Of each column to be standardised whose values are not counted; of these, the counts tell."""


def looks(raw: ColumnSource, blocks: Iterable[RawBlock], stop: int | None) -> Iterator[Look]:
    """Look at the first `stop` examples.

    Args:
        blocks: of `raw.unfilled()`.
    """
    position, num_features = 0, len(raw.schema.features)
    for block in blocks:
        part = block if stop is None else first_examples(block, stop - position, num_features)
        yield _look(raw, part, block.first_bad)
        position += len(part)


def _look(raw: ColumnSource, block: RawBlock, first_bad: str | None) -> Look:
    dense = raw.columns.dense
    there_BF = ~np.isnan(block.dense_BF)
    filled = [
        np.where(there_BF[:, place], block.dense_BF[:, place], np.float32(missing_dense(column)))
        for place, column in enumerate(dense)
        if _has_moments(column)
    ]
    labels_LB = block.labels_BL.T if len(block) else block.labels_BL[:, :0].T
    return Look(
        len(block),
        first_bad,
        tuple(float(values.min()) for values in labels_LB),
        tuple(float(values.max()) for values in labels_LB),
        tuple(bool(there_B.any()) for there_B in there_BF.T),
        tuple(map(_moments, filled)),
    )


def _has_moments(column: DenseColumn) -> bool:
    return column.standardise and column.count == "none"


def _moments(values: "np.ndarray[Any, np.dtype[np.float32]]") -> Moments:
    if not len(values):
        return (0, 0.0, 0.0)
    wide = values.astype(np.float64)
    mean = float(wide.mean())
    return (len(values), mean, float(np.square(wide - mean).sum()))


def joined_moments(a: Moments, b: Moments) -> Moments:
    """Of the values of both (Chan, Golub, LeVeque 1979)."""
    if not b[0]:
        return a
    total, apart = a[0] + b[0], b[1] - a[1]
    return (total, a[1] + apart * b[0] / total, a[2] + (b[2] + apart * apart * a[0] * b[0] / total))


def learn_columns(raw: ColumnSource, seen: Iterable[Look]) -> tuple[DenseStatistics, ...]:
    """What all looks at labels and dense columns come to, in the order of the examples: sums of floats have one.

    Raises:
        DataError: a label has one value only, or a column that is to be standardised has; a dense column has none; or
            there is no example.
    """
    wanted = [c.name for c in raw.columns.dense if _has_moments(c)]
    moments: list[Moments] = [(0, 0.0, 0.0)] * len(wanted)
    labels = len(raw.columns.labels)
    least, greatest = [math.inf] * labels, [-math.inf] * labels
    told, examples = np.zeros(len(raw.columns.dense), np.bool_), 0
    first_bad: str | None = None
    for look in seen:
        first_bad = first_bad or look.first_bad
        examples += look.examples
        moments = [joined_moments(a, b) for a, b in zip(moments, look.moments, strict=True)]
        told |= np.array(look.told, np.bool_)
        if look.examples:
            least = [min(pair) for pair in zip(least, look.least, strict=True)]
            greatest = [max(pair) for pair in zip(greatest, look.greatest, strict=True)]
    if not examples:
        raise _nothing_there(raw, first_bad)
    _check_labels(raw, least, greatest)
    _check_dense(raw, told)
    return tuple(_statistics(one, name) for one, name in zip(moments, wanted, strict=True))


def _nothing_there(raw: ColumnSource, first_bad: str | None) -> DataError:
    if raw.split is not None:
        return DataError(
            f"data.splitBy: {raw.split.by} leaves the training part empty; choose other shares, or another split"
        )
    return DataError(f"{first_bad or raw.files[0].name}: no valid example in the data; check data.path and data.format")


def _check_labels(raw: ColumnSource, least: Sequence[float], greatest: Sequence[float]) -> None:
    for label, low, high in zip(raw.columns.labels, least, greatest, strict=True):
        if low == high:
            raise DataError(
                f"data.columns.labels: {label.name} is {low:g} in every example of the training part, which teaches "
                "nothing; check the column, its rule and the split"
            )


def _check_dense(raw: ColumnSource, told: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> None:
    for column, says_something in zip(raw.columns.dense, told.tolist(), strict=True):
        if not says_something:
            raise DataError(
                f"data.columns.dense: {column.name}: all values are missing in the training part; put it under ignore"
            )


def _statistics(moments: Moments, name: str) -> DenseStatistics:
    count, mean, squares = moments
    deviation = math.sqrt(squares / count) if count else 0.0
    if deviation == 0.0:
        raise DataError(
            f"data.columns.dense: {name} is {mean:g} in every example of the training part and cannot be "
            "standardised; put it under ignore"
        )
    return DenseStatistics(name, mean, deviation)


def learn_counts(raw: ColumnSource, counters: Sequence[AnyCounter]) -> dict[str, ValueCounts]:
    """The counts of each dense column with `count`, by its name, from counters of their values.

    Raises:
        DataError: a column has one value only, or none.
    """
    found = {}
    for (name, known), counter in zip(raw.counts.items(), counters, strict=True):
        codes, counts = counter.result(min_count=1)
        if len(codes) == 1:
            what = "all values are missing" if codes[0] == 0 else "there is one value only, whose count says nothing,"
            raise DataError(f"data.columns.dense: {name}: {what} in the training part; put it under ignore")
        order = np.argsort(codes)
        found[name] = ValueCounts(known.kind, codes[order], counts[order])
    return found


def counted_statistics(columns: ColumnsConfig, counts: Mapping[str, ValueCounts]) -> tuple[DenseStatistics, ...]:
    """Of the columns with `count` that are to be standardised: each value's number, as often as the value was seen.

    Raises:
        DataError: all values have the same number.
    """
    statistics = []
    for column in columns.dense:
        if not column.standardise or column.count == "none":
            continue
        known = counts[column.name]
        numbers = finished(column, counted(column, known, known.codes), None).astype(np.float64)
        mean = float(np.average(numbers, weights=known.counts))
        squares = float((np.square(numbers - mean) * known.counts).sum())
        statistics.append(_statistics((int(known.counts.sum()), mean, squares), column.name))
    return tuple(statistics)


def check_vocabularies(tables: Sequence[FoundTable], vocabularies: Mapping[str, Vocabulary]) -> None:
    """Refuse columns that hold one value only, or none.

    Raises:
        DataError: names the column.
    """
    for table in tables:
        codes = vocabularies[table.name].codes
        names = ", ".join(table.feature_names)
        if len(codes) == 1:
            what = "all values are missing" if codes[0] == 0 else "there is one value only"
            raise DataError(f"data.columns.sparse: {names}: {what} in the training part; put it under ignore")
        if not len(codes):
            raise DataError(
                f"data.columns.sparse: {names}: no value is seen often enough for a row of its own; lower "
                "data.minCount, or put it under ignore"
            )
