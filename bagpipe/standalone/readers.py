"""Files of raw rows for an export: read as training reads them, by the same modules, and refused alike."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import csv

from bagpipe.data.column_files import table_format, table_pieces, table_schema
from bagpipe.data.compressed import decompressed
from bagpipe.data.files import InputFile, find_files, text_blocks
from bagpipe.data.holes import FOUND, Marked, line_of_hole
from bagpipe.errors import DataError
from bagpipe.lowlevel.wording import no_column

BLOCK_BYTES = 4 << 20


def files_of(path: str) -> tuple[InputFile, ...]:
    """A file itself, or the data files of a folder and those below it in natural order, without empty ones.

    Raises:
        DataError: there are none, or none with a row.
    """
    found = find_files(path)
    files = tuple(file for file in found if file.size)
    if not files:
        raise DataError(f"{found[0].name}: empty file; expected at least one row")
    return files


def tables_of(
    file: InputFile, names: Sequence[str], types: pa.Schema, header: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """The rows of a file in order, with the columns `names`.

    Args:
        types: of the first file, for JSON.
        header: the names of all columns of text; empty: the file tells them.

    Raises:
        DataError: a column is not there or twice, a row is malformed, or the file is damaged.
    """
    kind = table_format(file, "auto")
    there = table_schema(file, kind, header).names
    for name in names:
        if name not in there:
            raise DataError(no_column(name, file.name, there))
        if there.count(name) > 1:
            raise DataError(
                f"{file.name}: column {name} is there {there.count(name)} times; give each column a name of its own"
            )
    for piece in table_pieces(file, kind, names, types, header, skip_bad=False):
        yield piece.load()


def types_of(file: InputFile, header: Sequence[str] = ()) -> pa.Schema:
    """The columns of a file.

    Raises:
        DataError: it is no table, or damaged.
    """
    return table_schema(file, table_format(file, "auto"), header)


def fields_of(file: InputFile, delimiter: str) -> Iterator[pa.Table]:
    """Separated text without quotes and without a header, as columns f0, f1, ... of bytes.

    Raises:
        DataError: lines differ in their number of fields, or one has a NUL byte.
    """
    parse = csv.ParseOptions(delimiter=delimiter, quote_char=False)
    with _open(file) as stream:
        line: bytes = stream.read(1 << 20).lstrip(b"\r\n").split(b"\n", 1)[0]
    columns = {f"f{i}": pa.binary() for i in range(line.count(delimiter.encode()) + 1)}
    read = csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=list(columns))
    convert = csv.ConvertOptions(column_types=columns, strings_can_be_null=True, null_values=[""])
    try:
        with _open(file) as stream:
            text = pa.PythonFile(Marked(stream, delimiter, len(columns)), mode="r")
            for batch in csv.open_csv(text, read_options=read, parse_options=parse, convert_options=convert):
                yield pa.Table.from_batches([batch])
    except pa.ArrowException as error:
        if (hole := line_of_hole(file)) is not None:
            raise DataError(f"{file.name}:{hole}: {FOUND}; fix the line") from error
        raise DataError(f"{file.name}: cannot be read: {' '.join(str(error).split())}") from error


def lines_of(file: InputFile) -> Iterator[list[bytes]]:
    """The lines of a text file that are not blank, some thousand at once."""
    for block in text_blocks([file]):
        yield [line for line in block.text.split(b"\n") if line.strip()]


@contextmanager
def _open(file: InputFile) -> Iterator[Any]:
    """The decompressed bytes of a file."""
    with file.open() as raw, decompressed(file.name, raw) as stream:
        yield stream
