"""Files of vectors are checked before anything is trained: shape, width, rows, values, numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.checkpoint.row_maps import TableOfRun
from bagpipe.checkpoint.vector_files import BLOCK_ROWS, read_vectors
from bagpipe.data.transform import KeptFeature, KeptTable, Transform, TransformInfo
from bagpipe.data.vocabulary import Vocabulary
from bagpipe.errors import DataError
from bagpipe.tables import Table


def target(rows: int = 4, encoding: str = "ids", vocabulary: Vocabulary | None = None) -> TableOfRun:
    info = TransformInfo(
        source="csv",
        encoding=encoding,
        hash_size=1,
        min_count=1,
        numeric_bins="none",
        num_labels=1,
        dense=(),
        jagged=False,
        features=(KeptFeature("f", "integer"),),
        tables=(KeptTable("t", rows, ("f",)),),
    )
    return TableOfRun(Table("t", rows, 2, ("f",)), Transform(info, vocabulary and {"t": vocabulary}))


def all_of(path: Path, of: TableOfRun) -> dict[int, list[float]]:
    return {
        int(row): v.tolist() for rows, vectors in read_vectors(path, of) for row, v in zip(rows, vectors, strict=True)
    }


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_values_of_which_none_is_known_are_refused(tmp_path: Path) -> None:
    """Nothing of the file would be taken: it is another table's, or its values are written in another way."""
    path = parquet(tmp_path / "v.parquet", value=["01", "\u0662", "4", "-1", "x"], vector=[[1.0, 2.0]] * 5)
    with pytest.raises(DataError, match="none of its values has a row in table t"):
        all_of(path, target())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_whole_table(dtype: type, tmp_path: Path) -> None:
    """Floats of any width become float32, block by block."""
    rows = BLOCK_ROWS + 3
    array = np.arange(2 * rows).reshape(rows, 2) % 100
    np.save(tmp_path / "t.npy", array.astype(dtype))
    found = list(read_vectors(tmp_path / "t.npy", target(rows)))
    assert [len(block) for block, _ in found] == [BLOCK_ROWS, 3]
    np.testing.assert_array_equal(np.concatenate([vectors for _, vectors in found]), array.astype(np.float32))


def test_some_rows_by_number_and_by_value(tmp_path: Path) -> None:
    """A value that has no row here is left out."""
    vectors = [[1.0, 2.0], [3.0, 4.0]]
    assert all_of(parquet(tmp_path / "r.parquet", row=[3, 0], vector=vectors), target()) == {
        3: vectors[0],
        0: vectors[1],
    }
    assert all_of(parquet(tmp_path / "v.parquet", value=["2", "x"], vector=vectors), target()) == {2: vectors[0]}


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"row": [0, 4], "vector": [[1.0, 2.0]] * 2}, "expected rows from 0 to 3, found 4"),
        ({"row": [-1], "vector": [[1.0, 2.0]]}, "found -1"),
        ({"row": [1, 1], "vector": [[1.0, 2.0]] * 2}, "expected every row once, found row 1 of t again"),
        ({"row": [1], "vector": [[1.0, 2.0, 3.0]]}, "expected 2 numbers in every line, found .*3"),
        ({"row": [1], "vector": [[1.0, float("nan")]]}, "others in the vector of row 1"),
        ({"row": [1, None], "vector": [[1.0, 2.0]] * 2}, "expected a row in every line"),
        ({"id": [1], "vector": [[1.0, 2.0]]}, "expected columns vector and row or value, found id, vector"),
    ],
)
def test_lines_that_do_not_fit_are_refused(columns: dict[str, Any], named: str, tmp_path: Path) -> None:
    """By the file, and what is wrong with which row."""
    path = parquet(tmp_path / "bad.parquet", **columns)
    with pytest.raises(DataError, match=rf"^{path}: .*{named}"):
        all_of(path, target())


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Another shape, whole numbers, no file, no array, values where nothing gives them rows."""
    np.save(tmp_path / "wide.npy", np.zeros((4, 3)))
    np.save(tmp_path / "whole.npy", np.zeros((4, 2), np.int64))
    (tmp_path / "text.npy").write_text("no array")
    values = parquet(tmp_path / "v.parquet", value=["1"], vector=[[1.0, 2.0]])
    for path, of, named in (
        (tmp_path / "wide.npy", target(), r"expected floats \[4, 2\], found float64 \[4, 3\]"),
        (tmp_path / "whole.npy", target(), "found int64"),
        (tmp_path / "none.npy", target(), "cannot be read as vectors of table t"),
        (tmp_path / "text.npy", target(), "cannot be read as vectors of table t"),
        (values, target(encoding="hash"), "no vocabulary, so values have no rows; give column row"),
    ):
        with pytest.raises(DataError, match=named):
            all_of(path, of)
