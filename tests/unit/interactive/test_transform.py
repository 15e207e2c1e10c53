"""`bagpipe.Transform`: the transform of a run, by itself."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bagpipe
from bagpipe.config.document import EmbeddingConfig
from bagpipe.config.load import job_from
from bagpipe.data.dataset import open_dataset
from bagpipe.errors import BagpipeError, CheckpointError, ConfigError, DataError, StorageError
from bagpipe.interactive.settings import columns_section, spec_of

COLUMNS: dict[str, Any] = {
    "labels": [{"name": "liked", "rule": "stars >= 4"}],
    "dense": [{"name": "price", "log1p": True, "standardise": True}],
    "sparse": ["user", "item", {"name": "seen", "table": "item"}],
}


def rows(count: int = 300, *, lists: bool = True) -> pa.Table:
    draw = np.random.default_rng(5)
    seen = [[f"i{k}" for k in draw.integers(0, 9, draw.integers(0, 4))] if lists else "i1" for _ in range(count)]
    gaps = [None if k % 17 == 0 else float(k) for k in draw.integers(0, 1000, count)]
    return pa.table(
        {"stars": draw.integers(1, 6, count), "price": gaps, "user": draw.integers(-9, 9, count),
         "item": [f"i{k}" for k in draw.integers(0, 9, count)], "seen": seen}
    )  # fmt: skip


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_date_has_a_day_of_the_week(kind: pa.DataType) -> None:
    """Also where one is missing, and before 1970; dates of Parquet's own type were refused in Arrow's words."""
    days = [date(1969, 12, 31), None, date(2024, 2, 28), date(2024, 3, 1)]
    table = pa.table({"y": [0, 1, 0, 1], "day": pa.array(days, kind)})
    columns = {"labels": ["y"], "sparse": [{"name": "day", "part": "weekday"}]}
    wednesday, none, again, friday = bagpipe.Transform.fit(table, columns).encode(table).features["day"].rows.tolist()
    assert wednesday == again and len({wednesday, none, friday}) == 3


@pytest.mark.parametrize("encoding", ["vocabulary", "hash"])
@pytest.mark.parametrize("lists", [True, False])
def test_what_it_makes_of_the_training_rows_is_what_batches_hold(tmp_path: Path, encoding: str, lists: bool) -> None:
    """Labels, dense features and rows of the training part are the run's own to the bit, also kept and loaded again."""
    table, sizes = rows(lists=lists), {"hashSize": 40} if encoding == "hash" else {}
    settings = {"encoding": encoding, "test_fraction": 0.2, **sizes}
    pq.write_table(table, tmp_path / "rows.parquet")
    data = {"path": str(tmp_path / "rows.parquet"), "columns": columns_section(COLUMNS), "testFraction": 0.2}
    job = job_from({"spec": {"data": {**data, "encoding": encoding, **sizes}}}, "test")
    dataset = open_dataset(job.spec.data, EmbeddingConfig(), seed=0, work_dir=tmp_path / "work")
    batches = list(dataset.train_batches(100, epochs=1))
    made = bagpipe.Transform.fit(table, COLUMNS, **settings)
    assert made.digest == dataset.transform.digest
    for transform in (made, bagpipe.Transform.load(made.save(tmp_path / "kept"))):
        found = transform.encode(table.slice(0, 240))
        assert found.labels is not None
        assert found.labels.tobytes() == np.concatenate([b.labels_BL for b in batches]).tobytes()
        assert found.dense.tobytes() == np.concatenate([b.dense_BF for b in batches]).tobytes()
        group = dataset.layout.groups[0]
        offsets = {f: at for t, at in zip(group.tables, group.offsets, strict=True) for f in t.feature_names}
        theirs: dict[str, list[list[int]]] = {name: [] for name in group.feature_names}
        for batch in batches:
            block, at = batch.sparse[0], 0
            for example in range(batch.num_examples):
                for place, name in enumerate(group.feature_names):
                    length = 1 if block.lengths_BT is None else int(block.lengths_BT[example, place])
                    theirs[name].append([int(key) - offsets[name] for key in block.keys_N[at : at + length]])
                    at += length
        for name, feature in found.features.items():
            lengths = np.ones(240, np.int32) if feature.lengths is None else feature.lengths
            cuts = np.cumsum(lengths)[:-1]
            assert [part.tolist() for part in np.split(feature.rows, cuts)] == theirs[name]


def test_a_wrong_label_of_a_frame_is_told_in_words_of_python() -> None:
    """The argument and the frame are named, not an option and a temporary file."""
    with pytest.raises(ConfigError, match=r"^label='star' is no column of the frame; did you mean 'stars'\?$"):
        bagpipe.Transform.fit(rows(), label="star")


@pytest.mark.parametrize("progress", [True, False])
def test_guesses_of_columns_are_printed(capsys: pytest.CaptureFixture[str], progress: bool) -> None:
    """Without columns: the label, the rows that teach nothing, what every column was taken for; with them nothing."""
    bagpipe.Transform.fit(rows(), progress=progress)
    told = capsys.readouterr()
    expected = (
        "label: stars, which is a guess; label= names another",
        "label: stars >= 3, which is a guess; ",
        "no column of times: the last rows are for tests; ",
        "as categories: price, user, item, seen",
    )
    lines = told.out.splitlines()
    assert [line.startswith(words) for line, words in zip(lines, expected, strict=progress)] == [True] * len(lines)
    bagpipe.Transform.fit(rows(), COLUMNS)
    assert capsys.readouterr().out == told.err == ""


def test_one_name_is_a_list_of_one_wherever_names_are_due() -> None:
    """In every setting whose type is a list of texts; where a text is a value of its own, it stays one."""
    found = columns_section({"labels": "click", "sparse": "user", "ignore": "row_key"})
    assert found == {"labels": [{"name": "click"}], "sparse": [{"name": "user"}], "ignore": ["row_key"]}
    spec = spec_of({"model": {"name": "din", "target_features": "item", "history_features": ["history"]}})
    assert spec["model"] == {"name": "din", "targetFeatures": ["item"], "historyFeatures": ["history"]}
    assert spec_of({"data": {"path": "log.csv"}})["data"]["path"] == "log.csv"


def test_a_damaged_digit_of_what_was_learned_is_noticed(tmp_path: Path) -> None:
    """A mean, for instance: every value would be another, in silence. One that was saved before is taken."""
    made = bagpipe.Transform.fit(rows(), COLUMNS)
    path = made.save(tmp_path / "kept") / "transform.json"
    whole = path.read_text()
    place = whole.index('"mean": ') + len('"mean": ')
    path.write_text(whole[:place] + str((int(whole[place]) + 1) % 10) + whole[place + 1 :])
    with pytest.raises(CheckpointError, match=r"transform.json: not a transform \(its own checksum differs\); use"):
        bagpipe.Transform.load(tmp_path / "kept")
    before = {name: value for name, value in json.loads(whole).items() if name != "checksum"}
    path.write_text(json.dumps(before))
    assert bagpipe.Transform.load(tmp_path / "kept").digest == made.digest
    with pytest.raises(StorageError, match=r"transform.json: cannot be written: File exists; check the folder"):
        made.save(path)


def test_rows_without_labels_and_other_rows(tmp_path: Path) -> None:
    """Labels need not be there; a column that is missing is named; a folder without a transform is none."""
    transform = bagpipe.Transform.fit(rows(), COLUMNS)
    assert transform.encode(rows().drop_columns(["stars"])).labels is None
    assert transform.tables["item"] == 10
    with pytest.raises(BagpipeError, match=r"^'user' is no column of the frame; it has "):
        transform.encode(rows().drop_columns(["user"]))
    with pytest.raises(CheckpointError, match="the transform of the data is missing"):
        bagpipe.Transform.load(tmp_path)


def test_a_row_of_which_anything_is_missing_is_what_it_is_among_others() -> None:
    """A column without a value has no type; a new user without a history was said to be of another form."""
    columns = {
        "labels": ["y"],
        "dense": ["price", {"name": "often", "column": "item", "count": "number"}],
        "sparse": [
            "user", "item", "seen", {"name": "hour", "column": "when", "part": "hour"},
            {"name": "age", "boundaries": [20, 40]}, {"name": "size", "bins": "log-squared"},
        ],
    }  # fmt: skip
    whole: dict[str, Any] = {
        "y": 1, "price": 2.5, "user": 7, "item": "a", "seen": ["a", None], "when": datetime(2024, 1, 1, 9), "age": 30,
        "size": 5,
    }  # fmt: skip
    other = {
        **whole, "y": 0, "user": 8, "item": "b", "seen": [], "when": datetime(2024, 1, 1, 8), "age": 50, "size": 6,
    }  # fmt: skip
    gaps = [{**whole, name: None} for name in whole if name != "y"]
    transform = bagpipe.Transform.fit([whole, other, *gaps], columns)
    for gap in gaps:
        alone, among = transform.encode([gap]), transform.encode([gap, whole, other])
        assert alone.dense.tolist() == among.dense[:1].tolist()
        for name, feature in alone.features.items():
            lengths = among.features[name].lengths
            assert feature.lengths is not None and lengths is not None and feature.lengths[0] == lengths[0], name
            assert feature.rows.tolist() == among.features[name].rows[: lengths[0]].tolist(), name
    with pytest.raises(DataError, match="expected lists of values in a sparse column, found one value in each cell of"):
        bagpipe.Transform.fit(rows(), COLUMNS).encode(rows(lists=False))


@pytest.mark.parametrize("kind", ["count", "real"])
def test_labels_of_every_kind_are_learned_from(kind: str) -> None:
    """A transform has no loss, so that none is asked for that fits the labels; it was the one for clicks."""
    labels = [{"name": "stars", "kind": kind}, {"name": "late", "rule": "day >= 200"}]
    table = rows().append_column("day", pa.array(range(300)))
    found = bagpipe.Transform.fit(table, {**COLUMNS, "labels": labels}).encode(table)
    assert found.labels is not None
    assert found.labels[:, 0].tolist() == table["stars"].to_pylist()
