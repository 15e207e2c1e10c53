"""Files of raw rows as Arrow tables, read in pieces: CSV, TSV, JSON lines, Parquet, Arrow; plain or compressed.

Cells of CSV are text: nothing is guessed. An empty cell is missing, a quoted empty one is an empty text.
"""

import lzma
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pajson
import pyarrow.parquet as pq
from pyarrow import csv

from bagpipe.data.dialect import HEAD_BYTES, Narrowed, dialect_of
from bagpipe.errors import DataError
from bagpipe.lowlevel.wording import no_column

BLOCK_BYTES = 4 << 20
_HIVE = re.compile(r"([^/=]+)=([^/]*)")


def files_of(path: str) -> list[str]:
    """A file itself, or the files of a folder and those below it in natural order (`part-2` before `part-10`).

    Raises:
        DataError: there are none.
    """
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise DataError(f"{path}: no such file or folder")
        return [path]
    found = []
    for place, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        found += [os.path.join(place, name) for name in names if not name.startswith((".", "_"))]
    if not found:
        raise DataError(f"{path}: folder without files")
    return sorted(found, key=_natural_order)


def _natural_order(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def open_bytes(file: str) -> Any:
    """The decompressed bytes of a file, as an Arrow stream."""
    if file.endswith(".xz"):
        return pa.PythonFile(lzma.open(file), "r")  # Arrow closes it
    return pa.input_stream(file, compression="detect")


def kind_of_file(file: str) -> str:
    """`parquet`, `arrow`, `jsonl`, `tsv` or `csv`, by the first bytes."""
    with open_bytes(file) as stream:
        head: bytes = stream.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "jsonl" if text.startswith(b"{") else "tsv" if dialect_of(head).separator == "\t" else "csv"


def tables_of(file: str, names: Sequence[str], header: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The rows of a file in order, with the columns `names`.

    Args:
        header: the names of all columns of text; empty: the file tells them.

    Raises:
        DataError: a column is not there, or the file is damaged.
    """
    hive = dict(_HIVE.findall(file.rpartition("/")[0]))
    stored = [name for name in names if name not in hive]
    kind = kind_of_file(file)
    try:
        if kind in ("csv", "tsv"):
            found = _csv(file, stored, header, tabs=kind == "tsv")
        elif kind == "jsonl":
            found = _json(file, stored)
        else:
            found = _parquet(file, stored) if kind == "parquet" else _arrow(file, stored)
        for table in found:
            for name in (n for n in names if n in hive):
                table = table.append_column(name, pa.repeat(pa.scalar(hive[name]), table.num_rows))
            yield table
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error


def fields_of(file: str, delimiter: str) -> Iterator[pa.Table]:
    """Separated text without quotes and without a header, as columns f0, f1, ... of bytes.

    Raises:
        DataError: lines differ in their number of fields.
    """
    read = csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, autogenerate_column_names=True)
    parse = csv.ParseOptions(delimiter=delimiter, quote_char=False)
    with open_bytes(file) as stream:
        line: bytes = stream.read(1 << 20).lstrip(b"\r\n").split(b"\n", 1)[0]
    columns = {f"f{i}": pa.binary() for i in range(line.count(delimiter.encode()) + 1)}
    convert = csv.ConvertOptions(column_types=columns, strings_can_be_null=True, null_values=[""])
    try:
        with open_bytes(file) as stream:
            for batch in csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert):
                yield pa.Table.from_batches([batch])
    except pa.ArrowException as error:
        raise DataError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error


def lines_of(file: str) -> Iterator[list[bytes]]:
    """The lines of a text file that are not blank, some thousand at once."""
    with open_bytes(file) as stream:
        rest = b""
        while data := stream.read(BLOCK_BYTES):
            whole, cut, last = (rest + data).rpartition(b"\n")
            rest = last if cut else rest + data
            if cut:
                yield [line for line in whole.split(b"\n") if line.strip()]
        if rest.strip():
            yield [rest]


def _csv(file: str, names: Sequence[str], header: Sequence[str], *, tabs: bool) -> Iterator[pa.Table]:
    with open_bytes(file) as stream:
        dialect = dialect_of(stream.read(HEAD_BYTES), tabs=tabs, header=header)
    _check(file, dialect.names, names)
    parse = csv.ParseOptions(delimiter=dialect.delimiter, quote_char=dialect.quote, newlines_in_values=True)
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=list(names),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    read = csv.ReadOptions(
        use_threads=False,
        block_size=BLOCK_BYTES,
        column_names=list(dialect.names),
        skip_rows=dialect.skipped,
        skip_rows_after_names=0 if dialect.headless else 1,
    )
    with open_bytes(file) as stream:
        text = pa.PythonFile(Narrowed(stream, dialect.separator), "r") if dialect.narrow else stream
        for batch in csv.open_csv(text, read_options=read, parse_options=parse, convert_options=convert):
            yield pa.Table.from_batches([batch])


def _json(file: str, names: Sequence[str]) -> Iterator[pa.Table]:
    for number, lines in enumerate(lines_of(file)):
        table = pajson.read_json(pa.BufferReader(b"\n".join(lines)))
        if not number:  # A key that none of the first lines has is no column of the file.
            _check(file, table.column_names, names)
        for name in names:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(table.num_rows))
        yield table.select(list(names))


def _parquet(file: str, names: Sequence[str]) -> Iterator[pa.Table]:
    with pq.ParquetFile(Path(file)) as parquet:
        _check(file, parquet.schema_arrow.names, names)
        for index in range(parquet.metadata.num_row_groups):
            yield parquet.read_row_group(index, columns=list(names), use_threads=False).select(list(names))


def _arrow(file: str, names: Sequence[str]) -> Iterator[pa.Table]:
    with pa.memory_map(file) as mapped, pa.ipc.open_file(mapped) as reader:
        _check(file, reader.schema.names, names)
        for index in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(index)]).select(list(names))


def _check(file: str, there: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        if name not in there:
            raise DataError(no_column(name, file, there))
