"""Cells written in odd ways: `bagpipe init` reads what can mean one thing only, and tells the rest.

What it reads is stated in the job by a setting that every reader applies; of the rest the job file and the terminal say
what is doubtful and what to write.
"""

import datetime as dt
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from bagpipe.config.columns import DenseColumn, SparseColumn
from bagpipe.config.load import parse_job
from bagpipe.data.column_cells import dense_cells, sparse_cells
from bagpipe.data.column_values import Problems
from bagpipe.data.dataset import open_dataset
from bagpipe.data.suggest import Suggestion, suggest_job
from bagpipe.data.written_lists import values_in
from bagpipe.errors import BagpipeError
from bagpipe.standalone.columns import OwnColumns

ROWS = 240
MIDNIGHT = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
NUMBERS = [round(math.sin(i) * 10 ** (1 + i % 4), 2) for i in range(ROWS)]
SECONDS = [(i * 7919) % 400_000 for i in range(ROWS)]


def written(folder: Path, cells: list[str | None], name: str = "x") -> Path:
    """A CSV with a label, two features and the column of odd cells, all quoted."""
    path = folder / "log.csv"
    quoted = ["" if cell is None else '"' + cell.replace('"', '""') + '"' for cell in cells]
    rows = [f"u{i % 20},i{i % 15},{(i * i) % 7 % 2},{cell}" for i, cell in enumerate(quoted)]
    path.write_text("\n".join([f"user,item,clicked,{name}", *rows, ""]))
    return path


def opened(found: Suggestion, folder: Path) -> Any:
    """The columns of the job, after its data was read as training reads it."""
    spec = parse_job(found.text, "job.yaml").spec
    dataset = open_dataset(spec.data, spec.embedding, seed=1, work_dir=folder / "work")
    assert sum(batch.num_examples for batch in dataset.train_batches(64, epochs=1)) == ROWS * 9 // 10
    return spec.data.columns


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


def grouped(value: float, sign: str, decimal: str) -> str:
    return f"{value:,.2f}".translate(str.maketrans({",": sign, ".": decimal}))


def accounting(value: float, form: str = "{}") -> str:
    text = form.format(f"{abs(value):,.2f}")
    return f"({text})" if value < 0 else text


def lakhs(value: float) -> str:
    whole, _, rest = f"{abs(value) * 1000:.2f}".partition(".")
    head, tail = whole[:-3], whole[-3:]
    pairs: list[str] = []
    while head:
        pairs.insert(0, head[-2:])
        head = head[:-2]
    return ("-" if value < 0 else "") + ",".join([*pairs, tail]) + f".{rest}"


NARROW, NO_BREAK, THIN = "\u202f", "\u00a0", "\u2009"
READ: dict[str, tuple[Callable[[float], str], dict[str, Any]]] = {
    "accounting": (accounting, {"negative": "parentheses", "thousands": ","}),
    "accounting in dollars": (
        lambda v: accounting(v, "${}"),
        {"negative": "parentheses", "thousands": ",", "unit": "$"},
    ),
    "dollars outside": (
        lambda v: f"$({-v:.2f})" if v < 0 else f"${v:.2f}",
        {"negative": "parentheses", "unit": "$"},
    ),
    "minus behind": (lambda v: f"{abs(v):.2f}{'-' if v < 0 else ''}", {"negative": "behind"}),
    "minus behind, per cent": (
        lambda v: f"{abs(v):.2f}{'-' if v < 0 else ''}%",
        {"negative": "behind", "unit": "%"},
    ),
    "a typographer's minus": (lambda v: f"{v:.2f}".replace("-", "\u2212"), {}),
    "narrow blanks": (lambda v: grouped(v, NARROW, ","), {"thousands": " ", "decimal": ","}),
    "no-break blanks": (lambda v: grouped(v, NO_BREAK, ","), {"thousands": " ", "decimal": ","}),
    "thin blanks": (lambda v: grouped(v, THIN, "."), {"thousands": " "}),
    "blanks": (lambda v: grouped(v, " ", ","), {"thousands": " ", "decimal": ","}),
    "blanks and euros": (
        lambda v: grouped(v, NARROW, ",") + f"{NO_BREAK}\u20ac",
        {"thousands": " ", "decimal": ",", "unit": "\u20ac"},
    ),
    "apostrophes": (lambda v: grouped(v, "'", "."), {"thousands": "'"}),
    "curled apostrophes": (lambda v: grouped(v, "\u2019", "."), {"thousands": "'"}),
}
LENGTHS: dict[str, tuple[Callable[[int], str], str]] = {
    "hours": (lambda s: f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}", "h:m:s"),
    "Python's": (lambda s: str(dt.timedelta(seconds=s)), "h:m:s"),
    "pandas'": (lambda s: f"{s // 86400} days {s // 3600 % 24:02d}:{s // 60 % 60:02d}:{s % 60:02d}", "h:m:s"),
    "ISO 8601": (lambda s: f"PT{s // 3600}H{s // 60 % 60}M{s % 60}S", "iso"),
}


def dense(found: Any, path: Path) -> tuple[DenseColumn, list[float]]:
    """The column x of a job, and its cells as numbers: as training reads them, which is as an export does."""
    (column,) = (column for column in found.dense if column.name == "x")
    plain = msgspec.structs.replace(column, standardise=False, log1p=False)
    table = pa.table({"x": csv.read_csv(path, convert_options=TEXT).column("x")})
    problems = Problems(np.zeros(ROWS, np.bool_))
    numbers = dense_cells(table, plain, None, problems)
    assert problems.first_row is None
    alone = OwnColumns({"columns": {"dense": [msgspec.to_builtins(plain)]}, "features": [], "jagged": False}, {})
    np.testing.assert_array_equal(alone.block(table, "log.csv", 1).dense_BF[:, 0], numbers)
    return column, numbers.tolist()


TEXT = csv.ConvertOptions(column_types={"x": pa.string()}, strings_can_be_null=True, null_values=[""])


@pytest.mark.parametrize("name", READ)
def test_numbers_are_read_however_they_are_written(name: str, tmp_path: Path) -> None:
    """The job says how, and they are the numbers that were meant; nothing is left to doubt."""
    write, settings = READ[name]
    path = written(tmp_path, [write(value) for value in NUMBERS])
    found = suggest_job(str(path))
    column, numbers = dense(opened(found, tmp_path), path)
    said = {key: getattr(column, key) for key in ("negative", "thousands", "decimal", "unit")}
    assert said == {"negative": "sign", "thousands": "", "decimal": ".", "unit": ""} | settings
    np.testing.assert_allclose(numbers, NUMBERS, rtol=1e-6)
    assert not [note for note in found.notes if note.startswith("x")]


def test_indian_groups_are_thousands_and_lakhs(tmp_path: Path) -> None:
    """12,34,567.80 with thousands: ","."""
    path = written(tmp_path, [lakhs(value) for value in NUMBERS])
    column, numbers = dense(opened(suggest_job(str(path)), tmp_path), path)
    assert column.thousands == ","
    np.testing.assert_allclose(numbers, [round(value * 1000, 2) for value in NUMBERS], rtol=1e-6)


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_of_time_are_seconds(name: str, tmp_path: Path) -> None:
    """A third of them is missing, which stays missing."""
    write, form = LENGTHS[name]
    path = written(tmp_path, [None if i % 3 == 1 else write(s) for i, s in enumerate(SECONDS)])
    column, numbers = dense(opened(suggest_job(str(path)), tmp_path), path)
    assert column.duration == form
    assert numbers == [0.0 if i % 3 == 1 else float(s) for i, s in enumerate(SECONDS)]


@pytest.mark.parametrize("kind", [pa.duration("ns"), pa.duration("s"), pa.time32("s"), pa.time64("us")])
def test_lengths_of_time_of_parquet_are_seconds_too(kind: pa.DataType, tmp_path: Path) -> None:
    """Whatever the unit of the column is."""
    seconds = [s % 86_400 for s in SECONDS]
    times = kind in (pa.time32("s"), pa.time64("us"))
    values = [(MIDNIGHT + dt.timedelta(seconds=s)).time() if times else dt.timedelta(seconds=s) for s in seconds]
    table = pa.table({"clicked": [i * i % 7 % 2 for i in range(ROWS)], "item": [f"i{i % 15}" for i in range(ROWS)],
                      "x": pa.array(values, kind)})  # fmt: skip
    pq.write_table(table, tmp_path / "log.parquet")
    columns = opened(suggest_job(str(tmp_path / "log.parquet")), tmp_path)
    (column,) = columns.dense
    plain = msgspec.structs.replace(column, standardise=False, log1p=False)
    found = dense_cells(pq.read_table(tmp_path / "log.parquet"), plain, None, Problems(np.zeros(ROWS, np.bool_)))
    assert found.tolist() == [float(s) for s in seconds]


BAD_NUMBERS = [
    ({}, "(5)", "`negative: parentheses`"),
    ({}, "5-", "`negative: behind`"),
    ({}, "1:30:00", "`duration`"),
    ({}, f"1{NARROW}234", "`decimal` and `thousands`"),
    ({"negative": "parentheses"}, "(-5)", "a finite number"),
    ({"negative": "parentheses"}, "((5))", "a finite number"),
    ({"negative": "behind"}, "-5-", "a finite number"),
    ({"duration": "h:m:s"}, "1:60:00", "a finite number"),
    ({"duration": "h:m:s"}, "90", "a finite number"),
    ({"duration": "iso"}, "P", "a finite number"),
    ({"duration": "m:s"}, "1:2:3", "a finite number"),
    ({"thousands": ","}, "0,512", "a finite number"),
    ({"thousands": ","}, "1,23,45", "a finite number"),
]


@pytest.mark.parametrize(("settings", "cell", "words"), BAD_NUMBERS)
def test_what_is_no_number_under_a_setting_is_refused(settings: dict[str, Any], cell: str, words: str) -> None:
    """With the setting that would read it, where there is one."""
    problems = Problems(np.zeros(2, np.bool_))
    table = pa.table({"x": ["7" if "duration" not in settings else None, cell]})
    dense_cells(table, DenseColumn("x", **settings), None, problems)
    assert problems.bad.tolist() == [False, True] and words in problems.words


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────

TAGS = [[f"t{(i + k) % 9}" for k in range(i % 4)] for i in range(ROWS)]
IDS = [[(i + k) % 9 for k in range(i % 4)] for i in range(ROWS)]
LISTS: dict[str, tuple[list[str | None], dict[str, Any], list[list[Any]]]] = {
    "JSON, numbers": ([json.dumps(one) for one in IDS], {"brackets": True}, IDS),
    "JSON, texts": ([json.dumps(one) for one in TAGS], {"brackets": True}, TAGS),
    "Python's": ([str(one) for one in TAGS], {"brackets": True}, TAGS),
    "PostgreSQL's": (["{" + ",".join(one) + "}" for one in TAGS], {"brackets": True}, TAGS),
    "numpy's": (["[" + "  ".join(map(str, one)) + "]" for one in IDS], {"brackets": True}, IDS),
    "bars": (["|".join(one) for one in TAGS], {"separator": "|"}, TAGS),
    "bars between blanks": ([" | ".join(one) for one in TAGS], {"separator": " | "}, TAGS),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_in_one_cell_are_several_values(name: str, tmp_path: Path) -> None:
    """The values are those that were written; an empty list has none."""
    cells, settings, expected = LISTS[name]
    path = written(tmp_path, cells)
    columns = opened(suggest_job(str(path)), tmp_path)
    (column,) = (column for column in columns.sparse if column.name == "x")
    assert {key: getattr(column, key) for key in ("separator", "brackets")} == {
        "separator": "", "brackets": False
    } | settings  # fmt: skip
    assert codes(pa.array(cells), column) == codes(
        pa.array([[str(v) for v in one] for one in expected], pa.list_(pa.string())), SparseColumn("x")
    )


def codes(cells: pa.Array, column: SparseColumn) -> list[list[int]]:
    problems = Problems(np.zeros(len(cells), np.bool_))
    found = sparse_cells(pa.table({"x": cells}), column, "token", problems)
    assert problems.first_row is None
    return [found.codes[at : at + size].tolist() for at, size in zip(found.begins, found.lengths, strict=True)]


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("[]", []), ("{}", []), ("  ", []), ("[1, 2.50, -3]", ["1", "2.50", "-3"]), ("[true, null]", ["true", None]),
        ('["a, b", "c\\"d", "é"]', ["a, b", 'c"d', "é"]), ("['a, b', \"it's\", 'c\\'d']", ["a, b", "it's", "c'd"]),
        ("[None, 'None']", [None, "None"]), ('{a b,NULL,"x,y"}', ["a b", None, "x,y"]), ("[1 2\n 3]", ["1", "2", "3"]),
        ("[a, Bob's]", ["a", "Bob's"]), ("[18446744073709551615]", ["18446744073709551615"]), ("['a',]", ["a"]),
        ("1,2", None), ("[1", None), ("[[1], [2]]", None), ('{"a": 1}', None), ("[1]]", None), ("(1, 2)", None),
    ],
)  # fmt: skip
def test_a_list_in_brackets_is_read_as_its_program_wrote_it(cell: str, values: list[Any] | None) -> None:
    """JSON's, Python's, PostgreSQL's and numpy's lists; a list of lists, a record and what is not closed are none."""
    assert values_in(cell) == values


def test_a_cell_that_is_no_list_is_refused_by_its_row() -> None:
    """And weights in brackets belong to the values in brackets, one each."""
    column = SparseColumn("x", brackets=True, weight="w")
    table = pa.table({"x": ["[1, 2]", None, "1, 2", "[3]"], "w": ["[0.5, 2]", None, "[1]", "[1, 1]"]})
    problems = Problems(np.zeros(4, np.bool_))
    found = sparse_cells(table, column, "token", problems)
    assert problems.bad.tolist() == [False, False, True, True]
    assert problems.words == "column x: expected a list in brackets, such as [1, 2], found '1, 2'"
    assert found.lengths.tolist()[:2] == [2, 1]
    assert found.weights is not None and found.weights[:2].tolist() == [0.5, 2.0]


# ── what is doubtful ──────────────────────────────────────────────────────────────────────────────

DOUBTS: dict[str, tuple[Callable[[int], str], list[str]]] = {
    "hours and minutes, or minutes and seconds": (
        lambda i: f"{i % 24}:{i * 7 % 60:02d}",
        ["x: values such as '0:00' are times of day or lengths of time, ", '{name: "x", duration: "h:m"}', "m:s"],
    ),
    "commas": (
        lambda i: ",".join(f"t{(i * k) % 9}" for k in range(1, 2 + i // 9 % 3)),
        ["may hold several values, taken as categories", 'write {name: "x", separator: ",", maxLength: 50}'],
    ),
    "commas and blanks": (
        lambda i: ", ".join(f"t{(i * k) % 9}" for k in range(1, 2 + i // 9 % 3)),
        ['{name: "x", separator: ", ", maxLength: 50}'],
    ),
    "slashes": (
        lambda i: "/".join(f"t{(i * k) % 9}" for k in range(1, 2 + i // 9 % 3)),
        ['{name: "x", separator: "/", maxLength: 50}'],
    ),
    "points before three digits": (
        lambda i: f"{1 + i % 90}.{i * 37 % 1000:03d}",
        ["1.000 is read with . before a fraction; if it parts thousands:", 'thousands: ".", decimal: ","'],
    ),
    "commas before three digits": (
        lambda i: f"{1 + i % 90},{i * 37 % 1000:03d}",
        ["1,000 is read with , between thousands; if it begins a fraction: decimal: ','"],
    ),
    "ranges": (
        lambda i: f"{i % 9}0-{i % 9 + 1}0",
        ["values such as '00-10' have digits and signs but are no numbers, taken as categories"],
    ),
    "bounds": (lambda i: f"<{i % 9}", ["values such as '<0' have digits and signs"]),
    "records": (
        lambda i: json.dumps({"a": i}),
        ["x: JSON records in one cell; write a column for each key"],
    ),
    "vectors": (
        lambda i: str([i / 7, 0.5]),
        ["x: lists of numbers with a fraction, which are no categories; if their places mean something"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTS)
def test_what_may_mean_two_things_is_told(name: str, tmp_path: Path) -> None:
    """On the terminal and in the job, above the column, with what to write; the job runs as it is."""
    write, words = DOUBTS[name]
    found = suggest_job(str(written(tmp_path, [write(i) for i in range(ROWS)])))
    (note,) = [note for note in found.notes if note.startswith("x: ")]
    assert [part for part in words if part not in note] == []
    lines = found.text.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line == f"        # {note}"]
    assert '"x"' in lines[at + 1]
    opened(found, tmp_path)


NESTED: dict[str, tuple[Callable[[int], Any], str]] = {
    "a record": (lambda i: {"id": i, "name": "n"}, "x: records within the rows; write a column for each key, id, name"),
    "records": (lambda i: [{"id": i}], "x: records within the rows; write a column for each key, id"),
    "lists of lists": (lambda i: [[i], [2]], "x: lists of lists; write a column for each inner list"),
    "vectors": (lambda i: [i / 7, 0.5], "x: lists of numbers with a fraction, which are no categories"),
}


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_nested_values_are_told_by_init_and_refused_before_a_run(name: str, form: str, tmp_path: Path) -> None:
    """`init` ignores them and says what to write; a job that asks for them is refused by their name."""
    make, words = NESTED[name]
    rows = [{"clicked": i * i % 7 % 2, "item": f"i{i % 15}", "x": make(i)} for i in range(ROWS)]
    path = tmp_path / f"log.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = suggest_job(str(path))
    assert [note for note in found.notes if note.startswith(words)] and f"        # {words}" in found.text
    assert opened(found, tmp_path).ignore == ("x",)
    wrong = found.text.replace("      sparse:\n", '      sparse:\n        - {name: "x"}\n').replace('- "x"', '- "y"')
    with pytest.raises(BagpipeError) as caught:
        opened(Suggestion(wrong), tmp_path)
    assert "column x: expected" in str(caught.value) and "\n" not in str(caught.value)
