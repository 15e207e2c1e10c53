"""The prepared format: Parquet files with one column for each feature, and what they say about themselves.

A prepared folder holds `part-*.parquet` and nothing else. Every part carries `PreparedInfo` in its metadata, so a part
alone can be read, and a folder is ordinary Parquet for every other program; the first part encloses the vocabulary, if
values have rows of their own (`bagpipe.data.enclosed`).

Columns: `label` (or `label_0`...), `dense_<name>` float32, `sparse_<name>` int32 (int64 for tables beyond 2^31 rows),
or lists of them if multi-valued. Where told: `weight` float32 and `group` int64 of the example, `weight_<name>` lists
of float32 beside lists of rows.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from bagpipe.batch import Floats, Int64s, Lengths, SparseBlock
from bagpipe.data import prepared_kernels as kernels
from bagpipe.data.column_kernels import interleave
from bagpipe.data.encode import feature_positions
from bagpipe.data.examples import Examples
from bagpipe.data.files import InputFile
from bagpipe.data.lost_parts import check_parts
from bagpipe.data.parquet_columns import Role, check_schema, id_array, id_lists, number_array, weight_lists
from bagpipe.data.parquet_files import open_parquet
from bagpipe.data.raw import ordered_map
from bagpipe.data.remedies import prepare_again
from bagpipe.data.transform import KeptTable, TransformInfo
from bagpipe.errors import DataError
from bagpipe.tables import TableLayout

VERSION = 1
ROW_GROUP = 1 << 16
ROWS_PER_PART = 64 * ROW_GROUP
"""Of every part but the last one."""
METADATA_KEY = b"bagpipe"
REPORT_KEY = b"bagpipe.report"
"""In the last part only: what was known once all parts were written."""
_CHECKSUM = b".sha256"
"""Ends the key under which the digest of another key's text stands. Checksums of pages do not cover the footer."""
PART_NAME = "part-{:05d}.parquet"
FIRST_PART = PART_NAME.format(0)
OLD_TRANSFORM_FOLDER = "_transform"
"""Where folders prepared before December 2026 have their vocabulary."""
WEIGHT, GROUP = "weight", "group"
OLD_TABLES_FILE = "tables.json"
"""Folders prepared before November 2026 have their `PreparedInfo` in this file too."""


PreparedTable = KeptTable


def with_checksum(key: bytes, text: bytes) -> dict[bytes, bytes]:
    """Metadata of a part: a text under its key, and the text's digest."""
    return {key: text, key + _CHECKSUM: hashlib.sha256(text).hexdigest().encode()}


def _whole(metadata: Mapping[bytes, bytes], key: bytes, name: str, what: str) -> bytes | None:
    """The text under a key as it was written; None: there is none.

    Raises:
        DataError: it differs from its digest. Parts that were prepared before there were digests have none.
    """
    text = metadata.get(key)
    digest = metadata.get(key + _CHECKSUM)
    if text is not None and digest is not None and hashlib.sha256(text).hexdigest().encode() != digest:
        raise DataError(f"{name}: damaged {what} (its checksum differs); {prepare_again(name)}")
    return text


class Recipe(msgspec.Struct, frozen=True, rename="camel"):
    """How raw values became rows."""

    source: str
    encoding: str
    hash_size: int
    min_count: int
    numeric_bins: str
    test_fraction: float
    on_bad_line: str


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """What the last part adds."""

    bad_lines: int
    first_bad: str | None
    train_examples: int | None = None
    validation_examples: int = 0


class PreparedInfo(msgspec.Struct, frozen=True, rename="camel"):
    """What a prepared part says about itself."""

    version: int
    num_labels: int
    dense: tuple[str, ...]
    jagged: bool
    tables: tuple[PreparedTable, ...]
    recipe: Recipe
    bad_lines: int = 0
    first_bad: str | None = None
    transform: TransformInfo | None = None
    """None: prepared before transforms were kept, or by somebody else."""
    train_examples: int | None = None
    """Where the training part ends, if the data was split while it was prepared."""
    validation_examples: int = 0
    """What lies between that and the test part."""
    weighted: bool = False
    grouped: bool = False
    value_weights: tuple[str, ...] = ()
    """Features whose values have weights."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f for t in self.tables for f in t.feature_names)

    @property
    def shape(self) -> tuple[object, ...]:
        """What all files read together have to share."""
        return (self.tables, self.dense, self.num_labels, self.jagged, self.weighted, self.grouped, self.value_weights)

    @property
    def label_columns(self) -> list[str]:
        return ["label"] if self.num_labels == 1 else [f"label_{i}" for i in range(self.num_labels)]

    @property
    def dense_columns(self) -> list[str]:
        return [f"dense_{name}" for name in self.dense]

    def arrow_schema(self) -> pa.Schema:
        fields = [(name, pa.float32()) for name in self.label_columns]
        fields += [(f"dense_{name}", pa.float32()) for name in self.dense]
        for table in self.tables:
            ids = pa.int32() if table.num_embeddings <= 2**31 else pa.int64()
            kind = pa.list_(pa.field("element", ids, nullable=False)) if self.jagged else ids
            fields += [(f"sparse_{name}", kind) for name in table.feature_names]
        fields += [(WEIGHT, pa.float32())] * self.weighted + [(GROUP, pa.int64())] * self.grouped
        weights = pa.list_(pa.field("element", pa.float32(), nullable=False))
        fields += [(f"{WEIGHT}_{name}", weights) for name in self.value_weights]
        columns = [pa.field(name, kind, nullable=False) for name, kind in fields]
        return pa.schema(columns, metadata=with_checksum(METADATA_KEY, msgspec.json.encode(self)))


@dataclass(frozen=True, slots=True)
class _Group:
    """The columns of one width group and the keys they become."""

    columns: tuple[str, ...]
    tables: tuple[str, ...]
    offsets: Int64s
    sizes: Int64s


@dataclass(frozen=True, slots=True)
class _Piece:
    """One row group of one file; `first_row` counts within the file."""

    file: InputFile
    metadata: Any
    index: int
    first_row: int
    num_rows: int


class PreparedSource:
    """Prepared files as an `ExampleSource` with the keys of `layout`."""

    def __init__(
        self,
        files: Sequence[InputFile],
        info: PreparedInfo,
        layout: TableLayout,
        readers: int = 0,
        *,
        check_pages: bool = False,
    ) -> None:
        self.info, self.layout, self._readers, self._check_pages = info, layout, readers, check_pages
        self._groups = tuple(_group(info, layout, i) for i in range(len(layout.groups)))
        numbers = info.label_columns + info.dense_columns
        ids: Role = "ids" if info.jagged else "id"
        sparse = dict.fromkeys(c for g in self._groups for c in g.columns)
        weights: tuple[tuple[str, Role], ...] = ((WEIGHT, "number"),) * info.weighted
        groups: tuple[tuple[str, Role], ...] = ((GROUP, "id"),) * info.grouped
        of_values: tuple[tuple[str, Role], ...] = tuple((f"{WEIGHT}_{n}", "numbers") for n in info.value_weights)
        self._columns: tuple[tuple[str, Role], ...] = (
            *((n, "number") for n in numbers), *((n, ids) for n in sparse), *weights, *groups, *of_values
        )  # fmt: skip
        self._pieces = tuple(piece for file in files if file.size for piece in _pieces(file, info, self._columns))
        self.num_examples = sum(p.num_rows for p in self._pieces)

    def __repr__(self) -> str:
        return f"PreparedSource(examples={self.num_examples}, tables={len(self.layout.tables)})"

    def read(self, start: int, stop: int | None) -> Iterator[Examples]:
        """Examples `start..stop-1`; row groups outside are not read.

        Raises:
            DataError: an id does not fit its table, or a file is damaged.
        """
        end = self.num_examples if stop is None else min(stop, self.num_examples)
        wanted, position = [], 0
        for piece in self._pieces:
            if position < end and position + piece.num_rows > start:
                wanted.append((position, piece))
            position += piece.num_rows
        for (at, _), examples in zip(
            wanted, ordered_map(self._read, iter([p for _, p in wanted]), self._readers), strict=True
        ):
            yield examples.slice(max(0, start - at), min(len(examples), end - at))

    def _read(self, piece: _Piece) -> Examples:
        names = [name for name, _ in self._columns]
        try:
            with open_parquet(piece.file, piece.metadata, check=self._check_pages) as parquet:
                table = parquet.read_row_group(piece.index, columns=names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{piece.file.name}: row group {piece.index} is damaged ({error}); {prepare_again(piece.file.name)}"
            ) from error
        labels_BL = _floats(table, self.info.label_columns, piece)
        dense_BF = _floats(table, self.info.dense_columns, piece)
        weights_B = _floats(table, [WEIGHT], piece).reshape(-1) if self.info.weighted else None
        where = (piece.file.name, piece.first_row)
        groups_B = id_array(table, GROUP, *where).astype(np.int64, copy=False) if self.info.grouped else None
        sparse = tuple(self._block(g, table, piece) for g in self._groups)
        return Examples(labels_BL, dense_BF, sparse, weights_B, groups_B)

    def _block(self, group: _Group, table: pa.Table, piece: _Piece) -> SparseBlock:
        where = (piece.file.name, piece.first_row)
        if not self.info.jagged:
            stacked = np.stack([id_array(table, name, *where) for name in group.columns])
            keys_BT = np.empty((table.num_rows, len(group.columns)), np.int64)
            wrong = kernels.interleave_ids(stacked, group.offsets, group.sizes, keys_BT)
            if wrong >= 0:
                example, feature = divmod(wrong, len(group.columns))
                raise _out_of_range(group, piece, example, feature, int(keys_BT[example, feature]))
            return SparseBlock(keys_BT.reshape(-1))
        values, lengths = zip(*(id_lists(table, name, *where) for name in group.columns), strict=True)
        lengths_BT = np.ascontiguousarray(np.stack(lengths, axis=1))
        starts = np.cumsum([0] + [len(v) for v in values])[:-1]
        keys_N = np.empty(sum(len(v) for v in values), np.int64)
        wrong = kernels.interleave_lists(np.concatenate(values), starts, lengths_BT, group.offsets, group.sizes, keys_N)
        if wrong >= 0:
            before = np.cumsum(lengths_BT.reshape(-1))
            example, feature = divmod(int(np.searchsorted(before, wrong, side="right")), len(group.columns))
            raise _out_of_range(group, piece, example, feature, int(keys_N[wrong]))
        return SparseBlock(keys_N, lengths_BT, self._weights(group, table, piece, lengths_BT))

    def _weights(self, group: _Group, table: pa.Table, piece: _Piece, lengths_BT: Lengths) -> Floats | None:
        weighted = [f"sparse_{name}" for name in self.info.value_weights]
        if not any(name in weighted for name in group.columns):
            return None
        parts = []
        for name, lengths_B in zip(group.columns, lengths_BT.T, strict=True):
            if name not in weighted:
                parts.append(np.ones(int(lengths_B.sum()), np.float32))
                continue
            of_name = name.replace("sparse_", f"{WEIGHT}_", 1)
            parts.append(weight_lists(table, of_name, lengths_B, piece.file.name, piece.first_row))
        begins = np.cumsum([0] + [len(part) for part in parts])[:-1]
        begins_BT = begins + np.cumsum(lengths_BT, axis=0, dtype=np.int64) - lengths_BT
        weights_N = np.empty(int(lengths_BT.sum(dtype=np.int64)), np.float32)
        interleave(np.concatenate(parts), begins_BT, lengths_BT, weights_N)
        return weights_N


def _out_of_range(group: _Group, piece: _Piece, example: int, feature: int, key: int) -> DataError:
    return DataError(
        f"{piece.file.name}: row {piece.first_row + example + 1}: id {key - group.offsets[feature]} of "
        f"{group.columns[feature]} is out of range for table {group.tables[feature]} ({group.sizes[feature]} rows); "
        f"raise the table's numEmbeddings or {prepare_again(piece.file.name)}"
    )


def read_info(file: InputFile) -> PreparedInfo:
    """What a prepared part says about itself.

    Raises:
        DataError: not Parquet, damaged, or not prepared by us.
    """
    try:
        with open_parquet(file) as parquet:
            metadata = parquet.schema_arrow.metadata or {}
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{file.name}: no such file; check data.path") from error
        raise DataError(f"{file.name}: not a readable Parquet file ({error}); {prepare_again(file.name)}") from error
    text, listed = _whole(metadata, METADATA_KEY, file.name, "table list"), _listed_beside(file)
    own = _decode(text, file.name) if text is not None else None
    # The same list; a part that another program has rewritten may have lost its own.
    info = _decode(listed.read_bytes(), str(listed)) if listed is not None else own
    if info is None:
        raise DataError(f"{file.name}: Parquet without bagpipe's table list; make it with `bagpipe data prepare`")
    if own is not None and own.shape != info.shape:
        raise DataError(f"{file.name}: prepared with other tables than {listed} says; prepare all files together")
    if info.version != VERSION:
        raise DataError(
            f"{file.name}: prepared format {info.version}, this version reads {VERSION}; {prepare_again(file.name)}"
        )
    return info


def _listed_beside(file: InputFile) -> Path | None:
    if file.remote:
        return None
    path = Path(file.name).parent / OLD_TABLES_FILE
    return path if path.is_file() else None


def with_report(info: PreparedInfo, files: Sequence[InputFile]) -> PreparedInfo:
    """`info`, and what was known when the last of `files` was written.

    Raises:
        DataError: a part of a folder is missing, be it before the others, between or behind them; or the last one's
            report is damaged.
    """

    @cache
    def report_of(file: InputFile) -> tuple[bytes | None, int]:
        """The report that a part ends with, if it does, and the number of its rows."""
        with open_parquet(file) as parquet:
            footer = parquet.metadata
        return _whole(footer.metadata or {}, REPORT_KEY, file.name, "report"), footer.num_rows

    check_parts(files, PART_NAME, lambda last: report_of(last) == (None, ROWS_PER_PART))
    text, _ = report_of(files[-1])
    if text is None:
        return info
    try:
        report = msgspec.json.decode(text, type=Report)
    except ValueError as error:
        raise DataError(f"{files[-1].name}: damaged report ({error}); {prepare_again(files[-1].name)}") from error
    return msgspec.structs.replace(
        info,
        bad_lines=report.bad_lines,
        first_bad=report.first_bad,
        train_examples=report.train_examples,
        validation_examples=report.validation_examples,
    )


def _decode(text: bytes, name: str) -> PreparedInfo:
    try:
        return msgspec.json.decode(text, type=PreparedInfo)
    except ValueError as error:
        raise DataError(f"{name}: damaged table list ({error}); {prepare_again(name)}") from error


def _pieces(file: InputFile, info: PreparedInfo, columns: Sequence[tuple[str, Role]]) -> list[_Piece]:
    found = read_info(file)
    if found.shape != info.shape:
        raise DataError(f"{file.name}: prepared with other tables than the files before it; prepare all files together")
    with open_parquet(file) as parquet:
        metadata = parquet.metadata
        check_schema(file.name, parquet.schema_arrow, columns)
    pieces, first = [], 0
    for index in range(metadata.num_row_groups):
        rows = metadata.row_group(index).num_rows
        pieces.append(_Piece(file, metadata, index, first, rows))
        first += rows
    return pieces


def _group(info: PreparedInfo, layout: TableLayout, number: int) -> _Group:
    group, names = layout.groups[number], info.feature_names
    columns: list[str] = []
    tables: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    for table, offset in zip(group.tables, group.offsets, strict=True):
        feature_positions(names, table.feature_names, table.name)
        for name in table.feature_names:
            columns.append(f"sparse_{name}")
            tables.append(table.name)
            offsets.append(offset)
            sizes.append(table.num_embeddings)
    return _Group(tuple(columns), tuple(tables), np.array(offsets, np.int64), np.array(sizes, np.int64))


def _floats(table: pa.Table, names: Sequence[str], piece: _Piece) -> Floats:
    out = np.empty((table.num_rows, len(names)), np.float32)
    if names:
        where = (piece.file.name, piece.first_row)
        columns_FB = np.stack([number_array(table, name, *where) for name in names])
        wrong = kernels.interleave_floats(columns_FB, out)
        if wrong >= 0:
            example, column = divmod(wrong, len(names))
            raise DataError(
                f"{piece.file.name}: row {piece.first_row + example + 1}: expected a finite number in column "
                f"{names[column]}, found {out[example, column]}; fix the row or {prepare_again(piece.file.name)}"
            )
    return out
