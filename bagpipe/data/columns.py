"""Data of one's own, by `data.columns`: tables of any format as a `RawSource`.

The first file decides what the codes of each feature are; later files may have other types and another order of
columns, as long as every cell can be read as what the first file's was.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.batch import Floats, Int64s, Lengths
from bagpipe.config.column_rules import LabelRule, label_rule
from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.data import column_kernels as kernels
from bagpipe.data.column_files import TablePiece, table_format, table_pieces, table_schema
from bagpipe.data.column_values import Floats64, Problems, codes_of, is_list, kind_of, numbers_of, plain
from bagpipe.data.files import InputFile
from bagpipe.data.raw import Codes, Kind, RawBlock, RawFeature, RawSchema
from bagpipe.data.split import Part, Split
from bagpipe.data.transform import DenseStatistics
from bagpipe.errors import ConfigError, DataError

LARGEST = float(np.finfo(np.float32).max)
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

    @property
    def num_examples(self) -> int | None:
        return None

    def with_statistics(self, statistics: tuple[DenseStatistics, ...]) -> "ColumnSource":
        return replace(self, statistics=statistics)

    def with_extra(self, names: tuple[str, ...]) -> "ColumnSource":
        """The same source, whose pieces have these columns too."""
        return replace(self, extra=names)

    def with_split(self, split: Split) -> "ColumnSource":
        """The same source with a rule of who is for tests; by time, this reads the time of every row."""
        source = replace(self, split=split)
        return replace(source, split=split.with_times((p.file, p.load()) for p in source.pieces(0)[1]))

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
            check_columns(file.name, table_schema(file, kind), names, ())
            yield from table_pieces(file, kind, names, self.types, skip_bad=self.skip_bad)

    def parse(self, piece: TablePiece) -> RawBlock:
        table = piece.load()
        if self.part == "test":  # Malformed rows belong to neither part; they are counted once.
            piece = replace(piece, bad_lines=0, first_bad=None)
        rows = np.arange(piece.first_row, piece.first_row + table.num_rows, dtype=np.int64)
        if self.split is not None and self.part is not None:
            chosen = self.split.is_test(table, piece.file) == (self.part == "test")
            table, rows = table.filter(pa.array(chosen)), rows[chosen]
        problems = Problems(np.zeros(table.num_rows, np.bool_))
        block = self._block(table, piece, rows, problems)
        if problems.first_row is None:
            return block
        words = f"{piece.file}: row {rows[problems.first_row]}: {problems.words}"
        if not self.skip_bad:
            raise DataError(f"{words}; {REMEDY}")
        good = ~problems.bad
        again = Problems(np.zeros(int(good.sum()), np.bool_))
        block = self._block(table.filter(pa.array(good)), piece, rows[good], again)
        return replace(block, bad_lines=piece.bad_lines + int(problems.bad.sum()), first_bad=piece.first_bad or words)

    def _block(self, table: pa.Table, piece: TablePiece, rows: npt.NDArray[np.int64], problems: Problems) -> RawBlock:
        count, columns = table.num_rows, self.columns
        labels_BL = np.zeros((count, len(columns.labels)), np.float32)
        if self.labelled:
            for place, label in enumerate(columns.labels):
                labels_BL[:, place] = _label(table, label, problems)
        dense_BF = np.zeros((count, len(columns.dense)), np.float32)
        known = {s.name: s for s in self.statistics or ()}
        for place, dense in enumerate(columns.dense):
            dense_BF[:, place] = _dense(table, dense, known.get(dense.name), problems)
        kinds = [f.kind for f in self.schema.features]
        lists = [_sparse(table, c, kind, problems) for c, kind in zip(columns.sparse, kinds, strict=True)]
        codes_N, lengths_BT = _side_by_side(lists, count, jagged=self.schema.jagged)
        return RawBlock(
            labels_BL, dense_BF, codes_N, lengths_BT, piece.file, rows, piece.bad_lines, piece.first_bad,
            _weights(table, columns.weight, problems) if self.schema.weighted else None,
            _groups(table, columns.group, piece.file) if self.schema.grouped else None,
        )  # fmt: skip


def open_columns(
    files: Sequence[InputFile],
    columns: ColumnsConfig,
    *,
    stated: str,
    ids: bool = False,
    skip_bad: bool = False,
    labelled: bool = True,
    features: tuple[RawFeature, ...] | None = None,
) -> ColumnSource:
    """Look at the first file.

    Args:
        ids: values are row numbers.
        features: what codes were when the model was trained; None: the first file decides.

    Raises:
        ConfigError: a column is named that is not there, or there and not named.
        DataError: the type of a column cannot be what it is to be.
    """
    first = next((f for f in files if f.size), None)
    if first is None:
        raise DataError(f"{files[0].name}: empty file; expected at least one example")
    schema = table_schema(first, table_format(first, stated))
    check_columns(first.name, schema, wanted_columns(columns, labelled=labelled), all_columns(columns))
    jagged = any(_is_several(c, schema) for c in columns.sparse)
    found = features or tuple(RawFeature(c.name, _kind(first.name, c, schema, ids=ids)) for c in columns.sparse)
    raw = RawSchema(
        found,
        tuple(c.name for c in columns.dense),
        len(columns.labels),
        jagged,
        weighted=labelled and bool(columns.weight),
        grouped=labelled and bool(columns.group),
    )
    return ColumnSource(tuple(files), stated, columns, raw, schema, skip_bad, labelled)


def _kind(file: str, column: SparseColumn, schema: pa.Schema, *, ids: bool) -> Kind:
    if column.boundaries:
        return "interval"
    return "int" if ids else kind_of(file, source_of(column), schema.field(source_of(column)).type)


def _is_several(column: SparseColumn, schema: pa.Schema) -> bool:
    return bool(column.separator) or is_list(schema.field(source_of(column)).type)


def source_of(column: SparseColumn | DenseColumn) -> str:
    """Where a feature is read."""
    return column.column or column.name


def label_source(label: LabelColumn) -> str:
    """The column that a label is made of."""
    rule = label_rule(label)
    return rule.column if rule else label.name


def wanted_columns(columns: ColumnsConfig, *, labelled: bool) -> list[str]:
    """Columns to read, each once. Without labels nothing is compared, so nobody asks for weights and groups."""
    names = [label_source(label) for label in columns.labels] if labelled else []
    names += [source_of(c) for c in columns.dense] + [source_of(c) for c in columns.sparse]
    names += [columns.weight, columns.group] if labelled else []
    return list(dict.fromkeys(name for name in names if name))


def all_columns(columns: ColumnsConfig) -> tuple[str, ...]:
    """Every column that is spoken of; `*` stands for all others."""
    named = [*wanted_columns(columns, labelled=True), *columns.ignore, columns.time]
    return tuple(dict.fromkeys(name for name in named if name))


def check_columns(file: str, schema: pa.Schema, names: Sequence[str], spoken_of: Sequence[str]) -> None:
    """Every wanted column is there once, and every column that is there is spoken of (if any are).

    Raises:
        ConfigError: names the column and the nearest one that is there.
    """
    for name in names:
        count = schema.names.count(name)
        if count > 1:
            raise ConfigError(f"{file}: column {name} is there {count} times; give each column a name of its own")
        if not count:
            near = difflib.get_close_matches(name, schema.names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(schema.names[:8])}"
            raise ConfigError(f"data.columns: {name!r} is no column of {file}; {hint}")
    if spoken_of and "*" not in spoken_of:
        strange = [name for name in schema.names if name not in spoken_of]
        if strange:
            raise ConfigError(
                f"data.columns: {file} has a column {strange[0]!r} that is not spoken of; add it to dense, sparse or "
                "ignore (`ignore: ['*']` for all others)"
            )


# ── columns to numbers ────────────────────────────────────────────────────────────────────────────


def _label(table: pa.Table, label: LabelColumn, problems: Problems) -> Floats64:
    rule, name = label_rule(label), label_source(label)
    column = plain(table.column(name))
    if rule is not None and isinstance(rule.value, str):
        missing = column.is_null().to_numpy(zero_copy_only=False)
        problems.add(name, missing, "a value for the label", column)
        text = np.array(column.cast(pa.string()).to_pylist(), object)
        same = text == rule.value
        return np.where(same if rule.operator == "==" else ~same, 1.0, 0.0)
    numbers, wrong = numbers_of(column)
    problems.add(name, wrong | np.isnan(numbers), "a number for the label", column)
    numbers = np.where(wrong | np.isnan(numbers), 0.0, numbers)
    if rule is not None:
        return _compared(numbers, rule)
    if label.kind == "binary":
        problems.add(name, (numbers != 0) & (numbers != 1), "a label of 0 or 1 (or a rule)", column)
    elif label.kind == "count":
        problems.add(name, (numbers < 0) | (numbers != np.floor(numbers)), "a whole number from 0", column)
    problems.add(name, np.abs(numbers) > LARGEST, "a number of 32 bits", column)
    return np.clip(numbers, -LARGEST, LARGEST)


def _compared(numbers: Floats64, rule: LabelRule) -> Floats64:
    compare = {
        ">=": np.greater_equal,
        "<=": np.less_equal,
        "==": np.equal,
        "!=": np.not_equal,
        ">": np.greater,
        "<": np.less,
    }[rule.operator]
    return np.asarray(compare(numbers, rule.value), np.float64)


def _dense(table: pa.Table, dense: DenseColumn, known: DenseStatistics | None, problems: Problems) -> Floats:
    column = plain(table.column(source_of(dense)))
    numbers, wrong = numbers_of(column)
    wrong |= np.abs(numbers) > LARGEST
    problems.add(source_of(dense), wrong, "a finite number", column)
    numbers = np.where(np.isnan(numbers) | wrong, dense.fill, numbers)
    if dense.clip:
        numbers = np.clip(numbers, dense.clip[0], dense.clip[1])
    if dense.log1p:
        numbers = np.log1p(np.maximum(numbers, 0.0))
    if known is not None:
        numbers = (numbers.astype(np.float32).astype(np.float64) - known.mean) / known.deviation
    return numbers.astype(np.float32)


def _weights(table: pa.Table, name: str, problems: Problems) -> Floats:
    column = plain(table.column(name))
    numbers, wrong = numbers_of(column)
    wrong |= ~(numbers >= 0) | (numbers > LARGEST)
    problems.add(name, wrong, "a weight, a finite number from 0", column)
    return np.where(wrong, 0.0, numbers).astype(np.float32)


def _groups(table: pa.Table, name: str, file: str) -> Int64s:
    """Codes as they are for features, so that equal values have equal numbers in every file."""
    column = plain(table.column(name))
    return codes_of(column, kind_of(file, name, column.type))[0].view(np.int64)


@dataclass(frozen=True, slots=True)
class _Lists:
    """The codes of one feature; of example b, `codes[begins[b] : begins[b] + lengths[b]]`."""

    codes: Codes
    begins: npt.NDArray[np.int64]
    lengths: Lengths


def _sparse(table: pa.Table, sparse: SparseColumn, kind: Kind, problems: Problems) -> _Lists:
    name = source_of(sparse)
    column = plain(table.column(name))
    if sparse.separator and not is_list(column.type):
        column = _split(column, sparse.separator)
    if is_list(column.type):
        return _several(column, sparse, kind, problems)
    if kind == "interval":
        numbers, wrong = numbers_of(column)
        places = np.searchsorted(np.array(sparse.boundaries), numbers, side="right").astype(np.uint64)
        codes = np.where(np.isnan(numbers), np.uint64(0), places + np.uint64(1))
        expected = "a number"
    else:
        codes, wrong = codes_of(column, kind)
        expected = "text" if kind == "token" else "a whole number of 64 bits"
    problems.add(name, wrong, expected, column)
    count = len(codes)
    return _Lists(codes, np.arange(count, dtype=np.int64), np.ones(count, np.int32))


def _split(column: Any, separator: str) -> Any:
    """Cells at a separator: an empty text is an empty list, a missing cell stays missing."""
    lists = pc.split_pattern(column.cast(pa.string()), separator)
    return pc.if_else(
        pc.fill_null(pc.equal(column.cast(pa.string()), ""), fill_value=False), pa.scalar([], lists.type), lists
    )


def _several(column: Any, sparse: SparseColumn, kind: Kind, problems: Problems) -> _Lists:
    """A missing list is one missing value, an empty one is none."""
    lists = column.cast(pa.large_list(column.type.value_type))
    null = lists.is_null().to_numpy(zero_copy_only=False)
    offsets = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    values = plain(lists.values)
    codes, wrong = codes_of(values, kind)
    begins, lengths = offsets[:-1].copy(), np.diff(offsets)
    lengths[null] = 0
    if wrong.any():
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(wrong)])
        rows = (before[begins + lengths] - before[begins]) > 0
        expected = "texts" if kind == "token" else "whole numbers of 64 bits"
        problems.add(source_of(sparse), rows, expected, column)
    if sparse.max_length is not None:
        kept = np.minimum(lengths, sparse.max_length)
        if sparse.keep == "last":
            begins += lengths - kept
        lengths = kept
    begins[null], lengths[null] = len(codes), 1
    return _Lists(np.append(codes, np.uint64(0)), begins, lengths.astype(np.int32))


def _side_by_side(lists: Sequence[_Lists], count: int, *, jagged: bool) -> tuple[Codes, Lengths | None]:
    if not jagged:
        return np.ascontiguousarray(np.stack([one.codes for one in lists], axis=1)).reshape(-1), None
    lengths_BT = np.ascontiguousarray(np.stack([one.lengths for one in lists], axis=1))
    starts = np.cumsum([0] + [len(one.codes) for one in lists])[:-1]
    begins_BT = np.stack([one.begins + start for one, start in zip(lists, starts, strict=True)], axis=1)
    codes_N = np.empty(int(lengths_BT.sum(dtype=np.int64)), np.uint64)
    kernels.interleave_codes(np.concatenate([one.codes for one in lists]), begins_BT, lengths_BT, codes_N)
    return codes_N, lengths_BT
