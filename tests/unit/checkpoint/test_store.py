"""A checkpoint is whole or it is none, and says by name what is wrong with it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from bagpipe.batch import Cursor
from bagpipe.checkpoint.digest import model_digest
from bagpipe.checkpoint.kept_rows import kept_rows
from bagpipe.checkpoint.manifest import Manifest, changed_field, check_same_job, check_transform
from bagpipe.checkpoint.store import (
    Checkpoint,
    commit,
    describe_file,
    directory_of,
    incomplete_checkpoints,
    list_checkpoints,
    newest_complete,
    open_checkpoint,
    prune,
)
from bagpipe.cli.main import run_command
from bagpipe.config.document import DataConfig, EmbeddingConfig, JobSpec, RowOptimizer
from bagpipe.embedding.row_store import RowStore
from bagpipe.embedding.snapshot import Snapshot
from bagpipe.errors import CheckpointError, ConfigError, StorageError
from bagpipe.export.tables import load_tables, write_tables
from bagpipe.rows.initial import InitialRows, initial_rows, row_scale
from bagpipe.tables import Table, TableLayout

TABLES = (
    Table(name="a", num_embeddings=50, embedding_dim=4, feature_names=("a",)),
    Table(name="b", num_embeddings=9, embedding_dim=2, feature_names=("b",)),
    Table(name="c", num_embeddings=20, embedding_dim=4, feature_names=("c",)),
)
LAYOUT = TableLayout.of(TABLES)
SGD = RowOptimizer(name="sgd")
SPEC = JobSpec(data=DataConfig(path="x"), embedding=EmbeddingConfig(optimizer=SGD))


def save(root: Path, step: int, *, num_servers: int = 1, change: float = 0.0, order: int = 1) -> Path:
    """A checkpoint of a few rows, held by any number of shards that touched them in any order."""
    directory = directory_of(root, step)
    files = []
    for shard in range(num_servers):
        stores = [
            RowStore(
                g,
                InitialRows(g, EmbeddingConfig(optimizer=SGD), seed=0),
                shard=shard,
                num_shards=num_servers,
                directory=None,
            )
            for g in LAYOUT.groups
        ]
        for group, rows in zip(LAYOUT.groups, stores, strict=True):
            keys = np.arange(0, group.num_rows, 2)[::order]
            keys = np.ascontiguousarray(keys[keys % num_servers == shard])
            rows.write(keys, (keys[:, None] + np.arange(group.embedding_dim)).astype(np.float32) + np.float32(change))
        taken = Snapshot(step - 1, stores, directory, f"shard-{shard}-of-{num_servers}")
        taken.write()
        taken.wait(20)
        assert taken.result is not None
        files += taken.result.files
    (directory / "dense.safetensors").write_bytes(safetensors.numpy.save({"w": np.ones(3, np.float32)}))
    manifest = Manifest(
        job="job",
        step=step,
        cursor=Cursor(0, step * 8),
        spec=SPEC,
        tables=TABLES,
        record_widths=(4, 2),
        num_servers=num_servers,
        num_trainers=1,
        shards=tuple(files),
        dense=(describe_file(directory, "dense.safetensors"),),
        created="2026-01-01T00:00:00+00:00",
    )
    commit(directory, manifest)
    return directory


def test_saved_checkpoints_are_found_and_verified(tmp_path: Path) -> None:
    """Complete checkpoints are listed in the order of their steps and verify."""
    assert newest_complete(tmp_path / "none") is None
    for step in (30, 200, 4):
        save(tmp_path, step)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000004", "step-00000030", "step-00000200"]
    newest = newest_complete(tmp_path)
    assert newest is not None
    checkpoint = open_checkpoint(newest)
    checkpoint.verify()
    assert checkpoint.manifest.step == 200 and checkpoint.manifest.cursor == Cursor(0, 1600)


def test_a_checkpoint_that_its_run_deletes_meanwhile_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ls` and `verify` in the folder of a run that goes on pass over what retention has deleted since."""
    listed = [save(tmp_path, step) for step in (1, 2)]
    begun = open_checkpoint(listed[0])
    shutil.rmtree(listed[0])
    monkeypatch.setattr("bagpipe.cli.checkpoint._complete", lambda where: listed)
    assert run_command(["checkpoint", "ls", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("step-") == 1
    assert run_command(["checkpoint", "verify", str(tmp_path)]) == 0
    gone, whole = capsys.readouterr().out.splitlines()
    assert gone == f"{listed[0]}: deleted meanwhile by its run, which keeps newer ones" and whole.endswith(": whole")
    with pytest.raises(CheckpointError, match="step-00000001: deleted while it was read, by its run"):
        begun.verify()


@pytest.mark.parametrize("how", ["read", "rows"])
def test_a_file_that_is_deleted_once_it_was_checked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Retention may come between a file's check and its reading; a missing file of a whole checkpoint is named too."""
    directory = save(tmp_path, 1)
    begun = open_checkpoint(directory)
    monkeypatch.setattr(Checkpoint, "check", lambda self, file: (self.directory / file.name).unlink())
    with pytest.raises(CheckpointError, match=r"group0-part00000.safetensors: No such file .* incomplete"):
        getattr(begun, how)(begun.manifest.shards[0])
    monkeypatch.setattr(Checkpoint, "check", lambda self, file: shutil.rmtree(self.directory))
    with pytest.raises(CheckpointError, match="step-00000001: deleted while it was read, by its run"):
        getattr(begun, how)(begun.manifest.shards[0])


def test_without_a_manifest_there_is_no_checkpoint(tmp_path: Path) -> None:
    """A half-written checkpoint is not listed, and opening it says what is missing."""
    save(tmp_path, 5)
    (save(tmp_path, 9) / "manifest.json").unlink()
    assert newest_complete(tmp_path) == directory_of(tmp_path, 5)
    with pytest.raises(CheckpointError, match=r"step-00000009: no manifest.json.*no complete checkpoint"):
        open_checkpoint(directory_of(tmp_path, 9))
    job = tmp_path / "job.yaml"
    job.write_text("spec: {}")
    with pytest.raises(CheckpointError, match=r"job.yaml: no manifest.json.*no complete checkpoint; give a run dir"):
        open_checkpoint(job)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(truncate, "truncated"), (flip, "checksum differs"), (Path.unlink, "incomplete")],
)
@pytest.mark.parametrize("which", ["shard-0-of-2/group0-part00000.safetensors", "dense.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, damage: Callable[[Path], None], reason: str, which: str) -> None:
    """A truncated, changed or missing file is refused by name."""
    directory = save(tmp_path, 5, num_servers=2)
    damage(directory / which)
    with pytest.raises(CheckpointError, match=f"{which}: .*{reason}"):
        open_checkpoint(directory).verify()


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    """A truncated manifest is an error that names it."""
    directory = save(tmp_path, 5)
    truncate(directory / "manifest.json")
    with pytest.raises(CheckpointError, match=r"manifest\.json: not a manifest"):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("tables", "widths", "reason"),
    [
        (TABLES[:2], (4, 2), "table c is only in the checkpoint"),
        (
            (*TABLES[:2], Table(name="c", num_embeddings=21, embedding_dim=4, feature_names=("c",))),
            (4, 2),
            "table c has 20",
        ),
        (TABLES, (8, 4), "records are"),
    ],
)
def test_foreign_checkpoints_are_refused(
    tmp_path: Path, tables: tuple[Table, ...], widths: tuple[int, ...], reason: str
) -> None:
    """A checkpoint of other tables or another optimizer is refused by the name of what differs."""
    manifest = open_checkpoint(save(tmp_path, 5)).manifest
    with pytest.raises(CheckpointError, match=reason):
        check_same_job(manifest, TableLayout.of(tables), widths, "here")
    check_same_job(manifest, LAYOUT, (4, 2), "here")


def test_changed_settings_are_named() -> None:
    """What may not change between a run and its resumption is named; what may change is not."""
    now = msgspec.structs.replace(SPEC, seed=3)
    assert changed_field(SPEC, now) == "spec.seed"
    embedding = msgspec.structs.replace(SPEC.embedding, gradient_reduction="sum")
    assert changed_field(SPEC, msgspec.structs.replace(SPEC, embedding=embedding)) == "spec.embedding.gradientReduction"
    data = msgspec.structs.replace(SPEC.data, path="elsewhere")
    assert changed_field(SPEC, msgspec.structs.replace(SPEC, data=data, steps=9, lookahead=3)) is None
    for test, found in (("other rows", None), (0.25, "spec.data.test")):
        data = msgspec.structs.replace(SPEC.data, test=test)
        assert changed_field(SPEC, msgspec.structs.replace(SPEC, data=data)) == found, "a share is not trained on"


def test_a_checkpoint_is_not_opened_by_a_job_that_encodes_otherwise() -> None:
    """However the oracle is started. Prepared data has no such settings, and its path may differ."""
    before = DataConfig(path="a", encoding="vocabulary", min_count=2)
    change = msgspec.structs.replace
    for name, value in (("min_count", 3), ("oov", 5), ("encoding", "hash"), ("hash_size", 7)):
        with pytest.raises(ConfigError, match=r"^spec\.data\.\w+: differs from the job that was trained"):
            check_transform(before, change(before, **{name: value}))
    check_transform(before, change(before, path="b", test="c", on_bad_line="skip", shuffle="always", split_by="order"))
    check_transform(before, DataConfig(path="prepared"))
    check_transform(DataConfig(path="prepared"), before)


def test_the_digest_sees_the_model_and_nothing_else(tmp_path: Path) -> None:
    """Equal models have one digest whatever the shards and the order of touching; another row changes it."""
    one = model_digest(save(tmp_path / "1", 5))
    assert one == model_digest(save(tmp_path / "2", 5, num_servers=3))
    assert one == model_digest(save(tmp_path / "3", 7, order=-1))
    assert one != model_digest(save(tmp_path / "4", 5, change=1e-3))


def test_whole_tables_hold_every_row(tmp_path: Path) -> None:
    """Touched rows come as trained, the others as they were born, whatever the number of shards."""
    rows = kept_rows(open_checkpoint(save(tmp_path / "checkpoints", 5, num_servers=2)))
    assert write_tables(rows, tmp_path, {}, all_rows=True) == ["tables.safetensors"]
    tables = load_tables(tmp_path)
    assert {name: t.shape for name, t in tables.items()} == {"a": (50, 4), "b": (9, 2), "c": (20, 4)}
    for number, (name, offset) in enumerate((("a", 0), ("b", 0), ("c", 50))):
        rows = np.arange(len(tables[name]))
        dim = tables[name].shape[1]
        born = initial_rows(0, number, rows, dim, row_scale(rows.size, None))
        trained = ((rows + offset)[:, None] + np.arange(dim)).astype(np.float32)
        touched = ((rows + offset) % 2 == 0)[:, None]
        np.testing.assert_array_equal(tables[name], np.where(touched, trained, born))


def test_retention_keeps_the_newest(tmp_path: Path) -> None:
    """Old checkpoints and remains of interrupted ones go; the newest complete one and later drafts stay."""
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    (save(tmp_path, 9) / "manifest.json").unlink()
    (directory_of(tmp_path, 2) / "manifest.json").unlink()
    prune(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004", "step-00000009"]
    prune(tmp_path, keep=1)
    assert list_checkpoints(tmp_path) == [directory_of(tmp_path, 4)]
    assert isinstance(open_checkpoint(directory_of(tmp_path, 4)), Checkpoint)


def test_retention_keeps_what_the_attempt_began_from(tmp_path: Path) -> None:
    """An oracle that is restarted in this attempt reads it again, however many checkpoints have followed."""
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    prune(tmp_path, keep=2, needed=[directory_of(tmp_path, 1)])
    assert list_checkpoints(tmp_path) == [directory_of(tmp_path, step) for step in (1, 3, 4)]


def test_folders_of_others_are_never_deleted(tmp_path: Path) -> None:
    """A folder of another program that has the name of a checkpoint stays; what an interrupted one left behind goes."""
    foreign, interrupted = tmp_path / "step-00000001", tmp_path / "step-00000002"
    for folder, name in ((foreign, "model.pt"), (interrupted, "dense.safetensors")):
        folder.mkdir()
        (folder / name).write_bytes(b"x")
    empty = tmp_path / "step-00000003"
    empty.mkdir()
    assert incomplete_checkpoints(tmp_path) == [interrupted]
    save(tmp_path, 5)
    prune(tmp_path, 1)
    assert foreign.is_dir() and empty.is_dir() and not interrupted.exists()


def test_a_file_that_cannot_be_read_again_for_its_checksum_is_named(tmp_path: Path) -> None:
    """It has just been written, so its disk is at fault."""
    with pytest.raises(StorageError, match=r"dense\.safetensors: cannot be read: No such file"):
        describe_file(tmp_path, "dense.safetensors")


def test_a_folder_that_cannot_be_looked_into_is_no_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what it holds, so it stays, and the others are cleared away."""
    whole, interrupted, other = save(tmp_path, 5), directory_of(tmp_path, 1), directory_of(tmp_path, 2)
    for folder in (interrupted, other):
        folder.mkdir()
        (folder / "dense.safetensors").write_bytes(b"x")
    listed = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path == other:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert incomplete_checkpoints(tmp_path) == [interrupted]
    assert not prune(tmp_path, 1)
    assert sorted(listed(tmp_path)) == [other, whole]
