"""Checkpoints under way at once: whichever shard answers first, each becomes whole and none is cleared away."""

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.batch import Cursor
from bagpipe.checkpoint.manifest import FILE_NAME
from bagpipe.checkpoint.store import directory_of, list_checkpoints, open_checkpoint
from bagpipe.config.document import CheckpointConfig, DataConfig, JobSpec
from bagpipe.metrics.validations import Validation
from bagpipe.net.messages import SnapshotFiles
from bagpipe.plan import BatchPlan
from bagpipe.tables import Table, TableLayout
from bagpipe.trainer.checkpointer import Checkpointer
from bagpipe.trainer.membership import Membership


@dataclass
class Shards:
    """One embedding server, as the checkpointer sees it: which snapshots it says it has written."""

    written: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)

    def ask_snapshots(self, step: int) -> None:
        """Answers arrive as the test decides."""

    def poll(self, seconds: float = 0.0) -> None:
        """Nothing is on its way."""

    def snapshot_lost(self, step: int) -> str:
        return "its server was restarted" if step in self.lost else ""

    def snapshot_progress(self, step: int) -> str:
        return f"step {step}"

    def snapshots(self, step: int) -> list[SnapshotFiles] | None:
        return [SnapshotFiles(step=step, done=True)] if step in self.written else None


def world(root: Path, keep: int) -> tuple[Checkpointer, Shards, list[int]]:
    """A checkpointer of rank 0, its shards, and the steps that the oracle is told of."""
    shards, told = Shards(), list[int]()
    layout = TableLayout.of([Table("a", 9, 4, ("a",))])
    spec = JobSpec(data=DataConfig(format="synthetic"), checkpoint=CheckpointConfig(every=1, keep=keep))
    members = SimpleNamespace(
        rank=0,
        servers=shards,
        oracle=SimpleNamespace(send=lambda saved: told.append(saved.step)),
        job=SimpleNamespace(metadata=SimpleNamespace(name="job")),
        topology=SimpleNamespace(
            checkpoint_dir=str(root), spec=spec, layout=layout, servers=("s",), trainers=("t",), checkpoint=None
        ),
    )
    return Checkpointer(cast("Membership", members), None, None), shards, told


def plan(step: int, *, validates: bool = False) -> BatchPlan:
    return cast("BatchPlan", SimpleNamespace(step=step, end=Cursor(0, step + 1), validates=validates))


@given(order=st.permutations(range(4)), polls=st.lists(st.booleans(), min_size=4, max_size=4), keep=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_checkpoints_become_whole_in_the_order_of_their_steps(order: list[int], polls: list[bool], keep: int) -> None:
    """Whatever the order in which the shards finish, the newest `keep` are whole, and the oracle heard of each."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        checkpointer, shards, told = world(root, keep)
        for step in range(4):
            checkpointer.begin(plan(step))
        for step, looked_at in zip(order, polls, strict=True):
            shards.written.add(step)
            if looked_at:
                checkpointer.poll()
        checkpointer.poll()
        assert told == [1, 2, 3, 4]
        assert [open_checkpoint(path).manifest.step for path in list_checkpoints(root)] == [1, 2, 3, 4][-keep:]


def test_a_lost_checkpoint_holds_up_no_later_one(tmp_path: Path) -> None:
    """One that can never be whole is given up by name, and the next is completed."""
    checkpointer, shards, told = world(tmp_path, 3)
    shards.lost = {0}
    shards.written = {1}
    checkpointer.begin(plan(0))
    checkpointer.begin(plan(1))
    checkpointer.poll()
    assert told == [2]


def test_a_checkpoint_of_an_evaluated_step_waits_for_its_figures() -> None:
    """A run that goes on from it must not lack what it was stopped by; later figures are not in it."""
    with tempfile.TemporaryDirectory() as name:
        checkpointer, shards, told = world(Path(name), 3)
        checkpointer.begin(plan(4, validates=True))
        shards.written.add(4)
        checkpointer.poll()
        assert not told and not list_checkpoints(Path(name))
        figures = [Validation(step=5, figures={"auc": 0.5}), Validation(step=6, figures={"auc": 0.6})]
        for one in figures:
            checkpointer.validated(one)
        checkpointer.poll()
        assert told == [5]
        assert open_checkpoint(list_checkpoints(Path(name))[0]).manifest.validations == (figures[0],)


def test_an_old_checkpoint_that_cannot_be_deleted_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no checkpoint any more, or it is still a whole one; it is named once, and goes as soon as it can."""
    checkpointer, shards, told = world(tmp_path, 1)
    remove, unlink, open_elsewhere = shutil.rmtree, Path.unlink, directory_of(tmp_path, 1) / ".nfs0000000000a1b2c3"
    stuck = directory_of(tmp_path, 2) / FILE_NAME

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        """As on NFS: a file that another process has open gets another name."""
        if path != open_elsewhere.parent or not open_elsewhere.exists():
            return remove(path, ignore_errors)
        for name in path.iterdir():
            if name != open_elsewhere:
                name.unlink()
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == stuck:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    monkeypatch.setattr(Path, "unlink", refuse)
    for step in range(5):
        checkpointer.begin(plan(step))
        if step == 1:
            open_elsewhere.touch()
        shards.written.add(step)
        checkpointer.poll()
    assert told == [1, 2, 3, 4, 5]
    assert [open_checkpoint(path).manifest.step for path in list_checkpoints(tmp_path)] == [2, 5]
    named = [record.args[0] for record in caplog.records if "cannot be deleted" in record.msg and record.args]
    assert sorted(named) == [open_elsewhere.parent, stuck.parent]
    monkeypatch.setattr(Path, "unlink", unlink)
    open_elsewhere.unlink()  # The other process has ended, and the folder is empty.
    checkpointer.begin(plan(5))
    shards.written.add(5)
    checkpointer.poll()
    assert list(tmp_path.iterdir()) == [directory_of(tmp_path, 6)]


def test_a_disk_that_cannot_list_old_checkpoints_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is whole before old ones are looked for, and the oracle is told."""
    checkpointer, shards, told = world(tmp_path, 1)

    def refuse(path: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    checkpointer.begin(plan(0))
    shards.written.add(0)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refuse)
        checkpointer.poll()
    assert told == [1]
    assert list_checkpoints(tmp_path) == [directory_of(tmp_path, 1)]
