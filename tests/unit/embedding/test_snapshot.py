"""A snapshot holds one moment, however much is written while it is taken."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.document import RowOptimizer
from bagpipe.embedding import snapshot as module
from bagpipe.embedding.shard import RowStore
from bagpipe.embedding.snapshot import FrozenRows, Snapshot
from bagpipe.rows.initial import Newborn
from bagpipe.tables import Table, TableLayout

GROUP = TableLayout.of([Table(name="t", num_embeddings=64, embedding_dim=2, feature_names=("t",))]).groups[0]


def store() -> RowStore:
    newborn = Newborn(GROUP, seed=0, init_scale=None)
    return RowStore(GROUP, RowOptimizer(name="sgd"), newborn, shard=0, num_shards=1, directory=None)


def write(rows: RowStore, keys: list[int], value: float, frozen: FrozenRows | None = None) -> None:
    array = np.array(keys, np.int64)
    positions = rows.positions(array)
    if frozen is not None:
        frozen.before_write(positions)
    rows.write(array, np.full((array.size, 2), value, np.float32), positions)


keys_lists = st.lists(st.integers(0, 63), unique=True, max_size=20)


@settings(max_examples=100, deadline=None)
@given(before=st.lists(keys_lists, max_size=4), during=st.lists(keys_lists, max_size=6), part=st.integers(1, 9))
def test_parts_between_writes_hold_the_old_rows(before: list[list[int]], during: list[list[int]], part: int) -> None:
    """Parts copied between any later writes give exactly the rows at the beginning."""
    rows = store()
    expected: dict[int, float] = {}
    for turn, keys in enumerate(before):
        write(rows, keys, float(turn))
        expected |= dict.fromkeys(keys, float(turn))
    frozen = FrozenRows(rows)
    found: dict[int, float] = {}
    turns = iter(during)
    for begin in range(0, frozen.count, part):
        write(rows, next(turns, []), -1.0, frozen)
        keys_K, records = frozen.part(begin, min(begin + part, frozen.count))
        assert (records[:, 0] == records[:, 1]).all()
        found |= dict(zip(keys_K.tolist(), records[:, 0].tolist(), strict=True))
    assert found == expected


def test_files_have_the_stated_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished snapshot names its files with size and checksum, split into parts."""
    monkeypatch.setattr(module, "PART_BYTES", 16 * 10)
    rows = store()
    write(rows, list(range(25)), 1.0)
    taken = Snapshot(4, [rows], tmp_path / "step", "shard")
    taken.wait(20)
    assert taken.files is not None and len(taken.files) == 3 and not taken.error
    keys = [safetensors.numpy.load((tmp_path / "step" / f.name).read_bytes())["keys"] for f in taken.files]
    assert np.concatenate(keys).tolist() == list(range(25))
    assert all((tmp_path / "step" / f.name).stat().st_size == f.num_bytes for f in taken.files)


def test_a_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """A snapshot that fails says why and leaves training alone."""
    (tmp_path / "file").write_text("not a directory")
    taken = Snapshot(4, [store()], tmp_path / "file", "shard")
    taken.wait(20)
    assert taken.files is None and "file" in taken.error
