"""A shard behaves like a dictionary of records, whatever the order of writes and however it ends."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.embedding.row_store import Recovered, RowStore, _enter
from bagpipe.errors import StorageError, WireError
from bagpipe.rows.initial import InitialRows, initial_rows, row_scale
from bagpipe.tables import Table, TableLayout

TABLES = (
    Table(name="a", num_embeddings=7, embedding_dim=4, feature_names=("a",)),
    Table(name="wide", num_embeddings=3, embedding_dim=8, feature_names=("w",)),
    Table(name="b", num_embeddings=30, embedding_dim=4, feature_names=("b",)),
)
GROUP = TableLayout.of(TABLES).groups[0]
ADAGRAD = RowOptimizer(name="adagrad", initial_accumulator=0.25)


def store(shard: int, num_shards: int, directory: Path | None = None, optimizer: RowOptimizer = ADAGRAD) -> RowStore:
    initial_rows = InitialRows(GROUP, EmbeddingConfig(optimizer=optimizer), seed=3)
    return RowStore(GROUP, initial_rows, shard=shard, num_shards=num_shards, directory=directory)


def born(key: int) -> np.ndarray:
    """The record that key has before anybody writes it: table b is the job's table 2 and starts at key 7."""
    table, row, rows = (0, key, 7) if key < 7 else (2, key - 7, 30)
    weights = initial_rows(3, table, [row], 4, row_scale(rows, None))[0]
    return np.concatenate((weights, np.full(4, 0.25, np.float32)))


def test_files_of_a_shard_that_cannot_be_opened_whole_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index finds no room: the files before it stay on the disk, and take no descriptor."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StorageError, match=r"dim4\.index: no room"):
        store(0, 1, tmp_path)
    opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert not [path for path in opened if path.startswith(str(tmp_path))]


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
    """First weights fill [-scale, scale) evenly, and differ between seeds, tables and rows."""
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


@pytest.mark.parametrize("keys", [[1, 4, 7, 4], [10, 1, 4, 13, 16, 7, 10]])
def test_keys_that_would_be_stored_twice_are_refused(keys: list[int]) -> None:
    """A new key that is there twice is an error that names it; of a stored one the last record counts."""
    shard = store(1, 3)
    array = np.array(keys)
    with pytest.raises(WireError, match=f"key {keys[-1]} twice"):
        shard.check_new(array, shard.positions(array))
    shard.write(np.unique(array), np.zeros((len(set(keys)), 8), np.float32))
    shard.check_new(array, shard.positions(array))
    shard.write(array, np.arange(8 * len(keys), dtype=np.float32).reshape(-1, 8))
    assert shard.read(array[-1:], 1)[0][0, 0] == 8 * (len(keys) - 1) and shard.count == len(set(keys))


@given(keys=st.lists(st.integers(0, 36), max_size=60), stored=st.sets(st.integers(0, 36)))
@settings(max_examples=100, deadline=None)
def test_repeated_new_keys_are_found(keys: list[int], stored: set[int]) -> None:
    """Exactly the lists in which a key that is not stored is there twice are refused."""
    shard = store(0, 1)
    shard.write(np.array(sorted(stored), np.int64), np.zeros((len(stored), 8), np.float32))
    array = np.array(keys, np.int64)
    new = [k for k in keys if k not in stored]
    try:
        shard.check_new(array, shard.positions(array))
        refused = False
    except WireError:
        refused = True
    assert refused == (len(new) > len(set(new)))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), writes=st.lists(st.lists(st.integers(0, 36), unique=True, min_size=1), min_size=1, max_size=6))
def test_killed_between_any_two_stores(data: st.DataObject, writes: list[list[int]]) -> None:
    """A process killed anywhere in a write leaves files whose other rows are whole, and the write can be done again.

    Every store of a write is a numbered point, and the index is also killed between two of its entries. What
    `recover` leaves is compared with a dictionary: rows of earlier writes as they were, new rows of the killed
    write not there unless all its bookkeeping was done, and room for every row of the table.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        shard = store(0, 1, directory)
        expected: dict[int, np.ndarray] = {}
        for turn, keys in enumerate(writes):
            array = np.array(keys, np.int64)
            records = np.arange(array.size * 8, dtype=np.float32).reshape(-1, 8) + 100 * turn
            for _ in range(data.draw(st.integers(0, 2), label="kills")):
                kill_in_write(shard, array, records, data)
                shard.close()
                shard = store(0, 1, directory)
                found = shard.recover()
                assert found.rows == shard.count and len(expected) <= shard.count <= len(expected | dict.fromkeys(keys))
                others = np.array([k for k in expected if k not in keys], np.int64)
                held, _ = shard.read(others, others.size)
                assert all(np.array_equal(held[i], expected[k]) for i, k in enumerate(others.tolist()))
            shard.write(array, records)
            expected |= dict(zip(keys, records, strict=True))
        rest = np.setdiff1d(np.arange(37), list(expected))
        shard.write(rest, np.full((rest.size, 8), 7, np.float32))
        expected |= {int(k): np.full(8, 7, np.float32) for k in rest}
        everything, _ = shard.read(np.arange(37), 37)
        assert all(np.array_equal(everything[k], expected[k]) for k in range(37))
        assert shard.recover() == Recovered(37, 0)
        shard.close()


def test_a_turned_bit_of_what_says_where_rows_are_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """While a server is down its files are damaged: every bit of the count in turn, some of keys and index."""
    shard, keys = store(0, 1, tmp_path), np.arange(4, 17)
    shard.write(keys, np.arange(104, dtype=np.float32).reshape(13, 8))
    shard.close()
    noticed = 0
    for name, size in (("keys", 8 * 13), ("index", 4 * 37), ("count", 24)):
        path = tmp_path / f"dim4.{name}"
        sound = path.read_bytes()
        for bit in range(0, 8 * size, 1 if name == "count" else 7):
            spoilt = bytearray(sound)
            spoilt[bit // 8] ^= 1 << bit % 8
            path.write_bytes(spoilt)
            again = store(0, 1, tmp_path)
            try:
                again.recover()
                assert np.array_equal(again.read(keys, 13)[0].ravel(), np.arange(104)), (name, bit)
            except StorageError:
                noticed += 1
            again.close()
            path.write_bytes(sound)
    assert noticed > 8 * (8 * 13 + 4 * 37) // 7


def kill_in_write(shard: RowStore, keys: np.ndarray, records: np.ndarray, data: st.DataObject) -> None:
    """Do a drawn number of the stores of this write, and of one of them perhaps a part."""
    where = shard.positions(keys)
    new = int((where < 0).sum())
    if not new:
        shard.write(keys[: keys.size // 2], records[: keys.size // 2])
        return
    where[where < 0] = np.arange(shard.count, shard.count + new)
    stores = shard.appending(keys, records, where, shard.count + new)
    point = data.draw(st.integers(0, len(stores)), label="point")
    for number, one in enumerate(stores[:point]):
        if number == INDEX and point == INDEX + 1:
            part = data.draw(st.integers(0, keys.size), label="entries")
            _enter(keys[:part], 1, where[:part], shard.count, shard._index)
        else:
            one()


INDEX = 3
"""Which of the stores of `RowStore.appending` enters new rows into the index."""


def test_a_row_that_is_begun_is_taken_back(tmp_path: Path) -> None:
    """Four rows killed between index and count leave a nearly full table with room for them and the rest."""
    shard = store(0, 1, tmp_path)
    shard.write(np.arange(30), np.ones((30, 8), np.float32))
    late = np.arange(30, 34)
    stores = shard.appending(late, np.full((4, 8), 2, np.float32), np.arange(30, 34), 34)
    for one in stores[: INDEX + 1]:
        one()
    again = store(0, 1, tmp_path)
    assert again.recover() == Recovered(30, 4)
    again.write(late, np.full((4, 8), 2, np.float32))
    again.write(np.arange(34, 37), np.full((3, 8), 3, np.float32))
    assert again.read(np.arange(37), 37)[0][:, 0].tolist() == [1] * 30 + [2] * 4 + [3] * 3


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda s: s._index.__setitem__(3, 0), "not row 3 of 5"),
        (lambda s: s._index.__setitem__(3, 9), "not row 3 of 5"),
        (lambda s: s._index.__setitem__(20, 2), "index of 5 rows, found 6"),
        (lambda s: s.row_keys.__setitem__(2, 36), "not row 2 of 5"),
        (lambda s: s.row_keys.__setitem__(2, -7), "not row 2 of 5"),
        (lambda s: s._count.fill(38), "up to 37 rows, found 38"),
        (lambda s: (s._count.fill(4), s._begun.fill(4)), "index of 4 rows, found 5"),
    ],
)
def test_files_that_contradict_themselves_are_refused(
    tmp_path: Path, damage: Callable[[RowStore], None], found: str
) -> None:
    """Whatever no kill explains is an error that says what was expected and found."""
    shard = store(0, 1, tmp_path)
    shard.write(np.arange(5), np.ones((5, 8), np.float32))
    damage(shard)
    with pytest.raises(StorageError, match=found):
        store(0, 1, tmp_path).recover()


def test_a_full_table_drops_no_row_in_silence() -> None:
    """Where there is no room for a new row, the write is refused whole."""
    shard = store(0, 1)
    shard.write(np.arange(36), np.zeros((36, 8), np.float32))
    shard._count.fill(37)
    with pytest.raises(WireError, match="at most 0 new rows"):
        shard.write(np.array([0, 36]), np.ones((2, 8), np.float32))
    assert shard.read(np.array([0]), 1)[0][0, 0] == 0


def test_memory_follows_touched_rows(tmp_path: Path) -> None:
    """A table of ten million rows of which a thousand are written takes little more than those."""
    big = TableLayout.of([Table(name="t", num_embeddings=10_000_000, embedding_dim=48, feature_names=("t",))]).groups[0]
    shard = RowStore(
        big,
        InitialRows(big, EmbeddingConfig(optimizer=RowOptimizer(name="sgd")), seed=0),
        shard=0,
        num_shards=1,
        directory=None,
    )
    before = resident_bytes()
    keys = np.random.default_rng(0).choice(10_000_000, 200_000, replace=False)
    shard.write(keys, np.ones((200_000, 48), np.float32))
    assert resident_bytes() - before < 1.1 * 200_000 * 48 * 4 + 8 * 10_000_000


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096
