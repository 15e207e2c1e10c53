"""Files as strangers write them: `bagpipe init` reads the same examples from each, or says in one line what to do."""

import datetime as dt
import io
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.columns import DenseColumn
from bagpipe.config.load import parse_job
from bagpipe.data.column_cells import dense_cells
from bagpipe.data.column_files import table_format, table_pieces, table_schema
from bagpipe.data.column_values import Problems
from bagpipe.data.dataset import open_dataset
from bagpipe.data.dialect import Narrowed
from bagpipe.data.files import find_files
from bagpipe.data.suggest import suggest_job
from bagpipe.errors import BagpipeError
from bagpipe.standalone.readers import tables_of

ROWS = 240
NAMES = ("user_id", "item", "price", "clicked")
Row = tuple[str, str, str, str]
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def log() -> list[Row]:
    rng = random.Random(5)
    return [
        (f"u{rng.randrange(20)}", f"i{rng.randrange(15)}", f"{rng.uniform(1, 10**4):.2f}", str(rng.randrange(2)))
        for _ in range(ROWS)
    ]  # fmt: skip


LOG = log()


def text(
    rows: Sequence[Sequence[str]] = LOG, names: Sequence[str] = NAMES, separator: str = ",", end: str = "\n"
) -> str:
    """A table without quotes; no header where there are no names."""
    return "".join(separator.join(row) + end for row in ([names, *rows] if names else rows))


def with_cells(place: int, change: Callable[[str], str]) -> list[list[str]]:
    """The log with one column written otherwise."""
    return [[change(cell) if i == place else cell for i, cell in enumerate(row)] for row in LOG]


def labels(zero: str, one: str) -> str:
    return text(with_cells(3, lambda cell: [zero, one][int(cell)]))


def quoted(cell: str) -> str:
    return f'"{cell}"'


def german(cell: str) -> str:
    return f"{float(cell):,.2f}".translate(str.maketrans(",.", ".,"))


LINES = text().split("\n")
SAME: dict[str, str] = {
    "semicolons": text(separator=";"),
    "semicolons, and commas in the names": text(names=("user, id", "it, em", "price, net", "clicked"), separator=";"),
    "pipes": text(separator="|"),
    "two colons": text(separator="::"),
    "Hive's separator": text(separator="\x01"),
    "two colons, no header": text(names=(), separator="::"),
    "tabs": text(separator="\t"),
    "no header": text(names=()),
    "a byte order mark": "\ufeff" + text(),
    "CRLF": text(end="\r\n"),
    "CR": text(end="\r"),
    "mixed line ends": "".join(f"{line}{['', chr(13)][i % 2]}\n" for i, line in enumerate(LINES[:-1])),
    "empty lines first": "\n\n" + text(),
    "an empty line after each": text(end="\n\n"),
    "comments before": "# made by an export\n# of Monday, 3rd\n" + text(),
    "a commented header": "# " + text(),
    "what Excel writes": "sep=;\n" + text(separator=";"),
    "a trailing separator": text([[*row, ""] for row in LOG], [*NAMES, ""]),
    "an index without a name": text([[str(i), *row] for i, row in enumerate(LOG)], ["", *NAMES]),
    "yes and no": labels("no", "yes"),
    "Y and N": labels("N", "Y"),
    "booleans": labels("False", "True"),
    "minus one": labels("-1", "1"),
    "plus one": labels("-1", "+1"),
    "one and two": labels("1", "2"),
    "labels with a fraction of nothing": labels("0.0", "1.0"),
    "thousands": text(with_cells(2, lambda cell: quoted(f"{float(cell):,.2f}"))),
    "decimal comma": text(with_cells(2, lambda cell: cell.replace(".", ",")), separator=";"),
    "German numbers": text(with_cells(2, german), separator=";"),
    "spaces": text(separator=" "),
    "aligned by spaces": "".join(f"  {'  '.join(f'{cell:>9}' for cell in row)}  \n" for row in [NAMES, *LOG]),
    "spaces, no header, CRLF": text(names=(), separator=" ", end="\r\n"),
    "dollars": text(with_cells(2, lambda cell: f"${cell}")),
    "dollars and thousands": text(with_cells(2, lambda cell: quoted(f"$ {float(cell):,.2f}"))),
    "German euros": text(with_cells(2, lambda cell: f"{german(cell)} \u20ac"), separator=";"),
    "a code of money": text(with_cells(2, lambda cell: f"USD {cell}")),
    "per cents": text(with_cells(2, lambda cell: f"{cell}%")),
    "scientific": text(with_cells(2, lambda cell: f"{float(cell):.6e}")),
    "JSON lines": "".join(
        json.dumps(dict(zip(NAMES, [*row[:2], float(row[2]), int(row[3])], strict=True))) + "\n" for row in LOG
    ),
}


def examples(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, dense values and keys of all rows in the job that `init` writes, training part first."""
    spec = parse_job(suggest_job(str(path)).text, "job.yaml").spec
    dataset = open_dataset(spec.data, spec.embedding, seed=1, work_dir=path.parent / "work")
    batches = [*dataset.train_batches(64, epochs=1), *dataset.test_batches(64)]
    return (
        np.concatenate([b.labels_BL for b in batches]),
        np.concatenate([b.dense_BF for b in batches]),
        np.concatenate([b.sparse[0].keys_N for b in batches]),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    path = tmp_path_factory.mktemp("plain") / "log.csv"
    path.write_text(text())
    return examples(path)


def test_the_plain_file_is_read_as_it_is_written(plain: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """What the others are compared with: each label, each price, and one key for each user and item."""
    found, dense_BF, keys_N = plain
    assert found[:, 0].tolist() == [float(row[3]) for row in LOG]
    prices = np.array([float(row[2]) for row in LOG])
    learned = prices[: ROWS * 9 // 10]
    np.testing.assert_allclose(dense_BF[:, 0], (prices - learned.mean()) / learned.std(), rtol=1e-5)
    for place in (0, 1):
        pairs = set(zip([row[place] for row in LOG], keys_N.reshape(ROWS, 2)[:, place].tolist(), strict=True))
        assert len(pairs) == len({row[place] for row in LOG}) == len({key for _, key in pairs})


@pytest.mark.parametrize("name", SAME)
def test_the_same_rows_however_they_are_written(
    name: str, plain: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Labels, numbers and keys are those of the plain file, to the bit."""
    path = tmp_path / "log.txt"
    path.write_bytes(SAME[name].encode())
    for one, other in zip(examples(path), plain, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mark", ["", "NA", "NULL", "\\N", "-", "nan", "?"])
def test_a_missing_number_is_missing_whatever_stands_for_it(mark: str, tmp_path: Path) -> None:
    """Every ninth price; the column stays one of numbers, and what is missing is filled with 0."""
    path = tmp_path / "log.csv"
    path.write_text(text([[*row[:2], mark if i % 9 == 0 else row[2], row[3]] for i, row in enumerate(LOG)]))
    _, dense_BF, _ = examples(path)
    filled = np.array([0.0 if i % 9 == 0 else float(row[2]) for i, row in enumerate(LOG)])
    learned = filled[: ROWS * 9 // 10]
    np.testing.assert_allclose(dense_BF[:, 0], (filled - learned.mean()) / learned.std(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S+02:00", "%Y-%m-%d %H:%M:%S.%f", "%d.%m.%Y %H:%M",
        "%m/%d/%Y %I:%M %p", "%Y/%m/%d %H:%M", "%d-%b-%Y %H:%M:%S", "%y%m%d%H", "%Y%m%d%H%M", "%s",
    ],
)  # fmt: skip
def test_times_in_any_form_order_the_split(form: str, tmp_path: Path) -> None:
    """Rows written latest first: the latest tenth is for tests all the same, and time is no feature."""
    moments = [START + dt.timedelta(hours=7 * i) for i in range(ROWS)]
    stamps = [str(int(t.timestamp())) if form == "%s" else t.strftime(form) for t in moments]
    path = tmp_path / "log.csv"
    path.write_text(text([[*row, stamp] for row, stamp in zip(LOG, stamps, strict=True)][::-1], [*NAMES, "when"]))
    spec = parse_job(suggest_job(str(path)).text, "job.yaml").spec
    assert spec.data.columns is not None
    assert (spec.data.columns.time, spec.data.split_by) == ("when", "time")
    assert [c.name for c in spec.data.columns.sparse] == ["user_id", "item"]
    dataset = open_dataset(spec.data, spec.embedding, seed=1, work_dir=tmp_path / "work")
    tests = np.concatenate([b.labels_BL[:, 0] for b in dataset.test_batches(64)])
    assert tests.tolist() == [float(row[3]) for row in LOG[ROWS * 9 // 10 :][::-1]]


def test_days_that_could_be_months_are_asked_about(tmp_path: Path) -> None:
    """Neither is chosen: the column is ignored, and the comment says how to name it."""
    rows = [[*row, f"{1 + i % 12:02d}/{1 + i % 11:02d}/2024"] for i, row in enumerate(LOG)]
    path = tmp_path / "log.csv"
    path.write_text(text(rows, [*NAMES, "when"]))
    found = suggest_job(str(path)).text
    assert "splitBy: order" in found
    assert '- "when"  # times; which of %m/%d/%Y and %d/%m/%Y is it? name it as time, with timeFormat' in found


BAD: dict[str, tuple[bytes, str]] = {
    "one column": (b"clicked\n0\n1\n0\n", "no column looks like a category (clicked); if there are several columns"),
    "spaces in some cells": (
        text([[*row[:3], "0 or 1"] for row in LOG], separator=" ").encode(),
        "if there are several columns, separate them by a tab, a comma, `;`, `|`, `::` or spaces",
    ),
    "LibSVM": (b"1 3:0.5 7:1.2\n0 4:2\n", "log.csv: LibSVM's format; write three columns"),
    "LibSVM, ranking": (b"2 qid:7 3:0.5 # a page\n0 qid:7 4:2\n", "log.csv: LibSVM's format"),
    "LibFFM": (b"1 0:3:0.5 1:7:1\n", "log.csv: LibFFM's format; write a column for each field"),
    "Vowpal Wabbit": (b"1 |user u1 |item i2 i3\n-1 |user u2 |item i3\n", "log.csv: Vowpal Wabbit's format"),
    "ARFF": (b"% made by Weka\n@RELATION clicks\n@data\n1,2\n", "log.csv: an ARFF file; write its rows as CSV"),
    "a pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0", "log.csv: a pickle; write the table to Parquet"),
    "a header only": (text([]).encode(), "log.csv: no rows; expected at least one example"),
    "a name twice": (
        text(names=("user_id", "item", "item", "clicked")).encode(),
        "log.csv: column item is there twice; give each column a name of its own",
    ),
    "Latin-1": (
        text(with_cells(1, lambda cell: f"é{cell}")).encode("latin-1"),
        "log.csv: line 2: column item: byte 0xe9 is no UTF-8; convert the file, for instance with iconv",
    ),
    "UTF-16": (text().encode("utf-16"), "log.csv: text in UTF-16; convert it, for instance with iconv"),
    "one field more in each row": (
        text([[*row, ""] for row in LOG]).encode(),
        "log.csv: row 1 (line 2): expected 4 fields, found 5; that is so of all rows that were looked at",
    ),
    "blank": (b"\n\n\n", "log.csv: no line in it; expected at least one example"),
    "a JSON array": (b'[{"clicked": 1}]', "log.csv: a JSON array; write one record on each line"),
    "a web page": (b"<!DOCTYPE html>\n<html></html>", "log.csv: a page of HTML or XML; fetch the data itself"),
    "a key of two kinds": (
        b'{"user": 1, "clicked": 0}\n\n{"user": "u2", "clicked": 1}\n',
        "log.csv: row 2: column user: text, and a number in the rows before; write one kind in all rows",
    ),
    "a header in the middle": (
        (text(LOG[:120]) + text(LOG[120:])).encode(),
        "most values of clicked are numbers, but 'clicked' is none: mend these rows",
    ),
    "a label that never changes": (
        text(with_cells(3, lambda _: "1")).encode(),
        "no column looks like a label (0 and 1, or ratings); name it: bagpipe init",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    """With the file, the row and the column where there is one, and what to do."""
    content, words = BAD[name]
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(BagpipeError) as caught:
        suggest_job(str(path))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("gap", ["", "nan", "NA"])
def test_rows_without_a_label_are_skipped_and_counted(gap: str, tmp_path: Path) -> None:
    """The job says so, and runs."""
    path = tmp_path / "log.csv"
    path.write_text(text([[*row[:3], gap if i == 50 else row[3]] for i, row in enumerate(LOG)]))
    found = suggest_job(str(path))
    assert "onBadLine: skip  # 1 of 240 rows have no label" in found.text and any("skipped" in n for n in found.notes)
    assert examples(path)[0][:, 0].tolist() == [float(row[3]) for i, row in enumerate(LOG) if i != 50]


def test_rows_sorted_by_the_label_are_split_by_group(tmp_path: Path) -> None:
    """The last tenth would have one label only."""
    path = tmp_path / "log.csv"
    path.write_text(text(sorted(LOG, key=lambda row: row[3])))
    found = suggest_job(str(path))
    assert "splitBy: group" in found.text and any("sorted by the label" in note for note in found.notes)


def test_two_hundred_columns_long_fields_and_quoted_signs(tmp_path: Path) -> None:
    """Each gets a use: numbers are dense, small whole numbers sparse, long text of its own in every row is ignored."""
    rng = random.Random(3)
    names = [*(f"n{i}" for i in range(99)), *(f"c{i}" for i in range(99)), "words", "clicked"]
    rows = [
        [*(f"{rng.random():.4f}" for _ in range(99)), *(str(rng.randrange(5)) for _ in range(99)),
         f'"{"x" * (3_000_000 if i == 7 else i)},\t\n"', row[3]]
        for i, row in enumerate(LOG)
    ]  # fmt: skip
    path = tmp_path / "log.csv"
    path.write_text(text(rows, names))
    spec = parse_job(suggest_job(str(path)).text, "job.yaml").spec
    assert spec.data.columns is not None
    assert [c.name for c in spec.data.columns.dense] == names[:99]
    assert [c.name for c in spec.data.columns.sparse] == names[99:198]
    assert spec.data.columns.ignore == ("words",)
    assert len(examples(path)[0]) == ROWS


def test_a_folder_is_read_without_what_lies_beside_the_data(tmp_path: Path, plain: tuple[np.ndarray, ...]) -> None:
    """README, checksums, jobs, scripts, and a run with all that it keeps are no data."""
    lines = text().splitlines(keepends=True)
    (tmp_path / "part-1.csv").write_text("".join(lines[:100]))
    (tmp_path / "part-2.csv").write_text(lines[0] + "".join(lines[100:]))
    for name in ("README.md", "MD5SUMS", "job.yaml", "look.ipynb", "fetch.sh", ".hidden", "part-1.csv.md5"):
        (tmp_path / name).write_text("nothing to train on\n")
    run = tmp_path / "runs" / "job-1"
    for folder in ("data", "logs"):
        (run / folder).mkdir(parents=True)
    for name in ("job.yaml", "attempt", "report.json", "metrics.jsonl", "data/part.csv"):
        (run / name).write_text("{}\n")
    for one, other in zip(examples(tmp_path), plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_name_or_a_number_of_columns_makes_no_known_format(tmp_path: Path) -> None:
    """A column `click` is not Avazu's, and forty columns are not Criteo's."""
    path = tmp_path / "log.csv"
    path.write_text(text(names=("user_id", "click", "item", "bought"), rows=[[r[0], r[3], r[1], r[3]] for r in LOG]))
    assert "columns:" in suggest_job(str(path)).text
    more = [f"c{i}" for i in range(36)]
    path.write_text(text([[*row, *["7", "8"][i % 2] * 36] for i, row in enumerate(LOG)], [*NAMES, *more], "\t"))
    assert "columns:" in suggest_job(str(path)).text


@pytest.mark.parametrize("name", SAME)
def test_an_export_reads_a_file_as_training_does(name: str, tmp_path: Path) -> None:
    """The reader that travels with an export gives the same cells under the same names."""
    path = tmp_path / "log.txt"
    path.write_bytes(SAME[name].encode())
    (file,) = find_files(str(path))
    kind = table_format(file, "auto")
    schema = table_schema(file, kind)
    pieces = [p.load() for p in table_pieces(file, kind, schema.names, schema, skip_bad=False)]
    alone = list(tables_of(file, schema.names, schema))
    assert pa.concat_tables(pieces).to_pydict() == pa.concat_tables(alone).to_pydict()
    assert sum(table.num_rows for table in alone) == ROWS


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            "{}kg",
            "{}kg",
            'kg, ignored; they may be names; if they are numbers, move the column to dense: {name: "p',
        ),
        ("{:.0f} kg", "{:.0f} kg", "kg, taken as categories; they may be names"),
        ("${}", "\u20ac{}", "$, \u20ac, ignored; several units; write one"),
        ("p{}", "p{}", None),
    ],
)
def test_numbers_that_may_be_names_are_told(first: str, second: str, words: str | None, tmp_path: Path) -> None:
    """A word behind each number, or several currencies: they are no numbers, and `init` says so and what to do."""
    path = tmp_path / "log.csv"
    prices = [float(row[2]) // 500 if ":.0f" in first else float(row[2]) for row in LOG]
    cells = [[first, second][i % 2].format(value) for i, value in enumerate(prices)]
    path.write_text(text([[*row[:2], cell, row[3]] for row, cell in zip(LOG, cells, strict=True)]))
    notes = [note for note in suggest_job(str(path)).notes if note.startswith("price")]
    assert notes == [] if words is None else notes[0].startswith(f"price: numbers with {words}")


def test_a_unit_is_dropped_and_anything_else_beside_a_number_is_refused(tmp_path: Path) -> None:
    """Before or after the number, with its sign before or after the unit; another unit is no number."""
    cells = ["5 kg", "kg 5", "-5kg", "kg-5", "-kg5", "5", " 5KG", "5 g", "kg", "5 kg kg"]
    table = pa.table({"w": pa.array(cells)})
    problems = Problems(np.zeros(len(cells), np.bool_))
    found = dense_cells(table, DenseColumn("w", unit="kg"), None, problems)
    assert found.tolist() == [5, 5, -5, -5, -5, 5, 0, 0, 0, 0]
    assert problems.bad.tolist() == [False] * 6 + [True] * 4
    assert "`unit` of the column drops what stands beside it" in problems.words


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60).map(lambda b: bytes(b" \n\r:ab"[x % 6] for x in b)), size=st.integers(1, 9))
@pytest.mark.parametrize("separator", [" ", "::"])
def test_separators_of_several_signs_are_found_wherever_a_block_ends(separator: str, data: bytes, size: int) -> None:
    """Read in pieces of any size, the text is that of one piece."""

    def read(size: int) -> bytes:
        stream = Narrowed(io.BytesIO(data), separator)
        return b"".join(iter(lambda: stream.read(size), b""))

    lines = re.split(rb"[\r\n]", data)
    expected = [b"\x1f".join(x for x in line.split(b" ") if x) for line in lines] if separator == " " else None
    assert read(size) == read(1000)
    assert expected is None or re.split(rb"[\r\n]", read(size)) == expected


def test_a_text_among_numbers_is_told(tmp_path: Path) -> None:
    """One value that is none keeps a column from being numbers: `init` says so, and what to write if it is missing."""
    path = tmp_path / "log.csv"
    path.write_text(text([[*row[:2], row[2] if i % 9 else "inf", row[3]] for i, row in enumerate(LOG)]))
    (note,) = [note for note in suggest_job(str(path)).notes if note.startswith("price")]
    assert note.startswith("price: most values are numbers, but 'inf' is none, taken as categories; if ")
    assert note.endswith('move the column to dense: {name: "price", missing: ["inf"]}')
    table = pa.table({"price": ["1.5", "inf"]})
    column = DenseColumn("price", missing=("inf",), fill=-1.0)
    assert dense_cells(table, column, None, Problems(np.zeros(2, np.bool_))).tolist() == [1.5, -1.0]
