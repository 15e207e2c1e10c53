"""`count`: a dense feature is how often its cell's value was seen in the training part, wherever a model meets it.

The expected numbers are counted one row at a time, in plain Python.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import ends_in, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe import Transform
from bagpipe.config.column_rules import column_findings
from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.config.model import ModelConfig
from bagpipe.data import prepared_parts, vocabulary
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.enclosed import prepared_transform
from bagpipe.data.files import find_files
from bagpipe.data.prepare import prepare
from bagpipe.data.prepared import read_info
from bagpipe.data.transform import load_transform
from bagpipe.errors import DataError
from bagpipe.standalone.columns import OwnColumns
from bagpipe.standalone.tables import value_counts

TYPES: dict[str, Any] = {
    "word": pa.string(),
    "id": pa.int64(),
    "kind": pa.dictionary(pa.int32(), pa.string()),
    "flag": pa.bool_(),
}
ROW = st.fixed_dictionaries({
    "word": st.none() | st.sampled_from(["", "a", "b", "a much longer text", "é"]),
    "id": st.none() | st.sampled_from([-1, 0, 1, -(2**63), 2**63 - 1]),
    "kind": st.none() | st.sampled_from(["x", "y"]),
    "flag": st.none() | st.booleans(),
})  # fmt: skip
ALWAYS: list[dict[str, Any]] = [
    {"word": "a", "id": 1, "kind": "x", "flag": True},
    {"word": "b", "id": 2, "kind": "y", "flag": False},
    {"word": "a", "id": 1, "kind": "x", "flag": True},
]
"""So that no column has one value, and none the same count in every row."""
DENSE = (
    DenseColumn("word", count="number"),
    DenseColumn("share", column="word", count="log-share"),
    DenseColumn("id", count="log-share", clip=(-1.5, -0.5)),
    DenseColumn("kind", count="number", log1p=True),
    DenseColumn("flag", count="number", clip=(0.0, 3.0)),
    DenseColumn("often", column="id", count="number", standardise=True),
)
COLUMNS = ColumnsConfig(labels=(LabelColumn("y"),), dense=DENSE, sparse=(SparseColumn("word"),), ignore=("*",))
CHECKS: Any = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


class Slow:
    """All six features by the book."""

    def __init__(self, train: list[dict[str, Any]]) -> None:
        self.counts = {name: Counter(row[name] for row in train) for name in TYPES}
        self.total = len(train)
        often = [float(self.counts["id"][row["id"]]) for row in train]
        self.mean = sum(often) / self.total
        self.deviation = math.sqrt(sum((x - self.mean) ** 2 for x in often) / self.total)

    def row(self, row: dict[str, Any]) -> list[float]:
        seen = {name: max(1, self.counts[name][row[name]]) for name in TYPES}
        share = {name: math.log(count / self.total) for name, count in seen.items()}
        return [
            seen["word"],
            share["word"],
            min(max(share["id"], -1.5), -0.5),
            math.log1p(seen["kind"]),
            min(seen["flag"], 3),
            (seen["id"] - self.mean) / self.deviation,
        ]

    def rows(self, rows: list[dict[str, Any]]) -> Any:
        return np.array([self.row(row) for row in rows], np.float32)


def opened(path: str, work: Path, kept: Any = None, **stated: Any) -> Dataset:
    data = DataConfig(path=path, columns=COLUMNS, **stated)
    return open_dataset(data, EmbeddingConfig(), seed=1, work_dir=work, kept=kept)


def dense_of(batches: Any) -> Any:
    return np.concatenate([batch.dense_BF for batch in batches])


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7)


@settings(max_examples=12, **CHECKS)
@given(
    train=st.lists(ROW, max_size=20),
    later=st.lists(ROW, min_size=1, max_size=12),
    encoding=st.sampled_from(["vocabulary", "hash"]),
    held=st.sampled_from([1, 1 << 20]),
)
def test_every_number_is_that_of_a_slow_count(train, later, encoding, held, tmp_path_factory):
    """At training, evaluation with the kept transform, `Transform.encode` and in an export, to the bit the same there;
    for text, integers, categories and truth values, missing and unseen ones, and counts that memory does not hold.
    """
    folder, train = tmp_path_factory.mktemp("rows"), [*ALWAYS, *train]
    slow = Slow(train)
    if not slow.deviation:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "HELD_VALUES", held)
        first = opened(write_rows(folder / "train.parquet", train, TYPES), folder / "work", encoding=encoding)
    trained = dense_of(first.train_batches(7, epochs=1))
    close(trained, slow.rows(train))
    first.transform.save(folder / "kept")
    kept = load_transform(folder / "kept")
    assert kept.digest == first.transform.digest
    again = opened(write_rows(folder / "later.parquet", later, TYPES), folder / "work", kept, encoding=encoding)
    scored = dense_of(again.train_batches(7, epochs=1))
    close(scored, slow.rows(later))
    transform, info = Transform.load(folder / "kept"), msgspec.json.decode(msgspec.json.encode(kept.info))
    exported = OwnColumns(info, value_counts(folder / "kept", info))
    for rows, expected in ((train, trained), (later, scored)):
        raw = write_rows(folder / "raw.parquet", rows, TYPES, labels=False)
        assert transform.encode(raw).dense.tobytes() == expected.tobytes()
        assert exported.block(pq.read_table(raw), "raw", 1).dense_BF.tobytes() == expected.tobytes()


@pytest.mark.parametrize("by", ["order", "group", "time"])
def test_only_the_training_part_is_counted(by, tmp_path):
    """Values of the test part are scored by the counts of the others, for each way to split."""
    rows = [{"y": i % 2, "item": f"i{i * i % 7}", "user": i % 11, "when": i * 37 % 101} for i in range(101)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet", row_group_size=9)
    columns = ColumnsConfig(
        labels=(LabelColumn("y"),),
        dense=(DenseColumn("item", count="number"), DenseColumn("when"), DenseColumn("user")),
        sparse=(SparseColumn("item"),),
        **({"time": "when"} if by == "time" else {"group": "user"} if by == "group" else {}),
    )
    data = DataConfig(path=str(tmp_path), columns=columns, split_by=by, test=0.3)
    dataset = open_dataset(data, EmbeddingConfig(), seed=1, work_dir=tmp_path / "work")
    item = {(row["when"], row["user"]): row["item"] for row in rows}
    train, test = dense_of(dataset.train_batches(50, epochs=1)), dense_of(dataset.test_batches(50))
    assert len(train) + len(test) == len(rows)
    assert len(test) > 10
    counts = Counter(item[int(when), int(user)] for _, when, user in train)
    for count, when, user in [*train.tolist(), *test.tolist()]:
        assert count == counts[item[int(when), int(user)]]


def test_a_feature_of_the_same_name_and_bad_rows_are_apart(tmp_path):
    """A sparse feature may bear the name of a counted one; rows that are skipped are counted nowhere."""
    lines = ["y,item,other,price", "1,7,a,1", "0,7,b,2", "1,8,a,x", "1,seven,b,3", "0,8,b,4"]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    columns = ColumnsConfig(
        labels=(LabelColumn("y"),),
        dense=(DenseColumn("item", column="other", count="number"), DenseColumn("price")),
        sparse=(SparseColumn("item"),),
    )
    data = DataConfig(path=str(tmp_path / "log.csv"), columns=columns, on_bad_line="skip")
    dataset = open_dataset(data, EmbeddingConfig(), seed=1, work_dir=tmp_path / "work")
    (batch,) = dataset.train_batches(50, epochs=1)
    assert dataset.report.bad_lines == 1
    assert batch.dense_BF.tolist() == [[1.0, 1.0], [3.0, 2.0], [3.0, 3.0], [3.0, 4.0]]


def test_prepared_data_encloses_the_counts_and_goes_on_with_them(tmp_path, monkeypatch):
    """A process that was interrupted is gone on with to the same bytes; the counts come back from the first part."""
    monkeypatch.setattr(prepared_parts, "ROW_GROUP", 4)
    monkeypatch.setattr(prepared_parts, "ROWS_PER_PART", 8)
    data = DataConfig(path=write_rows(tmp_path / "log.parquet", ALWAYS * 9, TYPES), columns=COLUMNS, encoding="hash")
    whole = prepare(data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(data, tmp_path / "out", progress=ends_in("writing Parquet", 4, KeyboardInterrupt))
    done = prepare(data, tmp_path / "out")
    assert done.begun_at == 8
    names = sorted(path.name for path in whole.folder.iterdir())
    assert [(done.folder / n).read_bytes() for n in names] == [(whole.folder / n).read_bytes() for n in names]
    first = find_files(str(done.folder))[0]
    found = prepared_transform(read_info(first), first)
    assert found.counts is not None
    assert found.counts["word"].counts.tolist() == [18, 9]


def test_counts_that_another_program_has_lost_are_not_replaced_by_ones(tmp_path):
    """A prepared part that was written again has no counts: raw rows cannot be encoded as they were, and are not."""
    data = DataConfig(path=write_rows(tmp_path / "log.parquet", ALWAYS, TYPES), columns=COLUMNS)
    folder = prepare(data, tmp_path / "out").folder
    part = folder / "part-00000.parquet"
    pq.write_table(pq.read_table(part).replace_schema_metadata(pq.read_metadata(part).metadata), part)
    kept = open_dataset(DataConfig(path=str(folder)), EmbeddingConfig(), seed=1, work_dir=tmp_path / "work").transform
    with pytest.raises(DataError, match=r"vocabulary and counts of this transform are lost"):
        opened(str(tmp_path / "log.parquet"), tmp_path / "work", kept)


@pytest.mark.parametrize(("cells", "words"), [
    (pa.array([["a"], ["b"], []]), r"column word: expected one value in each cell, for the count .*list<"),
    (pa.array([None] * 3, pa.string()), r"data.columns.dense: word: all values are missing in the training part"),
    (pa.array(["a"] * 3), r"data.columns.dense: word: there is one value only, whose count says nothing"),
    (pa.array([0.5, 1.0, 2.0]), r"row 1: column word: expected a whole number of 64 bits, found 0.5"),
])  # fmt: skip
def test_what_cannot_be_counted_is_refused_by_name(cells, words, tmp_path):
    """Several values in a cell, no value, one value, numbers with a fraction."""
    table = pa.table({"y": [0, 1, 0], "item": ["a", "b", "a"], "word": cells})
    pq.write_table(table, tmp_path / "log.parquet")
    dense, sparse = (DenseColumn("word", count="number"),), (SparseColumn("item"),)
    columns = ColumnsConfig(labels=(LabelColumn("y"),), dense=dense, sparse=sparse)
    data = DataConfig(path=str(tmp_path / "log.parquet"), columns=columns)
    with pytest.raises(DataError, match=words):
        open_dataset(data, EmbeddingConfig(), seed=1, work_dir=tmp_path / "work")


def test_a_later_file_with_lists_is_refused_by_its_row(tmp_path):
    """The first file has one value in each cell, the second several."""
    for number, cells in enumerate((["a", "b", "a"], [["a", "b"], ["a"], None])):
        pq.write_table(
            pa.table({"y": [0, 1, 0], "item": ["a", "b", "a"], "word": cells}), tmp_path / f"{number}.parquet"
        )
    dense, sparse = (DenseColumn("word", count="number"),), (SparseColumn("item"),)
    data = DataConfig(path=str(tmp_path), columns=ColumnsConfig(labels=(LabelColumn("y"),), dense=dense, sparse=sparse))
    with pytest.raises(DataError, match=r"1.parquet: row 1: column word: expected one value to be counted"):
        open_dataset(data, EmbeddingConfig(), seed=1, work_dir=tmp_path / "work")


@pytest.mark.parametrize(("settings", "words"), [
    ({"fill": 2.0}, "dense[0].fill: has no effect with count: log-share, which counts cells as they are; remove it"),
    ({"decimal": ","}, "dense[0].decimal: has no effect with count: log-share"),
    ({"duration": "iso"}, "dense[0].duration: has no effect with count: log-share"),
    ({"log1p": True}, "dense[0].log1p: has no effect with count: log-share, which is never above 0; remove it"),
    ({"column": "tags"}, "dense[0].count: a cell of 'tags' holds several values for the sparse feature 'tags'"),
])  # fmt: skip
def test_settings_without_effect_on_a_count_are_refused_by_name(settings, words):
    """What makes numbers of text, and what comes instead of a missing number, says nothing of a count."""
    sparse = (SparseColumn("item"), SparseColumn("tags", separator="|"))
    dense = (DenseColumn("item", count="log-share", **settings),)
    data = DataConfig(path="x", columns=ColumnsConfig(labels=(LabelColumn("y"),), dense=dense, sparse=sparse))
    found = [f"{where}: {what}" for where, what in column_findings(data, ModelConfig())]
    assert len(found) == 1
    assert found[0].removeprefix("spec.data.columns.").startswith(words)
