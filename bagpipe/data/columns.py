"""Data of one's own, by `data.columns`: tables of any format as a `RawSource`.

The first file decides what the codes of each feature are; later files may have other types and another order of
columns, as long as every cell can be read as what the first file's was.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bagpipe.config.columns import ColumnsConfig, DenseColumn, SparseColumn
from bagpipe.data.column_cells import (
    counted_cells,
    dense_cells,
    group_cells,
    label_cells,
    label_source,
    side_by_side,
    source_of,
    sparse_cells,
    weight_cells,
)
from bagpipe.data.column_files import TablePiece, table_format, table_pieces, table_schema
from bagpipe.data.column_values import Problems, is_list, kind_of
from bagpipe.data.files import InputFile
from bagpipe.data.raw import Kind, RawBlock, RawFeature, RawSchema
from bagpipe.data.split import Part, Split
from bagpipe.data.transform import DenseStatistics, TransformInfo
from bagpipe.data.value_counts import ValueCounts
from bagpipe.errors import ConfigError, DataError
from bagpipe.lowlevel.wording import no_column

REMEDY = "fix the row or set data.onBadLine: skip"


@dataclass(frozen=True, slots=True)
class ColumnSource:
    """The files' rows as raw blocks."""

    files: tuple[InputFile, ...]
    stated: str
    columns: ColumnsConfig
    schema: RawSchema
    types: pa.Schema
    """Of the first file, for JSON."""
    skip_bad: bool = False
    labelled: bool = True
    extra: tuple[str, ...] = ()
    """Columns that pieces have beside those that are read."""
    split: Split | None = None
    """None: by file order."""
    part: Part | None = None
    """With a split: only these examples; None: all."""
    statistics: tuple[DenseStatistics, ...] | None = None
    """None: not learned yet; columns to be standardised are as they are before."""
    counts: Mapping[str, ValueCounts] = field(default_factory=dict)
    """Of each dense column with `count`, by its name."""
    counted_cells: bool = False
    """The values of these columns are features too, after the others, so that they can be counted."""

    @property
    def num_examples(self) -> int | None:
        return None

    def with_statistics(self, statistics: tuple[DenseStatistics, ...]) -> "ColumnSource":
        return replace(self, statistics=statistics)

    def with_counts(self, counts: Mapping[str, ValueCounts]) -> "ColumnSource":
        return replace(self, counts=counts)

    def with_counted_cells(self) -> "ColumnSource":
        """The same source, whose blocks have the values to be counted as features (`counted_names`)."""
        both = zip(counted_names(self.columns), self.counts.values(), strict=True)
        more = tuple(RawFeature(name, counts.kind) for name, counts in both)
        schema = replace(self.schema, features=self.schema.features + more)
        return replace(self, counted_cells=True, schema=schema)

    def unfilled(self) -> "ColumnSource":
        """The same source, whose missing dense values are NaN."""
        dense = tuple(msgspec.structs.replace(column, fill=math.nan) for column in self.columns.dense)
        return replace(self, columns=msgspec.structs.replace(self.columns, dense=dense))

    def with_extra(self, names: tuple[str, ...]) -> "ColumnSource":
        """The same source, whose pieces have these columns too."""
        return replace(self, extra=names)

    def with_split(self, split: Split) -> "ColumnSource":
        """The same source with a rule of who is for what."""
        return replace(self, split=split)

    def times_of(self, piece: TablePiece) -> bytes:
        """The times of a piece's rows, for a split by time, as floats of 64 bits; without the rows to be skipped.

        Raises:
            DataError: one is missing or cannot be read, and bad rows are not skipped.
        """
        assert self.split is not None
        table = piece.load()
        problems = Problems(np.zeros(table.num_rows, np.bool_))
        times = self.split.times_in(table, problems)
        self._refuse(problems, piece, piece.row_numbers(table.num_rows))
        return times[~problems.bad].tobytes()

    def _group_kind(self) -> Kind | None:
        """What groups are by the file that tells it, whatever type they have in others; None: there are none."""
        name = self.columns.group
        return kind_of(self.files[0].name, name, self.types.field(name).type) if name in self.types.names else None

    def _refuse(self, problems: Problems, piece: TablePiece, rows: npt.NDArray[np.int64]) -> str | None:
        """The first problem in words; None: there is none.

        Raises:
            DataError: there is one, and bad rows are not skipped.
        """
        if problems.first_row is None:
            return None
        words = f"{piece.file}: row {rows[problems.first_row]}: {problems.words}"
        if not self.skip_bad:
            raise DataError(f"{words}; {REMEDY}")
        return words

    def only(self, part: Part) -> "ColumnSource":
        return replace(self, part=part)

    def pieces(self, start: int) -> tuple[int, Iterator[TablePiece]]:
        return 0, self._pieces()

    def _pieces(self) -> Iterator[TablePiece]:
        names = wanted_columns(self.columns, labelled=self.labelled)
        if self.split is not None and self.split.column not in names:
            names.append(self.split.column)
        names = list(dict.fromkeys([*names, *self.extra]))
        for file in self.files:
            if not file.size:
                continue
            kind = table_format(file, self.stated)
            check_columns(
                file.name, table_schema(file, kind, self.columns.header), names, (), trained=not self.labelled
            )
            yield from table_pieces(file, kind, names, self.types, self.columns.header, skip_bad=self.skip_bad)

    def parse(self, piece: TablePiece) -> RawBlock:
        try:
            return self._parsed(piece)
        except pa.ArrowException as error:
            words = " ".join(str(error).split())
            raise DataError(
                f"{piece.file}: rows from {piece.first_row} on cannot be read as data.columns say ({words}); cast the "
                "column to text or numbers, or put it under data.columns.ignore"
            ) from error

    def _parsed(self, piece: TablePiece) -> RawBlock:
        table = piece.load()
        rows = piece.row_numbers(table.num_rows)
        if self.part not in (None, "training"):  # Malformed rows belong to no part; they are counted once.
            piece = replace(piece, bad_rows=(), first_bad=None)
        if self.split is not None and self.part is not None:
            late = Problems(np.zeros(table.num_rows, np.bool_))
            chosen = self.split.chosen(table, self._group_kind(), self.part, late)
            if (words := self._refuse(late, piece, rows)) and self.part == "training":
                unread = (*piece.bad_rows, *rows[late.bad].tolist())
                piece = replace(piece, bad_rows=unread, first_bad=piece.first_bad or words)
            table, rows = table.filter(pa.array(chosen)), rows[chosen]
        problems = Problems(np.zeros(table.num_rows, np.bool_))
        block = self._block(table, piece, rows, problems)
        if not (words := self._refuse(problems, piece, rows)):
            return block
        good = ~problems.bad
        again = Problems(np.zeros(int(good.sum()), np.bool_))
        block = self._block(table.filter(pa.array(good)), piece, rows[good], again)
        bad_lines = len(piece.bad_rows) + int(problems.bad.sum())
        return replace(block, bad_lines=bad_lines, first_bad=piece.first_bad or words)

    def _block(self, table: pa.Table, piece: TablePiece, rows: npt.NDArray[np.int64], problems: Problems) -> RawBlock:
        count, columns = table.num_rows, self.columns
        labels_BL = np.zeros((count, len(columns.labels)), np.float32)
        if self.labelled:
            for place, label in enumerate(columns.labels):
                labels_BL[:, place] = label_cells(table, label, problems)
        dense_BF = np.zeros((count, len(columns.dense)), np.float32)
        known = {s.name: s for s in self.statistics or ()}
        for place, dense in enumerate(columns.dense):
            counts = self.counts.get(dense.name)
            dense_BF[:, place] = dense_cells(table, dense, known.get(dense.name), problems, counts)
        kinds = [f.kind for f in self.schema.features]
        jagged, both = self.schema.jagged, zip(columns.sparse, kinds, strict=False)
        lists = [sparse_cells(table, c, kind, problems, jagged=jagged) for c, kind in both]
        if self.counted_cells:
            lists += [counted_cells(table, c, self.counts[c.name].kind, problems) for c in counting(columns)]
        codes_N, lengths_BT, weights_N = side_by_side(lists, jagged=self.schema.jagged)
        kind = self._group_kind() if self.schema.grouped else None
        groups_B = None if kind is None else group_cells(table, columns.group, kind, problems)
        return RawBlock(
            labels_BL, dense_BF, codes_N, lengths_BT, piece.file, rows, len(piece.bad_rows), piece.first_bad,
            weight_cells(table, columns.weight, problems) if self.schema.weighted else None,
            groups_B,
            weights_N,
        )  # fmt: skip


def open_columns(
    files: Sequence[InputFile],
    columns: ColumnsConfig,
    *,
    stated: str,
    ids: bool = False,
    skip_bad: bool = False,
    labelled: bool = True,
    kept: TransformInfo | None = None,
) -> ColumnSource:
    """Look at the file that tells what columns are.

    Args:
        ids: values are row numbers.
        kept: says what the codes of each feature were when the model was trained; None: that file decides.

    Raises:
        ConfigError: a column is named that is not there, or there and not named.
        DataError: the type of a column cannot be what it is to be, or a model was trained on one that is not there.
    """
    first, schema = telling_file(files, columns, stated)
    wanted = wanted_columns(columns, labelled=labelled)
    check_columns(first.name, schema, wanted, all_columns(columns), trained=kept is not None)
    jagged = any(_is_several(c, schema) for c in columns.sparse)
    if kept is not None and kept.jagged:  # A new user's history is missing: such a column tells nothing of lists.
        jagged = jagged or any(_has_no_type(schema.field(source_of(c)).type) for c in columns.sparse)
    if kept is not None:
        kinds, counted = [f.kind for f in kept.features], [f.kind for f in kept.counted]
    else:
        kinds = kinds_in(first.name, columns, schema, ids=ids)
        counted = [_counted_kind(first.name, c, schema) for c in counting(columns)]
    counts = {c.name: ValueCounts.unlearned(kind) for c, kind in zip(counting(columns), counted, strict=True)}
    found = tuple(
        RawFeature(c.name, kind, weighted=bool(c.weight)) for c, kind in zip(columns.sparse, kinds, strict=True)
    )
    raw = RawSchema(
        found,
        tuple(c.name for c in columns.dense),
        len(columns.labels),
        jagged,
        weighted=labelled and bool(columns.weight),
        grouped=labelled and bool(columns.group),
    )
    return ColumnSource(tuple(files), stated, columns, raw, schema, skip_bad, labelled, counts=counts)


def telling_file(files: Sequence[InputFile], columns: ColumnsConfig, stated: str) -> tuple[InputFile, pa.Schema]:
    """The first file whose columns all have a type, and its columns; if none is, the first that is not empty.

    A column without a value has no type where pandas writes it, and a later file may have values.

    Raises:
        DataError: all files are empty, or one of them is damaged.
    """
    wanted, first = wanted_columns(columns, labelled=True), None
    for file in (f for f in files if f.size):
        schema = table_schema(file, table_format(file, stated), columns.header)
        first = first or (file, schema)
        if not any(_has_no_type(field.type) for field in schema if field.name in wanted):
            return file, schema
    if first is None:
        raise DataError(f"{files[0].name}: empty file; expected at least one example")
    return first


def _has_no_type(kind: pa.DataType) -> bool:
    while is_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_null(kind))


def kinds_in(file: str, columns: ColumnsConfig, schema: pa.Schema, *, ids: bool = False) -> list[Kind]:
    """What the codes of each sparse feature are, by the types of a file that has all columns.

    Raises:
        DataError: the type of a column cannot be what it is to be.
    """
    plain = [c for c in columns.dense if c.count == "none"]
    for name in [*map(label_source, columns.labels), *map(source_of, plain)]:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise DataError(
                f"{file}: column {name}: expected numbers or text, found {kind}; write a column for each number, or "
                "put it under data.columns.ignore"
            )
    for name in filter(None, (columns.group, columns.time)):
        if name in schema.names:
            kind_of(file, name, schema.field(name).type)
    return [_kind(file, column, schema, ids=ids) for column in columns.sparse]


def _kind(file: str, column: SparseColumn, schema: pa.Schema, *, ids: bool) -> Kind:
    if column.boundaries:
        return "interval"
    if column.bins != "none":
        return "bin"
    if column.part != "none":
        return "token"
    return "int" if ids else kind_of(file, source_of(column), schema.field(source_of(column)).type)


def counting(columns: ColumnsConfig) -> tuple[DenseColumn, ...]:
    """The dense columns with `count`."""
    return tuple(c for c in columns.dense if c.count != "none")


def counted_names(columns: ColumnsConfig) -> tuple[str, ...]:
    """Names for their values as features, each longer than any sparse feature's."""
    longer = "_" * (1 + max((len(c.name) for c in columns.sparse), default=0))
    return tuple(longer + c.name for c in counting(columns))


def _counted_kind(file: str, column: DenseColumn, schema: pa.Schema) -> Kind:
    """What the codes of the values to be counted are.

    Raises:
        DataError: the column has several values in a cell, or its type can be no value.
    """
    kind = schema.field(source_of(column)).type
    if pa.types.is_nested(kind):
        raise DataError(
            f"{file}: column {source_of(column)}: expected one value in each cell, for the count of data.columns.dense "
            f"{column.name}, found {kind}; count another column, or write one with one value for each row"
        )
    return kind_of(file, source_of(column), kind)


def _is_several(column: SparseColumn, schema: pa.Schema) -> bool:
    """Whether lengths have to be told: there are lists, or weights, which only go with lengths."""
    return bool(column.separator or column.brackets or column.weight) or is_list(schema.field(source_of(column)).type)


def wanted_columns(columns: ColumnsConfig, *, labelled: bool) -> list[str]:
    """Columns to read, each once. Without labels nothing is compared, so nobody asks for weights and groups."""
    names = [label_source(label) for label in columns.labels] if labelled else []
    names += [source_of(c) for c in columns.dense] + [n for c in columns.sparse for n in (source_of(c), c.weight)]
    names += [columns.weight, columns.group] if labelled else []
    return list(dict.fromkeys(name for name in names if name))


def all_columns(columns: ColumnsConfig) -> tuple[str, ...]:
    """Every column that is spoken of; `*` stands for all others."""
    named = [*wanted_columns(columns, labelled=True), *([columns.time] if columns.time else [])]
    return tuple(dict.fromkeys([*named, *columns.ignore]))


def check_columns(
    file: str,
    schema: pa.Schema,
    names: Sequence[str],
    spoken_of: Sequence[str],
    *,
    trained: bool = False,
    labels: Sequence[str] = (),
) -> None:
    """Every wanted column is there once, and every column that is there is spoken of (if any are).

    Args:
        trained: a model was trained on these columns, so that a file without one of them is wrong, and not the job;
            columns that the model does not know are passed over.
        labels: which of `names` are labels of an evaluation, without which the rows can still be scored.

    Raises:
        ConfigError: names the column and the nearest one that is there.
        DataError: the same, of a model's data; or the file has a column twice.
    """
    there, counts = schema.names, Counter(schema.names)
    for name in names:
        count = counts[name]
        if count > 1:
            raise DataError(f"{file}: column {name} is there {count} times; give each column a name of its own")
        if not count:
            missing = no_column(name, file, there)
            if trained and name in labels:
                missing += "; an evaluation needs labels: `bagpipe predict` scores rows that have none"
            raise DataError(missing) if trained else ConfigError(f"data.columns: {missing}")
    if spoken_of and "*" not in spoken_of and not trained:
        known = set(spoken_of)
        strange = [name for name in there if name not in known]
        if strange:
            raise ConfigError(
                f"data.columns: {file} has a column {strange[0]!r} that is not spoken of; add it to dense, sparse or "
                "ignore (`ignore: ['*']` for all others)"
            )
