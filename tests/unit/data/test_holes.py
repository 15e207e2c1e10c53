"""A text file with a hole, a stretch of NUL bytes where a crash kept data from being written, is never trained on."""

import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.config.columns import ColumnsConfig, LabelColumn, SparseColumn
from bagpipe.data.column_files import table_format, table_pieces, table_schema
from bagpipe.data.dataset import Dataset
from bagpipe.data.files import InputFile, find_files
from bagpipe.data.holes import Marked
from bagpipe.data.ratings import read_ratings
from bagpipe.errors import DataError
from bagpipe.standalone.readers import fields_of, lines_of
from bagpipe.standalone.records import parsed

ROWS, AT = 900, 600
"""Rows of a file, and the row before which or in which the hole is: far beyond the beginning that is looked at."""
NAMES = ["y", "item", "note"]
ROW = [b"%d,i%d,n%d\n" % (i % 2, i % 7, i) for i in range(1, ROWS + 1)]


def csv_with(hole: bytes, first: int = AT, last: int = AT) -> bytes:
    """The table with `hole` instead of rows `first` to `last`, counted from 1."""
    return b"y,item,note\n" + b"".join([*ROW[: first - 1], hole, *ROW[last:]])


def written(separator: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(b",", separator)


CSV: dict[str, tuple[bytes, list[int], str, int]] = {
    "in a value": (csv_with(b"1,i\0\0,n\n"), [AT], "item", AT),
    "in a column that is not read": (csv_with(b"1,i1,n\0\n"), [AT], "note", AT),
    "in the first column": (csv_with(b"\0,i1,n\n"), [AT], "y", AT),
    "from one row into another": (csv_with(b"1,i" + bytes(200) + b"2,n3\n", AT, AT + 4), [AT], "item", AT + 4),
    "a row that is nothing else": (csv_with(bytes(9) + b"\n"), [AT], "y", AT),
    "in two rows": (csv_with(b"1,\0,n\n0,\0,n\n", AT, AT + 1), [AT, AT + 1], "item", AT + 1),
    "in a text in quotes": (csv_with(b'1,"i, \0\0 x",n\n'), [AT], "item", AT),
    "from a text in quotes on": (csv_with(b'1,"i' + bytes(50) + b"1,n\n"), [AT], "item", AT),
    "after a text in quotes": (csv_with(b'1,"i,2"\0\0,n\n'), [AT], "item", AT),
    "at the end of the file": (csv_with(bytes(4000), AT, ROWS), [AT], "y", ROWS),
    "longer than a block": (csv_with(b"1," + bytes(9 << 20) + b",n\n"), [AT], "item", AT),
    "with lines of Windows": (csv_with(b"1,\0,n\n").replace(b"\n", b"\r\n"), [AT], "item", AT),
    "with lines of old": (csv_with(b"1,\0,n\n").replace(b"\n", b"\r"), [AT], "item", AT),
    "with tabs": (written(b"\t")(csv_with(b"1,\0,n\n")), [AT], "item", AT),
    "with a separator of two signs": (written(b"::")(csv_with(b"1,\0,n\n")), [AT], "item", AT),
    "with spaces": (written(b"  ")(csv_with(b"1,\0,n\n")), [AT], "item", AT),
    "compressed": (gzip.compress(csv_with(b"1,\0,n\n")), [AT], "item", AT),
}


def rows_of(path: Path, *, skip_bad: bool) -> tuple[list[bytes], list[int]]:
    """The labels and items that are read, as text, and the numbers of the rows that are skipped."""
    (file,) = find_files(str(path))
    kind = table_format(file, "auto")
    names, found, bad = NAMES[:2], [], []
    for piece in table_pieces(file, kind, names, table_schema(file, kind), skip_bad=skip_bad):
        cells = [piece.load().column(name).to_pylist() for name in names]
        found += [f"{y},{item},".encode() for y, item in zip(*cells, strict=True)]
        bad += piece.bad_rows
    return found, bad


@pytest.mark.parametrize("name", CSV)
def test_a_row_of_separated_text_with_a_hole_is_refused_or_skipped(name: str, tmp_path: Path) -> None:
    """The row and the column are named; with `onBadLine: skip` just these rows are missing."""
    data, bad, column, last = CSV[name]
    path = tmp_path / "log.csv"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        rows_of(path, skip_bad=False)
    line = 1 if name == "with lines of old" else AT + 1
    assert str(caught.value) == (
        f"{path}: row {AT} (line {line}): column {column}: expected text, found a NUL byte (a crash of whoever wrote "
        "the file leaves such holes); fix the row or set data.onBadLine: skip"
    )
    found, skipped = rows_of(path, skip_bad=True)
    assert skipped == bad
    assert found == [row.rpartition(b"n")[0] for row in (*ROW[: AT - 1], *ROW[last:])]


LINES: dict[str, tuple[bytes, list[bytes]]] = {
    "jsonl": (
        b'{"y": 1, "item": "i1"}',
        [
            b'{"y": 1, "item": "i\0"}',
            bytes(9),
            b'{"y":\0\0 1, "item": "i1"}',
            b'{"y": 1}\0',
            '{"y": 1}'.encode("utf-16-le"),
        ],
    ),
    "criteo-json": (
        b'{"label": 1.0, "dense": [0.5], "sparse": [1]}',
        [
            b'{"label": 1.0, "dense": [0.5], "sp\0": [1]}',
            bytes(9),
            '{"label": 1.0, "dense": [0.5], "sparse": [1]}'.encode("utf-16-le"),
        ],
    ),
    "caser-json": (b'{"label": [1], "dense": [2], "sparse": [[1], [3]]}', [b'{"label": [1], "dense": [2\0', bytes(9)]),
    "criteo-tsv": (
        b"\t".join([b"1", *[b"3"] * 13, *[b"a"] * 26]),
        [b"\t".join([b"1", *[b"3"] * 13, *[b"a"] * 25, b"\0"]), bytes(9)],
    ),
}
"""A good line of a format whose lines stand alone, and bad ones."""
EACH = [(name, place) for name in LINES for place in range(len(LINES[name][1]))]


def lines_with(name: str, place: int, path: Path) -> Path:
    good, bad = LINES[name]
    lines = [good.replace(b"1", b"0"), *[good] * (AT - 2), bad[place], *[good] * (ROWS - AT)]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.mark.parametrize(("name", "place"), EACH)
def test_a_line_with_a_hole_is_refused_or_skipped(
    name: str, place: int, tmp_path: Path, dataset: Callable[..., Dataset]
) -> None:
    """Formats whose lines stand alone: the line is named, or skipped and counted."""
    path = lines_with(name, place, tmp_path / "log")
    settings: dict[str, Any] = {"format": name}
    if name == "jsonl":
        settings["columns"] = ColumnsConfig(labels=(LabelColumn("y"),), sparse=(SparseColumn("item"),))
    with pytest.raises(DataError, match=rf"log:(| row ){AT}: .*set data.onBadLine: skip"):
        list(dataset(path, **settings).train_batches(100, epochs=1))
    whole = dataset(path, on_bad_line="skip", **settings)
    assert sum(batch.num_examples for batch in whole.train_batches(100, epochs=1)) == ROWS - 1
    assert whole.report.bad_lines == 1


@pytest.mark.parametrize(("name", "place"), [one for one in EACH if one[0] != "jsonl"])
def test_an_export_refuses_a_line_with_a_hole(name: str, place: int, tmp_path: Path) -> None:
    """The readers of the built-in formats that travel with an export name the line too."""
    (file,) = find_files(str(lines_with(name, place, tmp_path / "log")))
    with pytest.raises(DataError, match=rf"log:( row |){AT}: "):
        alone(file, name)


def alone(file: InputFile, name: str) -> None:
    if name == "criteo-tsv":
        list(fields_of(file, "\t"))
    for lines in lines_of(file) if name != "criteo-tsv" else ():
        parsed(lines, file.name, 1)


def test_a_rating_with_a_hole_is_refused(tmp_path: Path) -> None:
    """MovieLens' ratings: the line is named."""
    path = tmp_path / "u.data"
    path.write_bytes(b"1\t2\t3\t4\n" * (AT - 1) + b"1\t2\0\t3\t4\n" * 2)
    with pytest.raises(DataError, match=rf"u.data:{AT}: expected user, item"):
        read_ratings(find_files(str(path)))


def test_a_name_of_a_column_with_a_hole_is_refused(tmp_path: Path) -> None:
    """A header so long that the hole lies beyond the beginning that is looked at."""
    path = tmp_path / "log.csv"
    path.write_bytes(b",".join(b"c%d" % i for i in range(2000)) + b",\0\n" + b"1," * 2000 + b"1\n")
    (file,) = find_files(str(path))
    with pytest.raises(DataError, match=r"log.csv: the names of the columns: expected text, found a NUL byte"):
        table_schema(file, table_format(file, "auto"))


@given(data=st.text("\0a,\r\n", max_size=60), size=st.integers(1, 9))
def test_wherever_a_block_ends_a_line_with_a_hole_is_marked_once(data: str, size: int) -> None:
    """Lines without NUL bytes stay as they are; the others have two fields more than any row, and one NUL byte."""
    stream, found = Marked(io.BytesIO(data.encode()), ",", 1), b""
    while block := stream.read(size):
        found += block
    expected = ""
    for piece in re.split(r"([\r\n])", data):
        before, hole, after = piece.partition("\0")
        expected += before + ('\0",,' + after.replace("\0", "") if hole else "")
    assert found.decode() == expected
