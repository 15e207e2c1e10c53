"""A snapshot holds one moment, however much is written while it is taken."""

import resource
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.embedding import snapshot as module
from bagpipe.embedding.row_store import RowStore
from bagpipe.embedding.snapshot import FrozenRows, Snapshot
from bagpipe.embedding.snapshots import Snapshots
from bagpipe.lowlevel.atomic_files import write_whole
from bagpipe.rows.initial import InitialRows
from bagpipe.tables import Table, TableLayout

GROUP = TableLayout.of([Table(name="t", num_embeddings=64, embedding_dim=2, feature_names=("t",))]).groups[0]


def store() -> RowStore:
    initial_rows = InitialRows(GROUP, EmbeddingConfig(optimizer=RowOptimizer(name="sgd")), seed=0)
    return RowStore(GROUP, initial_rows, shard=0, num_shards=1, directory=None)


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
    """A finished snapshot names its files with size and checksum, split into parts, and holds no rows any more."""
    monkeypatch.setattr(module, "PART_BYTES", 16 * 10)
    rows = store()
    write(rows, list(range(25)), 1.0)
    taken = Snapshot(4, [rows], tmp_path / "step", "shard")
    assert taken.held_bytes > 0
    taken.write()
    taken.wait(20)
    assert taken.result is not None and len(taken.result.files) == 3 and taken.result.done
    assert taken.held_bytes == 0, "what was put aside outlives the files, though nobody has asked for them yet"
    keys = [safetensors.numpy.load((tmp_path / "step" / f.name).read_bytes())["keys"] for f in taken.result.files]
    assert np.concatenate(keys).tolist() == list(range(25))
    assert all((tmp_path / "step" / f.name).stat().st_size == f.num_bytes for f in taken.result.files)


def test_a_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """A snapshot that fails says why, leaves training alone and holds no rows any more."""
    (tmp_path / "file").write_text("not a directory")
    taken = Snapshot(4, [store()], tmp_path / "file", "shard")
    taken.write()
    taken.wait(20)
    assert taken.result is not None and not taken.result.done and "file" in taken.result.error
    assert taken.held_bytes == 0


def test_a_disk_that_fails_at_any_byte_leaves_no_snapshot(tmp_path: Path) -> None:
    """Wherever a file of it is cut off: it failed, with the reason, leaves no draft, and the next one is whole."""
    rows = store()
    write(rows, list(range(25)), 1.0)
    whole = Snapshot(4, [rows], tmp_path / "whole", "shard")
    whole.write()
    whole.wait(20)
    assert whole.result is not None and whole.result.done
    length = max(one.num_bytes for one in whole.result.files)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for taken in range(0, length, 7):
        torn = Snapshot(4, [rows], tmp_path / "torn", "shard")
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (taken, hard))
            torn.write()
            torn.wait(20)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert torn.result is not None and not torn.result.done, taken
        assert "File too large" in torn.result.error and not torn.result.files, taken
        assert torn.result.for_good, taken
        assert not [path for path in (tmp_path / "torn").rglob("*") if path.is_file()], taken
    again = Snapshot(4, [rows], tmp_path / "torn", "shard")
    again.write()
    again.wait(20)
    assert again.result is not None and again.result.files == whole.result.files


@dataclass
class SlowDisk:
    """Files are written when `go` is set; `now` is the time that the shard's log goes by."""

    rows: RowStore
    root: Path
    go: threading.Event = field(default_factory=threading.Event)
    now: float = 0.0

    def snapshots(self, monkeypatch: pytest.MonkeyPatch) -> Snapshots:
        def write_late(path: Path, content: bytes) -> None:
            assert self.go.wait(20)
            write_whole(path, content)

        monkeypatch.setattr(module, "write_whole", write_late)
        return Snapshots([self.rows], self.root, "shard", lambda: self.now)

    def change_every_row(self, taken: Snapshots, value: float) -> None:
        keys = np.arange(64)
        positions = self.rows.positions(keys)
        taken.before_write(0, positions)
        self.rows.write(keys, np.full((64, 2), value, np.float32), positions)

    def values(self, step: int) -> list[float]:
        """The distinct values in the files of a snapshot."""
        files = sorted(self.root.glob(f"step-{step + 1:08d}/shard/*"))
        return sorted({float(x) for f in files for x in safetensors.numpy.load(f.read_bytes())["records"].reshape(-1)})


def settle(taken: Snapshots) -> None:
    """Until no snapshot is under way."""
    deadline = time.monotonic() + 20
    while not taken.idle:
        taken.poll()
        assert time.monotonic() < deadline


def test_a_slow_disk_delays_snapshots_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While one snapshot is written the next is frozen at its own step, the one between is given up, all are exact."""
    disk = SlowDisk(store(), tmp_path)
    taken = disk.snapshots(monkeypatch)
    for step in range(3):
        disk.change_every_row(taken, float(step))
        taken.due(step)
    disk.change_every_row(taken, 9.0)
    assert [taken.status(step, passed=True).lost for step in range(3)] == [False, True, False]
    assert taken.status(2, passed=True).waits_for == 0
    for disk.now in (5.0, 11.0, 12.0, 21.0, 30.0):
        taken.poll()
    slow = [r.getMessage() for r in caplog.records if "is slow" in r.getMessage()]
    assert len(slow) == 2 and f"{tmp_path / 'step-00000001'}" in slow[0] and "0 MB in 11 s" in slow[0]
    disk.go.set()
    settle(taken)
    assert [disk.values(step) for step in range(3)] == [[0.0], [], [2.0]]
    assert taken.status(0, passed=True).done and taken.status(2, passed=True).done


def test_finished_snapshots_hold_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was put aside for a snapshot is let go when its files are there; the files can still be asked for."""
    disk = SlowDisk(store(), tmp_path)
    taken = disk.snapshots(monkeypatch)
    for step in range(4):
        disk.go.clear()
        disk.change_every_row(taken, float(step))
        taken.due(step)
        disk.change_every_row(taken, 9.0)
        assert taken.held_bytes > 0
        disk.go.set()
        settle(taken)
        assert taken.held_bytes == 0 and taken.status(step, passed=True).files
    assert [disk.values(step) for step in range(4)] == [[0.0], [1.0], [2.0], [3.0]]


def test_whatever_ends_the_writing_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what nobody expects, such as no memory for a part: trainers are told, and no row is held any longer."""

    def no_memory(path: Path, content: bytes) -> None:
        raise MemoryError("32 MiB")

    monkeypatch.setattr(module, "write_whole", no_memory)
    rows = store()
    write(rows, [1, 2], 1.0)
    taken = Snapshot(4, [rows], tmp_path / "step", "shard")
    taken.write()
    taken.wait(20)
    assert taken.result is not None and not taken.result.done and taken.result.error == "MemoryError: 32 MiB"
    assert taken.held_bytes == 0
