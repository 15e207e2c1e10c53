"""Features of Criteo's log that say how often a value came and how often it was clicked before, as a table to train on.

    python examples/criteo_features.py train.txt features.parquet

Rows keep their order, which is time's. Every feature of a row is a function of the rows before it; clicks are counted
in the training part alone (the first 90 %), so no label of the test part is used anywhere. The table has the log's
label, its 13 numbers and 26 categories, the numbers' intervals, and for each of these 39 columns

    n_X    log(1 + rows before this one that have this value)
    t_X    log-odds of a click among those of them in the training part, minus the log-odds among all rows before:
           (clicks + SMOOTHING * rate of all) / (rows + SMOOTHING), so that a value never seen has 0

The same for the pairs of columns in `PAIRS`; a pair is named by both, as in n_B6C7.
"""

import itertools
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

NUMBERS = [f"I{n}" for n in range(1, 14)]
CATEGORIES = [f"C{n}" for n in range(1, 27)]
BINS = [f"B{n}" for n in range(1, 14)]
TRAIN_TENTHS = 9
SMOOTHING = 20.0
# The columns whose own `t_X` alone has the least log loss within the part that a recipe is chosen on.
TELLING = ("B6", "C7", "C15", "C13", "C11", "B7", "B11", "B5")
PAIRS = tuple(itertools.combinations(TELLING, 2))

Codes = npt.NDArray[np.int64]
Column = npt.NDArray[np.float32]


def read_log(path: Path) -> pa.Table:
    """The log's columns: label and numbers as integers (missing ones are null), categories as text."""
    names = ["label", *NUMBERS, *CATEGORIES]
    types = {name: pa.int64() for name in ["label", *NUMBERS]} | dict.fromkeys(CATEGORIES, pa.string())
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        return pyarrow.csv.read_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t"),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types),
        )


def intervals(numbers: pa.ChunkedArray) -> Codes:
    """The numbers' intervals: log squared of those above 2, rounded down; missing is one of its own."""
    x = np.nan_to_num(numbers.to_numpy().astype(np.float64), nan=-10.0)
    above = np.floor(np.log(np.maximum(x, 2.0)) ** 2)
    return np.where(x > 2, above, x).astype(np.int64)


def codes_of(log: pa.Table) -> dict[str, Codes]:
    """Each column whose values are counted, as small whole numbers."""
    found = {
        name: log[name].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy() for name in CATEGORIES
    }
    codes = {name: indices.astype(np.int64) for name, indices in found.items()}
    codes |= {name: intervals(log[number]) for name, number in zip(BINS, NUMBERS, strict=True)}
    return {name: np.unique(values, return_inverse=True)[1].astype(np.int64) for name, values in codes.items()}


def before(codes: Codes, amounts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For each row, the sum of `amounts` over the rows before it that have its code."""
    order = np.argsort(codes, kind="stable")
    sums = np.cumsum(amounts[order]) - amounts[order]
    first = np.flatnonzero(np.diff(codes[order], prepend=-1))
    group = np.cumsum(np.diff(codes[order], prepend=-1) != 0) - 1
    found = np.empty_like(sums)
    found[order] = sums - sums[first][group]
    return found


def statistics(codes: Codes, labels: npt.NDArray[np.float64], num_train: int) -> tuple[Column, Column]:
    """`n_X` and `t_X` of one column."""
    labelled = (np.arange(labels.size) < num_train).astype(np.float64)
    clicks, rows = before(codes, labels * labelled), before(codes, labelled)
    everything = np.zeros(labels.size, np.int64)
    rate = (before(everything, labels * labelled) + 1.0) / (before(everything, labelled) + 4.0)
    mean = (clicks + SMOOTHING * rate) / (rows + SMOOTHING)
    log_odds = np.log(mean / (1.0 - mean)) - np.log(rate / (1.0 - rate))
    return np.log1p(before(codes, np.ones(labels.size))).astype(np.float32), log_odds.astype(np.float32)


def features(log: pa.Table, num_train: int) -> Iterator[tuple[str, pa.Array | Column | Codes]]:
    """The table's columns."""
    labels = log["label"].to_numpy().astype(np.float64)
    yield "label", log["label"]
    for name in [*NUMBERS, *CATEGORIES]:
        yield name, log[name]
    codes = codes_of(log)
    for name in BINS:
        yield name, codes[name]
    for one, other in PAIRS:
        both = codes[one] * (codes[other].max() + 1) + codes[other]
        codes[one + other] = np.unique(both, return_inverse=True)[1]
    for name, values in codes.items():
        count, log_odds = statistics(values, labels, num_train)
        yield f"n_{name}", count
        yield f"t_{name}", log_odds


def write(source: Path, target: Path) -> None:
    """Write the table."""
    log = read_log(source)
    num_train = log.num_rows * TRAIN_TENTHS // 10
    pyarrow.parquet.write_table(pa.table(dict(features(log, num_train))), target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), Path(sys.argv[2]))
