"""Returns scores in the form in which their rows were given."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.data.files import find_files


def scores_of(written: Path, path: str | Sequence[str], frame: Any | None) -> Any:
    """What `predict` has written for the rows at `path`.

    Args:
        frame: the rows as the caller gave them; None: as a path, whose rows are named by file and number.

    Returns:
        a pandas or polars frame for such a frame, else an Arrow table.
    """
    table = pq.read_table(written)
    if frame is None:
        return table
    number = _numbered(table, path)
    names = [(c.__module__.partition(".")[0], c.__name__) for c in type(frame).__mro__]
    table = table.drop_columns(["file", "row"])
    if ("pandas", "DataFrame") in names:
        return table.to_pandas().set_axis(frame.index.take(number), axis="index")
    table = table.add_column(0, "row", pa.array(number))
    if ("polars", "DataFrame") in names or ("polars", "LazyFrame") in names:
        return importlib.import_module("polars").from_arrow(table)
    return table


def _numbered(table: pa.Table, path: str | Sequence[str]) -> npt.NDArray[np.int64]:
    """The number of each row among all, from 0; within its file a row is counted from 1."""
    before: dict[str, int] = {}
    total = 0
    for file in find_files(path):
        before[file.name] = total
        total += pq.read_metadata(file.name).num_rows
    starts = np.array([before[name] for name in table.column("file").to_pylist()], np.int64)
    numbers: npt.NDArray[np.int64] = table.column("row").to_numpy() - 1 + starts
    return numbers
