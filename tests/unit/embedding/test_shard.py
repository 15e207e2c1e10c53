"""A shard behaves like a dictionary of records, whatever the order of writes and however it ends."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.document import RowOptimizer
from bagpipe.embedding.shard import RowStore
from bagpipe.errors import WireError
from bagpipe.rows.initial import Newborn, initial_rows, row_scale
from bagpipe.tables import Table, TableLayout

TABLES = (
    Table(name="a", num_embeddings=7, embedding_dim=4, feature_names=("a",)),
    Table(name="wide", num_embeddings=3, embedding_dim=8, feature_names=("w",)),
    Table(name="b", num_embeddings=30, embedding_dim=4, feature_names=("b",)),
)
GROUP = TableLayout.of(TABLES).groups[0]
ADAGRAD = RowOptimizer(name="adagrad", initial_accumulator=0.25)


def store(shard: int, num_shards: int, directory: Path | None = None, optimizer: RowOptimizer = ADAGRAD) -> RowStore:
    newborn = Newborn(GROUP, seed=3, init_scale=None)
    return RowStore(GROUP, optimizer, newborn, shard=shard, num_shards=num_shards, directory=directory)


def born(key: int) -> np.ndarray:
    """The record that key has before anybody writes it: table b is the job's table 2 and starts at key 7."""
    table, row, rows = (0, key, 7) if key < 7 else (2, key - 7, 30)
    weights = initial_rows(3, table, [row], 4, row_scale(rows, None))[0]
    return np.concatenate((weights, np.full(4, 0.25, np.float32)))


@settings(max_examples=60, deadline=None)
@given(
    num_shards=st.integers(1, 3),
    writes=st.lists(st.lists(st.integers(0, 36), unique=True, max_size=12), max_size=8),
    asked=st.lists(st.integers(0, 36), unique=True, max_size=37),
    num_records=st.integers(0, 37),
)
def test_reads_what_was_written_or_born(
    num_shards: int, writes: list[list[int]], asked: list[int], num_records: int
) -> None:
    """Every read returns the last record written, or the row's first value."""
    shards = [store(number, num_shards) for number in range(num_shards)]
    expected: dict[int, np.ndarray] = {}
    for turn, keys in enumerate(writes):
        for number, shard in enumerate(shards):
            ours = np.array([k for k in keys if k % num_shards == number], np.int64)
            records = np.arange(ours.size * 8, dtype=np.float32).reshape(-1, 8) + 100 * turn
            shard.write(ours, records)
            expected |= dict(zip(ours.tolist(), records, strict=True))
    for number, shard in enumerate(shards):
        ours = np.array([k for k in asked if k % num_shards == number], np.int64)
        wanted = min(num_records, ours.size)
        records, values = shard.read(ours, wanted)
        for i, key in enumerate(ours.tolist()):
            record = expected.get(key, born(key))
            if i < wanted:
                np.testing.assert_array_equal(records[i], record)
            else:
                np.testing.assert_array_equal(values[i - wanted], record[:4])
        assert shard.count == sum(k % num_shards == number for k in expected)


def test_first_values_do_not_depend_on_shards_or_order() -> None:
    """A row is born the same on any number of servers, asked for in any order (X4)."""
    keys = np.arange(37)
    one, _ = store(0, 1).read(keys, 37)
    backwards, _ = store(0, 1).read(keys[::-1].copy(), 37)
    np.testing.assert_array_equal(one, backwards[::-1])
    for number in range(3):
        part, _ = store(number, 3).read(keys[number::3].copy(), keys[number::3].size)
        np.testing.assert_array_equal(part, one[number::3])


def test_first_values_are_uniform_in_their_range() -> None:
    """Newborn weights fill [-scale, scale) evenly, and differ between seeds, tables and rows."""
    rows = initial_rows(1, 0, np.arange(20_000), 8, 0.5)
    assert rows.min() >= -0.5 and rows.max() < 0.5
    assert abs(float(rows.mean())) < 0.005 and abs(float(rows.std()) - 0.5 / 3**0.5) < 0.005
    assert np.unique(rows).size > 0.95 * rows.size * (1 - rows.size / 2**25)
    assert not np.array_equal(rows[:10], initial_rows(2, 0, np.arange(10), 8, 0.5))
    assert not np.array_equal(rows[:10], initial_rows(1, 1, np.arange(10), 8, 0.5))


def test_reopened_files_hold_the_rows(tmp_path: Path) -> None:
    """A new process finds every record that the old one stored in its files."""
    first = store(0, 1, tmp_path)
    keys = np.array([30, 2, 8])
    first.write(keys, np.arange(24, dtype=np.float32).reshape(3, 8))
    del first
    again = store(0, 1, tmp_path)
    assert again.count == 3
    np.testing.assert_array_equal(again.read(keys, 3)[0], np.arange(24, dtype=np.float32).reshape(3, 8))


@pytest.mark.parametrize("key", [-1, 37, 6])
def test_foreign_keys_are_refused(key: int) -> None:
    """A key of another shard, or of no table, is an error that names it and changes nothing."""
    shard = store(1, 3)
    with pytest.raises(WireError, match=f"key {key} is not one of shard 1 of 3"):
        shard.write(np.array([1, 4, key]), np.zeros((3, 8), np.float32))
    assert shard.count == 0


def test_memory_follows_touched_rows(tmp_path: Path) -> None:
    """A table of ten million rows of which a thousand are written takes little more than those."""
    big = TableLayout.of([Table(name="t", num_embeddings=10_000_000, embedding_dim=48, feature_names=("t",))]).groups[0]
    shard = RowStore(
        big, RowOptimizer(name="sgd"), Newborn(big, seed=0, init_scale=None), shard=0, num_shards=1, directory=None
    )
    before = resident_bytes()
    keys = np.random.default_rng(0).choice(10_000_000, 200_000, replace=False)
    shard.write(keys, np.ones((200_000, 48), np.float32))
    assert resident_bytes() - before < 1.1 * 200_000 * 48 * 4 + 8 * 10_000_000


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096
