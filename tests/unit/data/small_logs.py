"""Logs of a few rows in columns of one's own, and what a reader makes of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.config.columns import ColumnsConfig, LabelColumn, SparseColumn
from bagpipe.data.columns import ColumnSource, open_columns
from bagpipe.data.files import find_files
from bagpipe.data.raw import value_text
from bagpipe.errors import DataError

LABELS = (LabelColumn("y"),)


def opened(path: Path, *, skip: bool = False, **columns: Any) -> ColumnSource:
    described = ColumnsConfig(**{"labels": LABELS, "sparse": (SparseColumn("d"),), "ignore": ("*",), **columns})
    return open_columns(find_files(str(path)), described, stated="auto", skip_bad=skip)


def values(source: ColumnSource) -> list[str]:
    """Of the first feature, of all rows."""
    blocks = [source.parse(piece) for piece in source.pieces(0)[1]]
    codes = np.concatenate([block.codes_N for block in blocks]).tolist()
    return [value_text(code, source.schema.features[0].kind) for code in codes]


def refused(source: ColumnSource) -> str:
    with pytest.raises(DataError) as caught:
        values(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows) + b"\n")
    return path


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(columns.values()), (0, 1)))
    pq.write_table(pa.table({"y": [i % 2 for i in range(count)], "d": ["a", "b"] * (count // 2), **columns}), path)
    return path
