"""Reads vectors for the rows of one table: `.npy`, or Parquet with columns `vector` and `row` or `value`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bagpipe.batch import Floats
from bagpipe.checkpoint.row_maps import Rows, TableOfRun
from bagpipe.data.raw import value_text
from bagpipe.errors import DataError
from bagpipe.lowlevel.atomic_files import raise_unless_file_at_fault

BLOCK_ROWS = 1 << 16


def read_vectors(path: Path, target: TableOfRun) -> Iterator[tuple[Rows, Floats]]:
    """Blocks of (rows of the table, their vectors), checked: no row twice, nothing out of range or not finite.

    Raises:
        DataError: the file cannot be read, or does not fit the table.
        StorageError: this process may not read it, or not now.
    """
    try:
        blocks = _npy(path, target) if path.suffix == ".npy" else _parquet(path, target)
        seen = np.zeros(target.table.num_embeddings, np.bool_)
        for rows, vectors in blocks:
            _check(path, target, rows, vectors, seen)
            seen[rows] = True
            yield rows, vectors
    except (OSError, ValueError, pa.ArrowException) as error:
        raise_unless_file_at_fault(path, error)
        raise DataError(f"{path}: cannot be read as vectors of table {target.table.name}: {error}") from None


def _npy(path: Path, target: TableOfRun) -> Iterator[tuple[Rows, Floats]]:
    array = np.lib.format.open_memmap(path, mode="r")
    expected = (target.table.num_embeddings, target.table.embedding_dim)
    if array.shape != expected or not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path}: expected floats {list(expected)}, found {array.dtype} {list(array.shape)}")
    for begin in range(0, len(array), BLOCK_ROWS):
        block = np.asarray(array[begin : begin + BLOCK_ROWS], np.float32)
        yield np.arange(begin, begin + len(block), dtype=np.int64), block


def _parquet(path: Path, target: TableOfRun) -> Iterator[tuple[Rows, Floats]]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        key = next((name for name in ("row", "value") if name in names), None)
        if key is None or "vector" not in names:
            raise DataError(f"{path}: expected columns vector and row or value, found {', '.join(names)}")
        row_of = _row_of_value(path, target) if key == "value" else None
        matched = row_of is None
        for batch in file.iter_batches(BLOCK_ROWS, columns=[key, "vector"]):
            vectors = _vectors(path, target, batch.column("vector"))
            keys = batch.column(key)
            if keys.null_count:
                raise DataError(
                    f"{path}: column {key}: expected a {key} in every line, found none in {keys.null_count}"
                )
            if row_of is None:
                yield keys.cast(pa.int64()).to_numpy(zero_copy_only=False), vectors
            else:
                rows = np.array([row_of(str(value)) for value in keys.to_pylist()], np.int64)
                matched = matched or bool((rows >= 0).any())
                yield rows[rows >= 0], vectors[rows >= 0]
        if not matched:
            raise DataError(
                f"{path}: column value: none of its values has a row in table {target.table.name}; write them as they "
                "stand in the data"
            )


def _vectors(path: Path, target: TableOfRun, column: Any) -> Floats:
    dim = target.table.embedding_dim
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    if (lengths != dim).any():
        found = np.unique(lengths).tolist()
        raise DataError(f"{path}: column vector: expected {dim} numbers in every line, found {found}")
    vectors: Floats = column.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, dim)
    return vectors


def _row_of_value(path: Path, target: TableOfRun) -> Callable[[str], int]:
    """From a value, as people write it, to its row; -1: it has none."""
    if target.encoding == "ids":
        count = target.table.num_embeddings
        return lambda text: int(text) if text.isdecimal() and str(int(text)) == text and int(text) < count else -1
    vocabulary, kind = target.vocabulary, target.kind
    if vocabulary is None or kind is None:
        raise DataError(f"{path}: table {target.table.name} has no vocabulary, so values have no rows; give column row")
    first = vocabulary.first_row
    rows = {value_text(int(code), kind): first + number for number, code in enumerate(vocabulary.codes)}
    return lambda text: rows.get(text, -1)


def _check(path: Path, target: TableOfRun, rows: Rows, vectors: Floats, seen: Any) -> None:
    count = target.table.num_embeddings
    outside = rows[(rows < 0) | (rows >= count)]
    if outside.size:
        raise DataError(f"{path}: expected rows from 0 to {count - 1}, found {outside[0]}")
    distinct, times = np.unique(rows, return_counts=True)
    twice = distinct[(times > 1) | seen[distinct]]
    if twice.size:
        raise DataError(f"{path}: expected every row once, found row {twice[0]} of {target.table.name} again")
    if not np.isfinite(vectors).all():
        bad = rows[~np.isfinite(vectors).all(axis=1)][0]
        raise DataError(f"{path}: expected finite numbers, found others in the vector of row {bad}")
