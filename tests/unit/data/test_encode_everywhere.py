"""A value becomes the same row wherever a model meets it: training, evaluation, prediction; whatever the value is.

The expected rows are counted and looked up one value at a time, in plain Python.
"""

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data_cases import write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bagpipe import Transform
from bagpipe.config.columns import ColumnsConfig, LabelColumn, SparseColumn
from bagpipe.config.document import DataConfig, EmbeddingConfig
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.transform import load_transform
from bagpipe.standalone.columns import OwnColumns

MASK, KEY = 2**64 - 1, 0x5851F42D4C957F2D
TYPES = {
    "word": pa.string(),
    "id": pa.int64(),
    "big": pa.uint64(),
    "words": pa.list_(pa.string()),
    "ids": pa.list_(pa.int64()),
}
TEXT = st.sampled_from(["", "a", "b", "12345678", "123456789", "\u00e9", "\U0001f600", " a", "A"]) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10
)
SIGNED = st.sampled_from([-1, 0, 1, 2, -(2**63), 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
BIG = st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
ROW = st.fixed_dictionaries({
    "word": st.none() | TEXT,
    "id": st.none() | SIGNED,
    "big": st.none() | BIG,
    "words": st.none() | st.lists(st.none() | TEXT, max_size=4),
    "ids": st.none() | st.lists(st.none() | SIGNED, max_size=4),
})  # fmt: skip
ALWAYS: list[dict[str, Any]] = [
    {"word": w, "id": i, "big": i, "words": [w, w], "ids": [i, i]} for w, i in (("a", 1), ("b", 2)) for _ in range(2)
]
"""Two values of each column with a row of their own, so that no column is refused."""


def mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def code_of(value: str | int | None) -> int:
    """0 is missing."""
    if value is None:
        return 0
    if isinstance(value, int):
        return (((value % 2**64) ^ KEY) + 1) & MASK
    raw = value.encode()
    if 0 < len(raw) <= 8 and all(0 < byte < 128 for byte in raw):
        return int.from_bytes(raw.ljust(8, b"\0"), "big")
    code = (len(raw) * 0x9E3779B97F4A7C15) & MASK
    for byte in raw:
        code = mixed(((code ^ byte) + 0x9E3779B97F4A7C15) & MASK)
    return code | 1 << 63


def values(row: dict[str, Any], name: str) -> list[Any]:
    cell = row[name]
    return cell if isinstance(cell, list) else [cell]


class Slow:
    """Rows of tables by the book."""

    def __init__(self, train: list[dict[str, Any]], tables: dict[str, str], settings: dict[str, Any]) -> None:
        self.tables, self.settings = tables, settings
        self.known: dict[str, dict[int, int]] = {}
        for table in dict.fromkeys(tables.values()):
            members = [name for name in TYPES if tables[name] == table]
            counts = Counter(code_of(v) for row in train for name in members for v in values(row, name))
            ordered = sorted(counts, key=lambda code: (-counts[code], code))
            kept = [code for code in ordered if counts[code] >= settings.get("min_count", 1)]
            self.known[table] = {code: row for row, code in enumerate(kept, self.oov(table))}

    def oov(self, table: str) -> int:
        stated = self.settings.get("oov", "shared")
        if isinstance(stated, dict):
            return stated.get(table, stated.get("*", 1))
        return 1 if stated == "shared" else stated

    def row(self, name: str, value: Any) -> int:
        code = code_of(value)
        if self.settings["encoding"] == "hash":
            return 1 + mixed(code) % (self.settings["hash_size"] - 1) if code else 0
        found = self.known[self.tables[name]].get(code)
        if found is not None:
            return found
        return mixed(code) % self.oov(self.tables[name]) if code else 0

    def rows(self, rows: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
        return {n: [[self.row(n, value) for value in values(row, n)] for row in rows] for n in TYPES}


def batches(dataset: Dataset) -> dict[str, list[list[int]]]:
    """Rows of each feature in all examples of one pass."""
    (group,) = dataset.layout.groups
    offsets = [at for t, at in zip(group.tables, group.offsets, strict=True) for _ in t.feature_names]
    found: dict[str, list[list[int]]] = {name: [] for name in TYPES}
    for batch in dataset.train_batches(7, epochs=1):
        block = batch.sparse[0]
        assert block.lengths_BT is not None
        keys = iter(block.keys_N.tolist())
        for lengths in block.lengths_BT.tolist():
            for name, offset, length in zip(group.feature_names, offsets, lengths, strict=True):
                found[name].append([next(keys) - offset for _ in range(length)])
    return found


def predicted(transform: Transform, path: str) -> dict[str, list[list[int]]]:
    """Rows that `encode` makes of rows without labels."""
    found = {}
    for name, feature in transform.encode(path).features.items():
        assert feature.lengths is not None
        cuts = np.cumsum(feature.lengths)[:-1]
        found[name] = [part.tolist() for part in np.split(feature.rows, cuts)]
    return found


OOV = st.just("shared") | st.integers(1, 4) | st.dictionaries(st.sampled_from(["big", "*"]), st.integers(1, 4))
SETTINGS = st.fixed_dictionaries({
    "encoding": st.just("vocabulary"), "oov": OOV, "min_count": st.integers(1, 2)
}) | st.fixed_dictionaries({"encoding": st.just("hash"), "hash_size": st.sampled_from([2, 3, 97])})  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    train=st.lists(ROW, max_size=12),
    later=st.lists(ROW, min_size=1, max_size=12),
    stated=SETTINGS,
    shared=st.booleans(),
)
def test_every_value_has_one_row_in_training_evaluation_and_prediction(train, later, stated, shared, tmp_path_factory):
    """Unseen, missing, empty, negative, of 64 bits, of any alphabet, in lists: with one or several rows for the unseen
    values, by vocabulary or hash, with tables of their own or shared.
    """
    folder, train = tmp_path_factory.mktemp("rows"), [*ALWAYS, *train]
    tables = {"word": "w", "words": "w", "id": "i", "ids": "i", "big": "big"} if shared else {n: n for n in TYPES}
    sparse = tuple(SparseColumn(name, table=tables[name]) for name in TYPES)
    columns = ColumnsConfig(labels=(LabelColumn("y"),), sparse=sparse)
    slow = Slow(train, tables, stated)

    def opened(path: str, kept: Any = None) -> Dataset:
        data = DataConfig(path=path, columns=columns, **stated)
        return open_dataset(data, EmbeddingConfig(), seed=1, work_dir=folder / "work", kept=kept)

    first = opened(write_rows(folder / "train.parquet", train, TYPES))
    assert batches(first) == slow.rows(train)
    first.transform.save(folder / "kept")
    kept = load_transform(folder / "kept")
    assert batches(opened(write_rows(folder / "later.parquet", later, TYPES), kept)) == slow.rows(later)
    transform = Transform.load(folder / "kept")
    assert predicted(transform, write_rows(folder / "train-raw.parquet", train, TYPES, labels=False)) == slow.rows(
        train
    )
    assert predicted(transform, write_rows(folder / "later-raw.parquet", later, TYPES, labels=False)) == slow.rows(
        later
    )
    stated_as_json = msgspec.json.decode(msgspec.json.encode(kept.info))
    exported = OwnColumns(stated_as_json, {}).block(pq.read_table(folder / "later-raw.parquet"), "later", 1)
    codes = {n: [code_of(v) for row in later for v in values(row, n)] for n in TYPES}
    assert [v.codes_N.tolist() for v in exported.values] == [codes[n] for n in TYPES]
