"""Files of one's own as tables: CSV, TSV, JSON lines, Parquet, Arrow and Feather, read by pyarrow in pieces.

Cells of CSV are text until a column says what it wants: nothing is guessed, so `007` stays `007`. An empty cell is
missing, a quoted empty one (`""`) is an empty text. What a column is in another file may have another type; what it
becomes is decided in `bagpipe.data.column_values`.
"""

import csv as python_csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pajson
from pyarrow import csv

from bagpipe.data.compressed import decompressed, what_else
from bagpipe.data.dialect import HEAD_BYTES, Dialect, Narrowed, dialect_of
from bagpipe.data.files import InputFile, read_head, text_blocks
from bagpipe.data.folder_values import hive_values, with_folders
from bagpipe.data.holes import FOUND, Ended, Marked, line_of_hole
from bagpipe.data.json_tables import MALFORMED, json_schema, read_records, sorted_out
from bagpipe.data.odd_types import plain_schema, plain_table
from bagpipe.data.other_texts import what_other_text
from bagpipe.data.parquet_files import open_parquet
from bagpipe.errors import DataError

TableFormat = Literal["csv", "tsv", "jsonl", "arrow", "parquet"]
BLOCK_BYTES = 4 << 20
PARQUET_MAGIC, ARROW_MAGIC, OLD_FEATHER_MAGIC = b"PAR1", b"ARROW1", b"FEA1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
"""Of Arrow's stream format, which has no footer; HuggingFace's data sets keep their files in it."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class TablePiece:
    """Consecutive rows of one file. `first_row` counts from 1, without the header of a CSV."""

    file: str
    first_row: int
    load: Callable[[], pa.Table]
    """Pure; called from several threads. Without the malformed rows."""
    bad_rows: tuple[int, ...] = ()
    """Numbers of the malformed rows among them, rising."""
    first_bad: str | None = None

    def row_numbers(self, count: int) -> npt.NDArray[np.int64]:
        """The numbers in the file of the `count` rows that `load` gives."""
        numbers = np.arange(self.first_row, self.first_row + count + len(self.bad_rows), dtype=np.int64)
        return np.delete(numbers, np.array(self.bad_rows, np.int64) - self.first_row)


def _already_read(table: pa.Table) -> Callable[[], pa.Table]:
    """`load` of a piece of a file that can only be read from its beginning on, so that its rows are here already."""
    return lambda: table


def table_format(file: InputFile, stated: str) -> TableFormat:
    """What kind of table a file is, by `data.format` and its first bytes.

    Raises:
        DataError: none that can be read.
    """
    head = read_head(file, 4096)
    if head.startswith(OLD_FEATHER_MAGIC):
        raise DataError(f"{file.name}: Feather of version 1; write it again with version 2, or as Parquet")
    if what := what_else(head):
        raise DataError(f"{file.name}: {what}")
    if head.startswith((PARQUET_MAGIC, ARROW_MAGIC, STREAM_MAGIC)) and not _raw_head(file).startswith(head[:4]):
        raise DataError(f"{file.name}: compressed as a whole; unpack it, Parquet and Arrow compress their own columns")
    found: TableFormat
    if head.startswith(PARQUET_MAGIC):
        found = "parquet"
    elif head.startswith((ARROW_MAGIC, STREAM_MAGIC)):
        found = "arrow"
    else:
        text = head.removeprefix(_BOM).lstrip()
        if b"\0" in head:
            raise DataError(f"{file.name}: binary data; expected CSV, TSV, JSON lines, Parquet or Arrow")
        if what := what_other_text(text):
            raise DataError(f"{file.name}: {what}")
        found = (
            "jsonl"
            if text.startswith(b"{")
            else "tsv"
            if dialect_of(read_head(file, HEAD_BYTES)).separator == "\t"
            else "csv"
        )
        if stated in ("csv", "tsv", "jsonl"):
            return cast("TableFormat", stated)
    if stated not in ("auto", found):
        raise DataError(f"{file.name}: expected {stated}, found {found}; set data.format: {found}")
    return found


def _raw_head(file: InputFile) -> bytes:
    """The first bytes as they lie on the disk."""
    with file.open() as raw:
        return raw.read(4)


def table_schema(file: InputFile, kind: TableFormat, header: Sequence[str] = ()) -> pa.Schema:
    """Columns of a file, those of its folders last; text cells of unknown type are strings.

    Args:
        header: the names of the columns of text; empty: the file tells them.

    Raises:
        DataError: the file is damaged, or names a column twice.
    """
    schema = _stored_schema(file, kind, header)
    for name in hive_values(file.name):
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return schema


def _stored_schema(file: InputFile, kind: TableFormat, header: Sequence[str]) -> pa.Schema:
    """The columns that are in the file itself."""
    with _damage(file.name):
        if kind == "parquet":
            with open_parquet(file) as parquet:
                return plain_schema(parquet.schema_arrow)
        if kind == "arrow":
            with _arrow(file) as (found, _):
                return plain_schema(found)
        if kind == "jsonl":
            return json_schema(file)
        return pa.schema([(name, pa.string()) for name in _dialect(file, kind, header).names])


def table_pieces(
    file: InputFile,
    kind: TableFormat,
    names: Sequence[str],
    types: pa.Schema,
    header: Sequence[str] = (),
    *,
    skip_bad: bool,
) -> Iterator[TablePiece]:
    """The rows of a file, with the columns `names`; `types` are those of JSON columns, `header` as for the schema.

    Raises:
        DataError: a row is malformed and bad rows are not skipped, or the file is damaged.
    """
    hive = {name: value for name, value in hive_values(file.name).items() if name in names}
    both = set(hive).intersection(_stored_schema(file, kind, header).names if hive else ())
    stored = [name for name in names if name not in hive or name in both]
    with _damage(file.name, lambda: _not_utf8(file, _dialect(file, kind, header)) if kind in ("csv", "tsv") else None):
        if kind in ("csv", "tsv"):
            found = _csv_pieces(file, _dialect(file, kind, header), stored, skip_bad=skip_bad)
        elif kind == "jsonl":
            found = _json_pieces(file, stored, types, skip_bad=skip_bad)
        elif kind == "arrow":
            found = _arrow_pieces(file, stored)
        else:
            found = _parquet_pieces(file, stored)
        for piece in found:
            yield _with_hive(piece, hive)


def _with_hive(piece: TablePiece, folders: Mapping[str, str | None]) -> TablePiece:
    """The piece with the values of its folders as columns."""
    if not folders:
        return piece

    def load() -> pa.Table:
        table = piece.load()
        return with_folders(table, folders, piece.file, piece.row_numbers(table.num_rows))

    return replace(piece, load=load)


@contextmanager
def _damage(name: str, explain: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """`explain` may know better than Arrow what is wrong."""
    try:
        yield
    except (pa.ArrowException, KeyError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # The system's; Arrow's own error of a damaged file has none.
            raise
        if "UTF8" in str(error) and (told := explain()):
            raise DataError(told) from error
        if "straddling" in str(error):
            raise DataError(
                f"{name}: a row is longer than {BLOCK_BYTES >> 20} MiB; close the quote that is open in it"
            ) from error
        raise DataError(f"{name}: cannot be read: {' '.join(str(error).split())}; fix the file") from error


# ── CSV and TSV ───────────────────────────────────────────────────────────────────────────────────


def _parse_options(dialect: Dialect, handler: Callable[[Any], str]) -> csv.ParseOptions:
    return csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote,
        newlines_in_values=True,
        invalid_row_handler=handler,
    )


def _read_options(dialect: Dialect) -> csv.ReadOptions:
    return csv.ReadOptions(
        use_threads=False,
        block_size=BLOCK_BYTES,
        column_names=list(dialect.names),
        skip_rows=dialect.skipped,
        skip_rows_after_names=0 if dialect.headless else 1,
    )


def _as_text(names: Sequence[str]) -> csv.ConvertOptions:
    return csv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        include_columns=list(names),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )


def _dialect(file: InputFile, kind: TableFormat, header: Sequence[str]) -> Dialect:
    """Raises:
    DataError: there is no line in the file, or the names of its columns are no text.
    """
    dialect = dialect_of(read_head(file, HEAD_BYTES), tabs=kind == "tsv", header=header)
    if not dialect.names:
        raise DataError(f"{file.name}: no line in it; expected at least one example")
    if any("\0" in name for name in dialect.names):
        raise DataError(f"{file.name}: the names of the columns: {FOUND}; fix the line")
    if any("\ufffd" in name for name in dialect.names) and (told := _not_utf8(file, dialect)):
        raise DataError(told)
    return dialect


def _csv_pieces(file: InputFile, dialect: Dialect, names: Sequence[str], *, skip_bad: bool) -> Iterator[TablePiece]:
    bad: list[tuple[int, str]] = []
    """Malformed rows by number, as far as Arrow has parsed: it may be ahead of the batch that is handed out."""
    before = dialect.skipped + (not dialect.headless)
    first_told, closed, end = False, not dialect.quote, ""
    """`closed`: no quote is open at the end, behind which the line `end` was put."""

    def handle(row: Any) -> str:
        nonlocal first_told, closed
        if row.text == end:
            closed = True
            return "skip"
        whole, hole, _ = row.text.partition("\0")
        told = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        if hole:
            told = f"{_column_after(whole, dialect)}: {FOUND}"
        number = 0
        if not first_told:
            number = (line_of_hole(file) if hole else None) or _line_of(file, row.text, dialect)
        line = f" (line {number})" if number else ""
        first_told = True
        bad.append((row.number - before, f"{file.name}: row {row.number - before}{line}: {told}"))
        return "skip"

    with file.open() as raw, decompressed(file.name, raw) as stream:
        text: Any = Narrowed(stream, dialect.separator) if dialect.narrow else stream
        text = Marked(text, dialect.delimiter, len(dialect.names))
        if dialect.quote:
            text = Ended(text, dialect.delimiter, len(dialect.names))
            end = text.line
        reader = csv.open_csv(
            pa.PythonFile(text, mode="r"),
            read_options=_read_options(dialect),
            parse_options=_parse_options(dialect, handle),
            convert_options=_as_text(names),
        )
        first = 1
        for batch in reader:
            if bad and not skip_bad:
                raise DataError(f"{bad[0][1]}; fix the row or set data.onBadLine: skip")
            here: list[tuple[int, str]] = []
            while bad and bad[0][0] < first + batch.num_rows + len(here):
                here.append(bad.pop(0))
            if batch.num_rows or here:
                yield _with_bad(file.name, first, pa.Table.from_batches([batch]), here)
            first += batch.num_rows + len(here)
        if bad:
            if not skip_bad:
                raise DataError(f"{bad[0][1]}; fix the row or set data.onBadLine: skip")
            yield _with_bad(file.name, first, reader.schema.empty_table(), bad)
            first += len(bad)
        if not closed:
            # With too few fields the quote may be in any column, otherwise it is in the last one.
            where = "" if bad else f" column {dialect.names[-1]}:"
            raise DataError(
                f"{file.name}: row {first - 1}:{where} a quote is never closed, so that all the "
                'rest of the file is in this cell; close it, or put the cell in quotes with "" for each one in it'
            )


def _with_bad(file: str, first: int, table: pa.Table, bad: Sequence[tuple[int, str]]) -> TablePiece:
    """A piece of a text file, of which some rows were malformed."""
    return TablePiece(file, first, _already_read(table), tuple(number for number, _ in bad), bad[0][1] if bad else None)


def _line_of(file: InputFile, text: str, dialect: Dialect) -> int:
    """Where a row begins; rows that hold line ends have made the numbers of lines and rows differ."""
    wanted = text.split("\n", 1)[0].rstrip("\r").encode()
    for block in text_blocks([file]):
        for number, line in enumerate(block.text.split(b"\n"), block.first_line):
            if dialect.line(line.rstrip(b"\r")) == wanted:
                return number
    return 0


def _not_utf8(file: InputFile, dialect: Dialect) -> str | None:
    """Which byte of which row and column is no UTF-8; None: all are."""
    for block in text_blocks([file]):
        for number, line in enumerate(block.text.split(b"\n"), block.first_line):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                before = dialect.line(line[: error.start] + b"x").decode()
                where = f"{file.name}: line {number}: {_column_after(before, dialect)}"
                remedy = "convert the file, for instance with iconv -f LATIN1 -t UTF-8"
                return f"{where}: byte 0x{line[error.start]:02x} is no UTF-8; {remedy}"
    return None


def _column_after(begun: str, dialect: Dialect) -> str:
    """Which column a row is in after its beginning `begun`, as Arrow sees it."""
    names = dialect.names
    fields = begun.split(dialect.delimiter)
    if dialect.quote:
        fields = next(python_csv.reader([begun + "x"], delimiter=dialect.delimiter))
    place = len(fields) - 1
    return f"column {names[place] if place < len(names) else f'number {place + 1}'}"


# ── JSON lines ────────────────────────────────────────────────────────────────────────────────────


def _json_pieces(file: InputFile, names: Sequence[str], types: pa.Schema, *, skip_bad: bool) -> Iterator[TablePiece]:
    wanted = pa.schema([types.field(name) for name in names if name in types.names])
    options = pajson.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="ignore")
    first = 1
    for block in text_blocks([file]):
        lines = [line for line in block.text.split(b"\n") if line.strip()]
        bad: list[tuple[int, str]] = []
        try:
            table = read_records(block.text, options)
        except MALFORMED as error:
            wrong, table = sorted_out(file.name, lines, first, options)
            bad = [(row, f"{file.name}: row {row}: {words}") for row, words in wrong.items()]
            if bad and not skip_bad:
                raise DataError(f"{bad[0][1]}; fix the row or set data.onBadLine: skip") from error
        yield _with_bad(file.name, first, table, bad)
        first += len(lines)


# ── Parquet and Arrow ─────────────────────────────────────────────────────────────────────────────


def _parquet_pieces(file: InputFile, names: Sequence[str]) -> Iterator[TablePiece]:
    with open_parquet(file) as parquet:
        metadata = parquet.metadata
    first = 1
    for index in range(metadata.num_row_groups):

        def load(index: int = index) -> pa.Table:
            with _damage(file.name), open_parquet(file, metadata, check=True) as parquet:
                return plain_table(parquet.read_row_group(index, columns=list(names), use_threads=False))

        yield TablePiece(file.name, first, load)
        first += metadata.row_group(index).num_rows


@contextmanager
def _arrow(file: InputFile) -> Iterator[tuple[pa.Schema, Iterator[Any]]]:
    """The schema and the batches of an Arrow file or stream."""
    with ExitStack() as stack:
        if file.remote:
            source = pa.PythonFile(stack.enter_context(file.open()), mode="r")
        else:
            source = stack.enter_context(pa.memory_map(file.name))
        if read_head(file, 4).startswith(STREAM_MAGIC):
            stream = pa.ipc.open_stream(source)
            yield stream.schema, iter(stream)
        else:
            reader = pa.ipc.open_file(source)
            yield reader.schema, map(reader.get_batch, range(reader.num_record_batches))


def _arrow_pieces(file: InputFile, names: Sequence[str]) -> Iterator[TablePiece]:
    with _arrow(file) as (_, batches):
        first = 1
        for batch in batches:
            table = plain_table(pa.Table.from_batches([batch]).select(list(names)))
            yield TablePiece(file.name, first, _already_read(table))
            first += table.num_rows
