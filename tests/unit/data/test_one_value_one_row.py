"""The same value means the same row wherever it is met, and what cannot be told apart is refused, not guessed."""

import json
import os
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_logs import lines, opened, parquet, refused, values

from bagpipe.config.columns import DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig
from bagpipe.config.parts import shares_of
from bagpipe.data.columns import ColumnSource
from bagpipe.data.files import find_files
from bagpipe.data.split import Split
from bagpipe.errors import ConfigError, DataError
from bagpipe.export.predict import predict
from bagpipe.interactive.transform import Transform
from bagpipe.standalone.columns import OwnColumns
from bagpipe.standalone.model import _table_of
from bagpipe.standalone.readers import files_of, tables_of, types_of
from bagpipe.standalone.score import _unwritable

# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_that_looks_like_a_time_is_the_same_value_in_every_file(tmp_path: Path) -> None:
    """Arrow takes a JSON column for times if all of its texts look like some, so it depended on the other rows."""
    days = ["2024-01-01", "never", "2024-01-02"]
    train = lines(tmp_path / "a.jsonl", [{"y": i % 2, "d": days[i % 3], "l": [days[0], days[i % 3]]} for i in range(6)])
    other = lines(tmp_path / "b.jsonl", [{"y": i, "d": days[2 * i], "l": [days[2 * i]]} for i in range(2)])
    columns = {"labels": ["y"], "sparse": ["d", "l"]}
    for rows in (str(train), [json.loads(line) for line in train.read_text().splitlines()]):
        transform = Transform.fit(rows, columns)
        known = dict(zip(days, transform.encode(str(train)).features["d"].rows[:3].tolist(), strict=True))
        assert min(known.values()) > 0  # 0 is for values that were not seen
        features = transform.encode(str(other)).features
        assert features["d"].rows.tolist() == [known[days[0]], known[days[2]]]
        assert min(features["l"].rows) > 0
    own = OwnColumns(json.loads(msgspec.json.encode(transform._kept.info)), {})
    (table,) = tables_of(files_of(str(other))[0], own.names, types_of(files_of(str(other))[0]))
    alone = own.block(table, "", 1).values[0].codes_N
    source = opened(train)
    (block,) = (source.parse(piece) for piece in source.pieces(0)[1])
    assert alone.tolist() == block.codes_N[[0, 2]].tolist()


MALFORMED: dict[str, tuple[bytes, str]] = {
    "a key twice": (b'{"y":0,"d":"c","d":"e"}', "row 2: expected a JSON record (Column(/d) was specified twice)"),
    "Latin-1": (b'{"y":0,"d":"\xe9"}', "row 2: expected text in UTF-8, found the byte 0xe9 at place 13 of its line"),
    "half a sign": (b'{"y":0,"d":"\\ud800"}', "row 2: expected a JSON record (The surrogate pair in string is invalid"),
    "a number beyond all": (b'{"y":1e999,"d":"c"}', "row 2: expected a JSON record ("),
    "a comma behind": (b'{"y":0,"d":"c"},', "row 2: expected a JSON record (Extra data at place 16 of its line)"),
    "a number": (b"17", "row 2: expected a JSON record, found '17'"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record_is_named_by_its_row_or_skipped(name: str, tmp_path: Path) -> None:
    line, words = MALFORMED[name]
    path = lines(tmp_path / "log.jsonl", [{"y": 1, "d": "a"}, line, {"y": 0, "d": "b"}])
    assert words in refused(opened(path))
    source = opened(path, skip=True)
    assert values(source) == ["a", "b"]
    assert [source.parse(piece).lines_B.tolist() for piece in source.pieces(0)[1]] == [[1, 3]]


def test_numbers_that_python_writes_are_missing_whatever_else_is_wrong(tmp_path: Path) -> None:
    """A NaN is a missing number; a malformed row beside it does not make it a malformed one."""
    path = lines(tmp_path / "log.jsonl", [{"y": 1, "d": "a", "p": float("nan")}, b"x", {"y": 0, "d": "b", "p": 2.5}])
    source = opened(path, skip=True, dense=(DenseColumn("p", fill=7),))
    (block,) = (source.parse(piece) for piece in source.pieces(0)[1])
    assert (block.dense_BF.tolist(), block.bad_lines) == ([[7.0], [2.5]], 1)


def test_records_of_some_megabytes_are_read(tmp_path: Path) -> None:
    long = ["x" * (3 << 19), "z" * 9]
    path = lines(tmp_path / "log.jsonl", [{"y": i, "d": text, "l": [text]} for i, text in enumerate(long)])
    assert len(set(values(opened(path)))) == 2


def test_lines_of_which_none_is_a_record_are_told_by_the_first(tmp_path: Path) -> None:
    path = lines(tmp_path / "log.jsonl", [b'{"y":1,"d":"a"},', b'{"y":0,"d":"b"},'])
    with pytest.raises(DataError, match=r"row 1: expected a JSON record \(Extra data .*\); write one record on each"):
        opened(path)


def test_digits_in_parts_are_no_number(tmp_path: Path) -> None:
    """Python reads 12_3 as 123; in data it is a name, or a mistake."""
    path = tmp_path / "log.csv"
    path.write_text("y,d,p\n1,a,5\n0,b,12_3\n")
    assert "row 2: column p: expected a finite number" in refused(opened(path, dense=(DenseColumn("p"),)))


# ── labels ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rule", ["a == '{}'", "a == '{}' else '{}'"])
@pytest.mark.parametrize(
    ("answers", "cells", "words"),
    [
        (("True", "False"), [True, False], None),
        (("4.0", "3.0"), [4, 3], None),
        (("4", "3"), [4.0, 3.0], None),
        (("yes", "no"), [True, False], "row 1: column a: expected text such as 'yes' for the label, found True"),
        (("yes", "no"), [1, 0], "row 1: column a: expected text such as 'yes' for the label, found 1"),
        (("4", "3"), [4.0, float("nan")], "row 2: column a: expected text such as '4' for the label, found nan"),
    ],
)
def test_an_answer_is_the_same_whatever_its_type(
    rule: str, answers: tuple[str, str], cells: list[Any], words: str | None, tmp_path: Path
) -> None:
    """A label that no cell of its column could ever be was 0 in every row."""
    pq.write_table(pa.table({"a": cells, "d": ["a", "b"]}), tmp_path / "a.parquet")
    source = opened(tmp_path, labels=(LabelColumn("y", rule=rule.format(*answers)),))
    if words is not None:
        assert words in refused(source)
        return
    assert [source.parse(piece).labels_BL.tolist() for piece in source.pieces(0)[1]] == [[[1.0], [0.0]]]


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
@pytest.mark.parametrize("skip", [False, True])
def test_a_quote_that_is_never_closed_is_refused(end: str, skip: bool, tmp_path: Path) -> None:
    """All the rest of the file was one cell of the row in which it is opened."""
    path = tmp_path / "log.csv"
    path.write_bytes(f'y,d\n1,a\n0,"b\n1,c\n0,d{end}'.encode())
    words = "log.csv: row 2: column d: a quote is never closed, so that all the rest of the file is in this cell"
    assert words in refused(opened(path, skip=skip))
    path.write_bytes(f'y,d\n1,a\n"0,b\n1,c{end}'.encode())
    told = "log.csv: row 2: a quote is never closed" if skip else r"log.csv: row 2 (line 3): expected 2 fields, found 1"
    assert told in refused(opened(path, skip=skip))
    path.write_bytes(f'y,d\n1,a\n0,"b\n1,c"\n0,d{end}'.encode())
    assert values(opened(path)) == ["a", "b\n1,c", "d"]
    path.write_bytes(f'y,d\n1,a\n0,b"\n1,c"{end}'.encode())
    assert values(opened(path)) == ["a", 'b"', 'c"']


def test_a_row_without_a_line_number_is_told_without_it(tmp_path: Path) -> None:
    """Arrow takes a lone CR for the end of a row."""
    (tmp_path / "log.csv").write_bytes(b"y,d\n1,a\rc\n0,b\n")
    assert "log.csv: row 2: expected 2 fields, found 1;" in refused(opened(tmp_path / "log.csv"))


# ── values of other types than in training ────────────────────────────────────────────────────────

OTHER_TYPES: dict[str, tuple[Any, str]] = {
    "true, which pandas writes as True": (True, "expected text, found True"),
    "a time, with or without a T": (datetime(2024, 1, 1), "expected text, found "),
    "a fraction": (3.0, "expected text, found 3.0"),
    "a list of one": (["a"], "expected one value, as in the data that this was learned from, found ['a']"),
    "a record": ({"x": 1}, "expected text, found {'x': 1}"),
    "bytes": (b"a", "expected text, found b'a'"),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_a_value_of_which_nobody_knows_the_text_is_refused(name: str, tmp_path: Path) -> None:
    """In a later file, and in a row given to an export."""
    value, words = OTHER_TYPES[name]
    (tmp_path / "a.csv").write_text("y,d,e\n0,True,1\n1,a,2\n")
    table = pa.table({"y": [0, 1], "d": pa.array([None, value]), "e": ["1", "2"]})
    pq.write_table(table, tmp_path / "b.parquet")
    told = refused(opened(tmp_path, sparse=(SparseColumn("d"), SparseColumn("e"))))
    assert f"b.parquet: row 2: column d: {words}" in told
    own = learned()
    with pytest.raises(DataError) as caught:
        own.block(_table_of([{"d": None}, {"d": value}], own.names), "rows", 1)
    assert str(caught.value).startswith(f"rows: row 2: column d: {words}")


def learned() -> OwnColumns:
    """A transform of texts, as exports have it."""
    transform = Transform.fit([{"y": 0, "d": "a"}, {"y": 1, "d": "7"}], {"labels": ["y"], "sparse": ["d"]})
    return OwnColumns(json.loads(msgspec.json.encode(transform._kept.info)), {})


def test_a_whole_number_and_a_day_are_their_texts() -> None:
    own = learned()
    for value, text in ((7, "7"), (date(2024, 1, 1), "2024-01-01")):
        pair = [own.block(_table_of([{"d": one}], own.names), "rows", 1).values[0].codes_N for one in (value, text)]
        assert pair[0].tolist() == pair[1].tolist()


def test_a_row_of_which_the_model_knows_no_key_is_refused() -> None:
    """All of its values were taken for missing. A key that a row lacks is a missing value; an empty row is legal."""
    with pytest.raises(DataError, match=r"rows: row 2: 'user_id' is no column of the row; did you mean 'userid'\?"):
        _table_of([{"user_id": "u1"}, {"userid": "u1"}], ["user_id", "item"])
    assert _table_of([{"item": 1, "x": 2}, {}], ["user_id", "item"]).num_rows == 2


def test_half_a_sign_is_no_text() -> None:
    with pytest.raises(DataError, match=r"rows: row 2: column d: expected text, found '\\ud800'"):
        _table_of([{"d": "a"}, {"d": "\ud800"}], ["d"])
    with pytest.raises(DataError, match=r"rows: column d: expected text, found '\\ud800'"):
        Transform.fit([{"y": 0, "d": "a"}, {"y": 1, "d": "\ud800"}], {"labels": ["y"], "sparse": ["d"]})


def test_scores_do_not_replace_the_rows_that_are_scored(tmp_path: Path) -> None:
    path = parquet(tmp_path / "log.parquet")
    os.symlink(path, tmp_path / "linked.parquet")
    for data, out in ((path, path), (tmp_path, path), (path, tmp_path / "linked.parquet")):
        with pytest.raises(ConfigError, match=r"holds the rows that are to be scored; choose another name"):
            predict(tmp_path / "run", str(data), out)
        assert (
            _unwritable(str(data), str(out), overwrite=False) == "holds rows that are to be scored; choose another name"
        )
    assert (
        _unwritable(str(path), "scores.csv", overwrite=False) == "scores are written as Parquet; name it scores.parquet"
    )
    assert _unwritable(str(path), "scores.parquet", overwrite=False) is None
    assert _unwritable(str(tmp_path), str(tmp_path / "new.parquet"), overwrite=False) is None


# ── groups and times ──────────────────────────────────────────────────────────────────────────────


def parts(source: ColumnSource, by: Any, **data: Any) -> dict[str, ColumnSource]:
    shares = shares_of(DataConfig(path="x", columns=source.columns, **data))
    split = Split(by, getattr(source.columns, by), shares)
    if by == "time":
        split = split.with_times(map(source.with_split(split).times_of, source.with_split(split).pieces(0)[1]))
    return {part: source.with_split(split).only(part) for part in ("training", "test")}


def test_a_group_is_on_one_side_whatever_its_type_is_in_a_file(tmp_path: Path) -> None:
    """Of integers, floats (as pandas writes integers with gaps) and texts, equal ones are one group."""
    users = [i % 10 for i in range(40)]
    for name, kind in {"a": pa.int64(), "b": pa.float64(), "c": pa.string()}.items():
        cells = pa.array(users).cast(kind) if name != "c" else pa.array(list(map(str, users)))
        parquet(tmp_path / f"{name}.parquet", u=cells)
    source, groups = opened(tmp_path, group="u"), {}
    for part, chosen in parts(source, "group", test=0.3).items():
        groups[part] = {int(g) for piece in chosen.pieces(0)[1] for g in chosen.parse(piece).groups_B}  # type: ignore[union-attr]
    assert all(groups.values())
    assert not groups["training"] & groups["test"]
    assert len(groups["training"] | groups["test"]) == 10


def test_a_value_that_cannot_be_a_group_is_refused_by_its_row_or_skipped(tmp_path: Path) -> None:
    """All numbers with a fraction were one group."""
    path = parquet(tmp_path / "log.parquet", u=[1.0, 2.5, 3.5, 4.0])
    words = "row 2: column u: expected a whole number of 64 bits for the group, found 2.5"
    assert words in refused(opened(path, group="u"))
    both = parts(opened(path, group="u", skip=True), "group", test=0.5)
    found = [row for part in both.values() for piece in part.pieces(0)[1] for row in part.parse(piece).lines_B]
    assert sorted(found) == [1, 4]
    training = both["training"]
    assert [training.parse(piece).bad_lines for piece in training.pieces(0)[1]] == [2]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (["2020-01-01", "1700000000"], "row 2: column t: expected a date, as in the rows before, found '1700000000'"),
        (["2023", "2022-05-01"], "row 2: column t: expected a number, as in the rows before, found '2022-05-01'"),
        (
            ["1700000000", "1700000000123"],
            "t: times in seconds and in milliseconds, such as 1700000000 and 17000000001",
        ),
    ],
)
def test_times_without_an_order_are_refused(times: list[str], words: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("y,d,t\n" + "".join(f"{i},a,{time}\n" for i, time in enumerate(times)))
    with pytest.raises(DataError) as caught:
        parts(opened(path, time="t"), "time", test=0.5)
    assert words in str(caught.value)


def test_seconds_in_one_file_and_dates_in_another_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", t=[1_700_000_000, 1_700_000_001])
    parquet(tmp_path / "b.parquet", t=pa.array([1_600_000_000, 1_600_000_001], pa.timestamp("s")))
    with pytest.raises(DataError, match=r"times in seconds and in microseconds.*dates count as microseconds"):
        parts(opened(tmp_path, time="t"), "time", test=0.5)


def test_numbers_that_are_no_times_of_our_days_keep_their_order(tmp_path: Path) -> None:
    """A counter may pass from what would be seconds to what would be milliseconds."""
    path = parquet(tmp_path / "log.parquet", t=[1_000_000_000, 100_000_000_000, 1_000_000_000_000, 2_000_000_000_000])
    test = parts(opened(path, time="t"), "time", test=0.25)["test"]
    assert [list(test.parse(piece).lines_B) for piece in test.pieces(0)[1]] == [[4]]


# ── folders ───────────────────────────────────────────────────────────────────────────────────────


def test_a_column_that_its_folder_names_too_has_the_type_of_the_file(tmp_path: Path) -> None:
    """polars writes the keys of partitions into the files as well; dates and truths read as they are there."""
    for text, value in {"2024-01-01": date(2024, 1, 1), "2024-01-02": date(2024, 1, 2)}.items():
        parquet(tmp_path / f"e={text}" / "a.parquet", e=[value] * 2, f=[3, 3])
    parquet(tmp_path / "f=3.0" / "e=__HIVE_DEFAULT_PARTITION__" / "b.parquet", e=pa.nulls(2, pa.date32()), f=[3, 3])
    found = values(opened(tmp_path, sparse=(SparseColumn("e"),)))
    assert found == ["1704067200000000"] * 2 + ["1704153600000000"] * 2 + ["(missing)"] * 2


def test_a_column_that_its_folder_says_otherwise_is_refused(tmp_path: Path) -> None:
    """The folder's value stood for that of every row, also of a folder that the data happens to lie in."""
    path = parquet(tmp_path / "run=5" / "log.parquet", run=[5, 6])
    words = "row 2: column run is 6, and the folder says run=5; rename one of the two"
    assert words in refused(opened(path, sparse=(SparseColumn("run"),)))
    assert values(opened(path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("log", "program"),
    [
        ("_delta_log/00000000000000000000.json", "Delta Lake"),
        (".hoodie/hoodie.properties", "Apache Hudi"),
        ("metadata/v1.metadata.json", "Apache Iceberg"),
    ],
)
def test_a_table_of_which_a_log_says_what_holds_is_refused(log: str, program: str, tmp_path: Path) -> None:
    """Its folder has files of older versions and of deleted rows as well."""
    table = tmp_path / "lake" / "clicks"
    parquet(table / "data" / "part-0.parquet")
    (table / log).parent.mkdir()
    (table / log).write_text("{}")
    for path in (str(tmp_path), f"file://{tmp_path}"):
        with pytest.raises(DataError, match=f"lake/clicks: a table of {program}, whose log") as caught:
            find_files(path)
        assert "name the files that hold one by one" in str(caught.value)
    assert len(find_files(f"{table}/data/*.parquet")) == 1


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet")
    os.symlink(tmp_path / "gone", tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: a link to .*/gone, which is not there; mend or remove it"):
        find_files(str(tmp_path))
