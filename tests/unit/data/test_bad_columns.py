"""Bad data with columns of one's own: one line each, with the column, the row and what to do."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.config.load import parse_job
from bagpipe.data import column_files
from bagpipe.data.dataset import open_dataset
from bagpipe.data.holes import FOUND
from bagpipe.errors import BagpipeError, ConfigError, DataError

JOB = """
apiVersion: bagpipe.dev/v1alpha1
kind: BagpipeJob
spec:
  data:
    path: {}
    columns: {}
"""
COLUMNS = '{labels: [{name: y}], dense: [{name: price}], sparse: [{name: item}], ignore: ["*"]}'
HEAD = "y,item,price"
GOOD = [f"{i % 2},i{i % 3},{i / 2}" for i in range(9)]
FIX = "fix the row or set data.onBadLine: skip"


def read(path: Path, columns: str = COLUMNS) -> None:
    spec = parse_job(JOB.format(path, columns), "job.yaml").spec
    dataset = open_dataset(spec.data, spec.embedding, seed=1, work_dir=path.parent / "work")
    assert sum(batch.num_examples for batch in dataset.train_batches(4, epochs=1)) == 9


def csv(lines: list[str], head: str = HEAD) -> bytes:
    return "\n".join([head, *lines, ""]).encode()


def with_row(number: int, line: str) -> bytes:
    return csv([*GOOD[: number - 1], line, *GOOD[number:]])


def each(change: Callable[[int], str]) -> bytes:
    return csv([change(i) for i in range(9)])


RULE = """{labels: [{name: y, rule: "%s"}], dense: [{name: price}], sparse: [{name: item}], ignore: ["*"]}"""


@pytest.mark.parametrize(
    ("rule", "zero", "one", "odd", "words"),
    [
        ("y == 'yes' else 'no'", "no", "yes", "YES", "the label 'yes' or 'no', found 'YES'"),
        ("y == 'yes' else 'no'", "no", "yes", "NA", "the label 'yes' or 'no', found 'NA'"),
        ("y == 1 else -1", "-1", "1", "0", "the label 1 or -1, found '0'"),
    ],
)
def test_a_rule_with_both_answers_takes_no_third(
    rule: str, zero: str, one: str, odd: str, words: str, tmp_path: Path
) -> None:
    """With one answer only, everything else would be a label of 0 in silence."""
    lines = [f"{[zero, one][i % 2]},i{i % 3},{i / 2}" for i in range(9)]
    path = tmp_path / "log.csv"
    path.write_bytes(csv(lines))
    read(path, RULE % rule)
    path.write_bytes(csv([*lines[:4], f"{odd},i1,1", *lines[5:]]))
    with pytest.raises(DataError) as caught:
        read(path, RULE % rule)
    assert str(caught.value) == f"{path}: row 5: column y: expected {words}; {FIX}"


@pytest.mark.parametrize(
    "rule", ["y == 'yes' else 0", "y >= 3 else 1", "y == 1 else 1", "y != 'a' else 'b'", "y == 1 else"]
)
def test_a_rule_with_answers_that_do_not_fit_is_refused(rule: str, tmp_path: Path) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=r"labels\[0\].rule: expected "):
        parse_job(JOB.format(tmp_path / "log.csv", RULE % rule), "job.yaml")


BAD: dict[str, tuple[bytes, type[BagpipeError], str]] = {
    "constant label": (
        each(lambda i: f"1,i{i % 3},{i}"),
        DataError,
        "labels: y is 1 in every example of the training part, which teaches nothing; check the column, its rule",
    ),
    "label of another kind": (
        with_row(4, "2,i1,1"),
        DataError,
        f"log.csv: row 4: column y: expected a label of 0 or 1 (or a rule), found '2'; {FIX}",
    ),
    "label of words": (
        each(lambda i: f"{['yes', 'no'][i % 2]},i{i % 3},{i}"),
        DataError,
        "row 1: column y: expected a number for the label (or a rule such as y == 'yes'), found 'yes'",
    ),
    "no label": (with_row(6, ",i1,1"), DataError, "row 6: column y: expected a number for the label"),
    "a column twice": (
        csv([f"{line},1" for line in GOOD], f"{HEAD},item"),
        DataError,
        "log.csv: column item is there 2 times; give each column a name of its own",
    ),
    "a column that is not there": (
        csv(GOOD, "y,itme,price"),
        ConfigError,
        "data.columns: 'item' is no column of log.csv; did you mean 'itme'?",
    ),
    "ids all missing": (
        each(lambda i: f"{i % 2},,{i}"),
        DataError,
        "sparse: item: all values are missing in the training part; put it under ignore",
    ),
    "numbers all missing": (
        each(lambda i: f"{i % 2},i{i % 3},"),
        DataError,
        "dense: price: all values are missing in the training part; put it under ignore",
    ),
    "a vocabulary of one value": (
        each(lambda i: f"{i % 2},a,{i}"),
        DataError,
        "sparse: item: there is one value only in the training part; put it under ignore",
    ),
    "a short row": (
        csv(['0,"i\n1",1.5', *GOOD[:3], "1,i1"]),
        DataError,
        f"log.csv: row 5 (line 7): expected 3 fields, found 2; {FIX}",
    ),
    "a long row": (with_row(5, "1,i1,2,3"), DataError, f"row 5 (line 6): expected 3 fields, found 4; {FIX}"),
    "a byte that is no UTF-8": (
        csv(GOOD).replace(b"i2", b"i\xff", 1),
        DataError,
        "log.csv: line 4: column item: byte 0xff is no UTF-8; convert the file, for instance with iconv",
    ),
    "a number that is none": (
        with_row(6, "1,i2,abc"),
        DataError,
        f"row 6: column price: expected a finite number, found 'abc'; {FIX}",
    ),
    "a number too large": (with_row(6, "1,i2,1e999"), DataError, "row 6: column price: expected a finite number"),
    "nothing but a header": (csv([]), DataError, "log.csv: no valid example in the data; check data.path"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_named_by_column_row_and_remedy(name: str, tmp_path: Path) -> None:
    """One line for each mistake; the good file is read."""
    content, kind, words = BAD[name]
    path = tmp_path / "log.csv"
    path.write_bytes(csv(GOOD))
    read(path)
    path.write_bytes(content)
    with pytest.raises(kind) as caught:
        read(path)
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert words in said and "\n" not in said


@pytest.mark.parametrize("encoding", ["vocabulary", "hash"])
def test_a_log_without_rows_is_not_a_matter_of_its_split(encoding: str, tmp_path: Path) -> None:
    """A header and no row: no other share for tests would help, so none is asked for."""
    path = tmp_path / "log.csv"
    path.write_bytes(csv([]))
    spec = parse_job(JOB.format(path, f"{COLUMNS}\n    testFraction: 0.1\n    encoding: {encoding}"), "job.yaml").spec
    with pytest.raises(DataError, match=r"^\S+: no valid example in the data; check data.path and data.format$"):
        open_dataset(spec.data, spec.embedding, seed=1, work_dir=tmp_path / "work")


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (pa.array([{"a": i} for i in range(9)]), "column item: expected text or whole numbers, found struct<a: int64>"),
        (pa.array([b"a"] * 9), "column item: expected text or whole numbers, found binary; flatten or cast it when"),
        (pa.array([i + 0.5 for i in range(9)]), "row 1: column item: expected a whole number of 64 bits, found 0.5"),
        (pa.nulls(9), "column item: all values are missing; put it under data.columns.ignore"),
    ],
)
def test_types_that_cannot_be_ids_are_refused(cells: pa.Array, words: str, tmp_path: Path) -> None:
    """By name, with what to do."""
    path = tmp_path / "log.parquet"
    pq.write_table(
        pa.table({"y": [i % 2 for i in range(9)], "price": [float(i) for i in range(9)], "item": cells}), path
    )
    with pytest.raises(DataError) as caught:
        read(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "where"),
    [
        (COLUMNS.replace("[{name: price}]", "[{name: y}]"), "dense[0]: reads 'y', which the label 'y' is made of"),
        (COLUMNS.replace("{name: item}", "{name: a, column: y}"), "sparse[0]: reads 'y', which the label 'y' is"),
        (
            COLUMNS.replace("[{name: y}]", "[{name: dear, rule: price >= 2}]"),
            "dense[0]: reads 'price', which the label 'dear' is made of",
        ),
    ],
)
def test_a_label_is_no_feature(columns: str, where: str, tmp_path: Path) -> None:
    """A feature that reads what the label is made of would give the answer away."""
    with pytest.raises(ConfigError) as caught:
        parse_job(JOB.format(tmp_path / "log.csv", columns), "job.yaml")
    assert where in str(caught.value) and "not known when a prediction is made; remove it" in str(caught.value)


def test_a_column_that_only_holds_what_stands_for_a_missing_value_is_read(tmp_path: Path) -> None:
    """Values are there, though they are the fill: another part of the data may have others."""
    path = tmp_path / "log.csv"
    path.write_bytes(csv([f"{i % 2},i{i % 3},0" for i in range(9)]))
    read(path)


def test_a_hole_of_zeros_far_into_a_file_is_refused_or_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NUL byte is no text: a writer that crashed left it. Row and column are named, and all other rows are read."""
    monkeypatch.setattr(column_files, "BLOCK_BYTES", 1 << 10)
    lines = [f"{i % 2},i{i % 3},{i}" for i in range(600)]
    lines[499], lines[549] = "1,i\0\0,499", "1,\0i1,549"
    path = tmp_path / "log.csv"
    path.write_bytes(csv(lines))
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: row 500 (line 501): column item: {FOUND}; {FIX}"
    lines[529] = "1,i1"
    path.write_bytes(csv(lines))
    spec = parse_job(JOB.format(path, COLUMNS), "job.yaml", ["data.onBadLine=skip"]).spec
    dataset = open_dataset(spec.data, spec.embedding, seed=1, work_dir=tmp_path / "skipping")
    (batch,) = dataset.train_batches(600, epochs=1)
    assert batch.dense_BF[:, 0].tolist() == [float(i) for i in range(600) if i not in (499, 529, 549)]
    assert dataset.report.bad_lines == 3
    assert str(dataset.report.first_bad).startswith(f"{path}: row 500 (line 501): column item: ")
