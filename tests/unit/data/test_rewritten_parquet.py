"""Prepared Parquet that others have rewritten: the same batches, or one line that says what is wrong."""

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagpipe.config.document import DataConfig
from bagpipe.data.prepare import prepare
from bagpipe.errors import DataError

RECORDS = [
    {
        "label": i % 2,
        "dense": [i / 4, i],
        "sparse": [[i % 5], [j % 7 for j in range(i % 4)]] if ragged else [i % 5, i % 7],
    }
    for ragged in (False, True)
    for i in range(40)
]


@pytest.fixture
def rewritten(tmp_path):
    """A prepared part after `change(table)`, in a folder of its own; plain (False) or with lists (True)."""

    def make(change: Callable[[pa.Table], pa.Table], *, ragged: bool = False, **options):
        source = tmp_path / "log.json"
        records = RECORDS[40:] if ragged else RECORDS[:40]
        source.write_text("".join(json.dumps(r) + "\n" for r in records))
        folder = prepare(DataConfig(path=str(source)), tmp_path / "prepared").folder
        table = pq.read_table(folder / "part-00000.parquet")
        target = tmp_path / "rewritten"
        target.mkdir()
        changed = change(table).replace_schema_metadata(table.schema.metadata)
        pq.write_table(changed, target / "part-0.parquet", **options)
        return source, target

    return make


def put(name: str, column: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.schema.names.index(name), name, column)


def cast(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        plain = table.column(name).combine_chunks()
        place = table.schema.names.index(name)
        return table.set_column(place, pa.field(name, kind), plain.cast(kind))

    return change


def with_null(name: str, at: int) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[at] = None
        place = table.schema.names.index(name)
        return table.set_column(place, name, pa.array(values, table.schema.field(name).type))

    return change


def with_value(name: str, at: int, value: object, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[at] = value
        return table.set_column(table.schema.names.index(name), name, pa.array(values, kind))

    return change


IDS = pa.int64()
SAME = {
    "columns in another order": (lambda t: t.select(sorted(t.column_names, reverse=True)), False),
    "a column more": (lambda t: t.append_column("more", pa.array(["x"] * len(t))), False),
    "labels as integers": (cast("label", pa.int64()), False),
    "labels as truth values": (cast("label", pa.bool_()), False),
    "dense as doubles": (cast("dense_I1", pa.float64()), False),
    "dense as decimals": (cast("dense_I1", pa.decimal128(9, 2)), False),
    "dense as halves": (cast("dense_I2", pa.float16()), False),
    "ids as int64": (cast("sparse_C1", pa.int64()), False),
    "ids as uint8": (cast("sparse_C1", pa.uint8()), False),
    "ids as uint64": (cast("sparse_C1", pa.uint64()), False),
    "ids by dictionary": (lambda t: put("sparse_C1", t.column("sparse_C1").dictionary_encode())(t), False),
    "large lists": (cast("sparse_C2", pa.large_list(pa.int64())), True),
    "lists of bytes": (cast("sparse_C2", pa.list_(pa.uint8())), True),
    "in many chunks": (lambda t: pa.concat_tables([t.slice(0, 7), t.slice(7)]), True),
}
REFUSED = {
    "no label": (lambda t: t.drop_columns(["label"]), False, r"column label is missing \(it has dense_I1"),
    "a column renamed": (
        lambda t: t.rename_columns([n.replace("C2", "c2") for n in t.column_names]),
        False,
        r"column sparse_C2 is missing \(the nearest is sparse_c2\)",
    ),
    "a column twice": (
        lambda t: t.append_column("sparse_C1", t.column("sparse_C2")),
        False,
        "column sparse_C1 is there 2 times",
    ),
    "ids as text": (cast("sparse_C1", pa.string()), False, "sparse_C1: expected whole numbers, found string"),
    "ids as doubles": (cast("sparse_C1", pa.float64()), False, "sparse_C1: expected whole numbers, found double"),
    "ids as decimals": (cast("sparse_C1", pa.decimal128(12, 0)), False, "expected whole numbers, found decimal"),
    "ids as times": (
        with_value("sparse_C1", 0, 1, pa.timestamp("s")),
        False,
        "whole numbers, found timestamp",
    ),
    "ids as lists": (
        lambda t: put("sparse_C1", pa.array([[1]] * len(t)))(t),
        False,
        "sparse_C1: expected whole numbers, found list",
    ),
    "lists as ids": (
        lambda t: put("sparse_C2", pa.array([1] * len(t)))(t),
        True,
        "sparse_C2: expected lists of whole numbers, found int64",
    ),
    "labels as text": (cast("label", pa.string()), False, "label: expected numbers, found string"),
    "labels as lists": (lambda t: put("label", pa.array([[1.0]] * len(t)))(t), False, "label: expected numbers"),
    "a null label": (with_null("label", 3), False, r"row 4: column label is null there"),
    "a null dense value": (with_null("dense_I2", 39), False, r"row 40: column dense_I2 is null there"),
    "a null id": (with_null("sparse_C1", 0), False, r"row 1: column sparse_C1 is null there"),
    "a null list": (with_null("sparse_C2", 5), True, r"row 6: column sparse_C2 is null there"),
    "a null in a list": (
        with_value("sparse_C2", 6, [1, None], pa.list_(IDS)),
        True,
        r"row 7: a list of column sparse_C2 holds a null",
    ),
    "a label that is no number": (
        with_value("label", 8, float("nan"), pa.float32()),
        False,
        "row 9: expected a finite number in column label, found nan",
    ),
    "an infinite dense value": (
        with_value("dense_I1", 2, 1e300, pa.float64()),
        False,
        "row 3: expected a finite number in column dense_I1, found inf",
    ),
    "an id beyond the table": (with_value("sparse_C1", 1, 2**40, IDS), False, "row 2: id 1099511627776 of sparse_C1"),
    "an id of 64 bits": (
        with_value("sparse_C1", 1, 2**64 - 1, pa.uint64()),
        False,
        "column sparse_C1: .*not in range",
    ),
    "a negative id": (with_value("sparse_C1", 39, -1, IDS), False, "row 40: id -1 of sparse_C1"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_holds_the_same_numbers_reads_the_same(name, rewritten, dataset, same):
    """Other types, orders and chunks of the same values give the same batches, to the bit."""
    change, ragged = SAME[name]
    source, folder = rewritten(change, ragged=ragged, row_group_size=11)
    pairs = zip(dataset(source).train_batches(16, epochs=1), dataset(folder).train_batches(16, epochs=1), strict=True)
    assert all(same(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_is_refused_by_column_and_row(name, rewritten, dataset):
    """Nothing is converted in silence: one line, exit 65, with file, row or column, and what was expected."""
    change, ragged, message = REFUSED[name]
    _, folder = rewritten(change, ragged=ragged)
    with pytest.raises(DataError, match=message) as caught:
        list(dataset(folder).train_batches(16, epochs=1))
    assert "part-0.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_second_file_is_checked_like_the_first(rewritten, dataset):
    """Columns in another order in the second file are fine, a missing one is named with its file."""
    _, folder = rewritten(lambda t: t)
    table = pq.read_table(folder / "part-0.parquet")
    pq.write_table(table.select(sorted(table.column_names)), folder / "part-1.parquet")
    assert sum(b.num_examples for b in dataset(folder).train_batches(16, epochs=1)) == 80
    pq.write_table(table.drop_columns(["dense_I2"]), folder / "part-2.parquet")
    with pytest.raises(DataError, match=r"part-2.parquet: column dense_I2 is missing"):
        dataset(folder)


def test_empty_files_among_full_ones_hold_no_examples(rewritten, dataset):
    """A Parquet file without rows, and one of no bytes."""
    _, folder = rewritten(lambda t: t)
    table = pq.read_table(folder / "part-0.parquet")
    pq.write_table(table.slice(0, 0), folder / "part-1.parquet")
    (folder / "part-2.parquet").touch()
    pq.write_table(table, folder / "part-3.parquet")
    assert sum(b.num_examples for b in dataset(folder).train_batches(16, epochs=1)) == 80


@pytest.mark.parametrize("name", ["tables.json"])
def test_folders_of_the_old_layout_are_read(name, rewritten, dataset, same, tmp_path):
    """Their table list lies beside the parts, and a part that lost its own metadata relies on it."""
    source, folder = rewritten(lambda t: t)
    table = pq.read_table(folder / "part-0.parquet")
    (folder / name).write_bytes(table.schema.metadata[b"bagpipe"])
    pq.write_table(table.replace_schema_metadata(None), folder / "part-0.parquet")
    (old,), (new,) = (list(dataset(p).train_batches(40, epochs=1)) for p in (source, folder))
    assert same(old, new)


def test_a_prepared_folder_is_ordinary_to_arrow(criteo_file, tmp_path):
    """Every reader of Parquet folders finds the examples in it and nothing else."""
    import pyarrow.dataset as ds

    folder = prepare(DataConfig(path=str(criteo_file), encoding="vocabulary"), tmp_path / "out").folder
    assert ds.dataset(folder).count_rows() == 200
    assert pq.read_table(folder).num_rows == 200
    assert {p.suffix for p in folder.iterdir() if p.is_file()} == {".parquet"}


def test_checks_find_the_first_wrong_value_of_many(rewritten, dataset):
    """A wrong value behind the first block of 64 rows is found as well, at its own row."""
    values = np.zeros(40, np.float32)
    values[35] = np.inf
    _, folder = rewritten(put("dense_I1", pa.array(values)))
    with pytest.raises(DataError, match="row 36: expected a finite number in column dense_I1"):
        list(dataset(folder).train_batches(16, epochs=1))
