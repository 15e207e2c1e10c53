"""Embedding tables as safetensors: the rows that training touched, or all of them, in float32, float16 or int8.

    tables.safetensors   values by table name, `[stored, D]`
    rows.safetensors     numbers of the stored rows by table name, rising; absent where all rows are stored
    scales.safetensors   of int8 tables: what one step of each stored row is worth

Rows that nobody touched hold the first values that any reader can compute (`bagpipe.rows.initial`). Files are written
from front to back, a block of rows at a time: memory does not grow with the tables, and a full disk is an error of
`write`, not a signal.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from bagpipe.batch import Floats, Keys
from bagpipe.checkpoint.kept_rows import KeptRows
from bagpipe.errors import CheckpointError, DataError
from bagpipe.export.manifest import check_export
from bagpipe.lowlevel.atomic_files import replacing_file
from bagpipe.lowlevel.strict_json import encode
from bagpipe.tables import Table

Dtype = Literal["fp32", "fp16", "int8"]
TABLES_FILE, ROWS_FILE, SCALES_FILE = "tables.safetensors", "rows.safetensors", "scales.safetensors"
BLOCK_ROWS = 1 << 16
_TYPES: dict[Dtype, tuple[str, npt.DTypeLike]] = {
    "fp32": ("F32", np.float32),
    "fp16": ("F16", np.float16),
    "int8": ("I8", np.int8),
}
_LARGEST_HALF = float(np.finfo(np.float16).max)
_STEPS = 127


def rounded(values_KD: Floats, dtype: Dtype, table: str) -> tuple[npt.NDArray[Any], Floats | None]:
    """Values as they are stored, and for int8 what a step of each row is worth.

    Raises:
        DataError: a value is too large for float16.
    """
    if dtype == "fp32":
        return values_KD, None
    largest_K = np.abs(values_KD).max(axis=1, initial=0.0)
    if dtype == "fp16":
        if largest_K.max(initial=0.0) > _LARGEST_HALF:
            raise DataError(f"table {table}: a weight of {largest_K.max():g} is too large for fp16; use fp32 or int8")
        return values_KD.astype(np.float16), None
    scales_K = (largest_K / np.float32(_STEPS)).astype(np.float32)
    steps = values_KD / np.where(scales_K > 0, scales_K, np.float32(1))[:, None]
    return np.clip(np.rint(steps), -_STEPS, _STEPS).astype(np.int8), scales_K


def restored(stored: npt.NDArray[Any], scales_K: Floats | None) -> Floats:
    """Stored values as float32."""
    values: Floats = stored.astype(np.float32)
    return values if scales_K is None else values * scales_K[:, None]


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is stored of one table."""

    table: Table
    dtype: Dtype
    rows: KeptRows
    first_key: int
    keys: Keys | None
    """None: all."""

    @property
    def count(self) -> int:
        return self.table.num_embeddings if self.keys is None else len(self.keys)

    def blocks(self) -> Iterator[tuple[Keys, Floats]]:
        """Row numbers and weights."""
        for at in range(0, self.count, BLOCK_ROWS):
            stop = min(at + BLOCK_ROWS, self.count)
            keys = np.arange(at, stop) + self.first_key if self.keys is None else self.keys[at:stop]
            yield keys - self.first_key, self.rows.weights(keys)


def write_tables(rows: list[KeptRows], out: Path, dtypes: Mapping[str, Dtype], *, all_rows: bool) -> list[str]:
    """Write the files into `out`; returns their names.

    Raises:
        DataError: a weight is too large for its type.
        StorageError: the disk is full or refuses.
    """
    stored = list(_stored(rows, dtypes, all_rows=all_rows))
    eighth = [one for one in stored if one.dtype == "int8"]
    with ExitStack() as stack:
        values = stack.enter_context(replacing_file(out / TABLES_FILE))
        values.write(_header([(o.table.name, o.dtype, (o.count, o.table.embedding_dim)) for o in stored]))
        numbers = scales = None
        if not all_rows:
            numbers = stack.enter_context(replacing_file(out / ROWS_FILE))
            numbers.write(_header([(o.table.name, "rows", (o.count,)) for o in stored]))
        if eighth:
            scales = stack.enter_context(replacing_file(out / SCALES_FILE))
            scales.write(_header([(o.table.name, "fp32", (o.count,)) for o in eighth]))
        for one in stored:
            _write(one, values, numbers, scales)
    found = {TABLES_FILE: True, ROWS_FILE: numbers is not None, SCALES_FILE: scales is not None}
    return [name for name, there in found.items() if there]


def _stored(rows: list[KeptRows], dtypes: Mapping[str, Dtype], *, all_rows: bool) -> Iterator[_Stored]:
    for group_rows in rows:
        group, keys = group_rows.group, None if all_rows else group_rows.touched()
        for table, first in zip(group.tables, group.offsets, strict=True):
            here = None
            if keys is not None:
                begin, end = np.searchsorted(keys, [first, first + table.num_embeddings])
                here = keys[begin:end]
            yield _Stored(table, dtypes.get(table.name, "fp32"), group_rows, first, here)


def _write(one: _Stored, values: BinaryIO, numbers: BinaryIO | None, scales: BinaryIO | None) -> None:
    for rows_K, weights_KD in one.blocks():
        found, found_scales = rounded(weights_KD, one.dtype, one.table.name)
        values.write(np.ascontiguousarray(found).data)
        if numbers is not None:
            numbers.write(np.ascontiguousarray(rows_K, np.int64).data)
        if scales is not None and found_scales is not None:
            scales.write(found_scales.data)


def _header(entries: list[tuple[str, Dtype | Literal["rows"], tuple[int, ...]]]) -> bytes:
    """The safetensors header of tensors that lie one after another."""
    found, end = {}, 0
    for name, dtype, shape in entries:
        code, kind = ("I64", np.int64) if dtype == "rows" else _TYPES[dtype]
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        found[name] = {"dtype": code, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = encode(found).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load_tables(directory: Path) -> dict[str, "np.ndarray[tuple[int, int], np.dtype[np.float32]]"]:
    """The whole tables of an export that was written with all rows in float32, by name.

    Raises:
        CheckpointError: there is no such export, or its tables are damaged.
    """
    path = directory / TABLES_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; write it with `bagpipe export --all-rows`")
    if (directory / ROWS_FILE).exists() or (directory / SCALES_FILE).exists():
        raise CheckpointError(f"{directory}: holds a part of the rows, or rounded ones; export again with --all-rows")
    check_export(directory, TABLES_FILE)
    return dict(safetensors.numpy.load_file(path))
