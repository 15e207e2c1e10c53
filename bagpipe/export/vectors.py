"""`bagpipe export --table`: the vectors of one table with the values that they stand for, as Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bagpipe.batch import Int64s
from bagpipe.checkpoint.kept_data import load_kept
from bagpipe.checkpoint.kept_rows import KeptRows, kept_rows
from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.data.raw import value_text
from bagpipe.data.transform import Transform
from bagpipe.errors import CheckpointError, ConfigError
from bagpipe.lowlevel.atomic_files import replacing_file
from bagpipe.tables import Table

BLOCK_ROWS = 1 << 15


def export_vectors(directory: Path, table: str, out: Path) -> int:
    """Write `value`, `row` and `vector` of one table, by row; returns the number of rows.

    With a vocabulary these are all its values. Where values are ids or are hashed, they are the rows that training
    touched; the value of an id is its number, and that of a hash is not known (null).

    Raises:
        CheckpointError: the checkpoint is damaged, or keeps no transform.
        ConfigError: there is no such table.
        StorageError: the file cannot be written; an older one is as it was.
    """
    checkpoint = open_checkpoint(directory)
    kept = load_kept(checkpoint)
    if kept is None:
        raise CheckpointError(f"{directory}: written before transforms were kept; resume the run to get a new one")
    for rows in kept_rows(checkpoint):
        for one, first in zip(rows.group.tables, rows.group.offsets, strict=True):
            if one.name == table:
                return _write(rows, one, first, kept.transform, out)
    names = ", ".join(t.name for t in checkpoint.manifest.tables)
    raise ConfigError(f"--table: there is no table {table}; the tables are {names}")


def _write(rows: KeptRows, table: Table, first: int, transform: Transform, out: Path) -> int:
    dim, count = table.embedding_dim, 0
    schema = pa.schema([("value", pa.string()), ("row", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])
    with replacing_file(out) as draft, pq.ParquetWriter(draft, schema, write_page_checksum=True) as writer:
        for values, numbers in _named_rows(rows, table, first, transform):
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.weights(numbers + first).reshape(-1)), dim)
            writer.write_table(pa.table([values, pa.array(numbers), vectors], schema=schema))
            count += len(numbers)
    return count


def _named_rows(rows: KeptRows, table: Table, first: int, transform: Transform) -> Iterator[tuple[Any, Int64s]]:
    """Values and row numbers, a block at a time."""
    if transform.vocabularies is not None:
        vocabulary = transform.vocabularies[table.name]
        kind = next(f.kind for f in transform.info.features if f.name == table.feature_names[0])
        for at in range(0, len(vocabulary.codes), BLOCK_ROWS):
            codes = vocabulary.codes[at : at + BLOCK_ROWS].tolist()
            numbers = np.arange(len(codes), dtype=np.int64) + at + vocabulary.first_row
            yield pa.array([value_text(code, kind) for code in codes], pa.string()), numbers
        return
    keys = rows.touched()
    begin, end = np.searchsorted(keys, [first, first + table.num_embeddings])
    for at in range(int(begin), int(end), BLOCK_ROWS):
        numbers = keys[at : min(at + BLOCK_ROWS, int(end))] - first
        known = transform.info.encoding == "ids"
        yield pa.array(numbers).cast(pa.string()) if known else pa.nulls(len(numbers), pa.string()), numbers
