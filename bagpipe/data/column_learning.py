"""The pass over one's own columns before the vocabulary: means, deviations, and columns that say nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bagpipe.data.column_cells import missing_dense
from bagpipe.data.columns import ColumnSource
from bagpipe.data.encoded import first_examples, raw_blocks
from bagpipe.data.formats import FoundTable
from bagpipe.data.transform import DenseStatistics
from bagpipe.data.vocabulary import Vocabulary
from bagpipe.errors import DataError


@dataclass(slots=True)
class _Moments:
    """Mean and squared deviations of what was seen, joined block by block (Chan, Golub, LeVeque 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> None:
        count = len(values)
        if not count:
            return
        wide = values.astype(np.float64)
        mean = float(wide.mean())
        squares = float(np.square(wide - mean).sum())
        total, apart = self.count + count, mean - self.mean
        self.mean += apart * count / total
        self.squares += squares + apart * apart * self.count * count / total
        self.count = total


def learn_columns(raw: ColumnSource, readers: int, stop: int | None) -> tuple[DenseStatistics, ...]:
    """Look at labels and dense columns of the first `stop` examples.

    Raises:
        DataError: a label has one value only, or a column that is to be standardised has; a dense column has none; or
            there is no example.
    """
    wanted = [(place, c.name) for place, c in enumerate(raw.columns.dense) if c.standardise]
    moments = [_Moments() for _ in wanted]
    labels = len(raw.columns.labels)
    least, greatest, position = [math.inf] * labels, [-math.inf] * labels, 0
    missing = np.array([missing_dense(c) for c in raw.columns.dense], np.float32)
    told = np.zeros(len(missing), np.bool_)
    first_bad: str | None = None
    for block in raw_blocks(raw.unfilled(), readers, stop):
        first_bad = first_bad or block.first_bad
        part = block if stop is None else first_examples(block, stop - position, len(raw.schema.features))
        there_BF = ~np.isnan(part.dense_BF)
        for one, (place, _) in zip(moments, wanted, strict=True):
            one.add(np.where(there_BF[:, place], part.dense_BF[:, place], missing[place]))
        told |= there_BF.any(axis=0)
        for place in range(labels if len(part) else 0):
            least[place] = min(least[place], float(part.labels_BL[:, place].min()))
            greatest[place] = max(greatest[place], float(part.labels_BL[:, place].max()))
        position += len(part)
    if not position:
        raise _nothing_there(raw, first_bad)
    _check_labels(raw, least, greatest)
    _check_dense(raw, told)
    return tuple(_statistics(one, name) for one, (_, name) in zip(moments, wanted, strict=True))


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


def _statistics(moments: _Moments, name: str) -> DenseStatistics:
    deviation = math.sqrt(moments.squares / moments.count) if moments.count else 0.0
    if deviation == 0.0:
        raise DataError(
            f"data.columns.dense: {name} is {moments.mean:g} in every example of the training part and cannot be "
            "standardised; put it under ignore"
        )
    return DenseStatistics(name, moments.mean, deviation)


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
