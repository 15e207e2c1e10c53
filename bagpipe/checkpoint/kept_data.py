"""What a checkpoint keeps of its data: the transform, and a fingerprint of the rows that were trained on.

The oracle writes both to `<checkpoints>/transform/` before the first step; trainer 0 links the files into each
checkpoint and lists them in its manifest. A resume or an evaluation takes them from there.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from bagpipe.batch import Cursor
from bagpipe.checkpoint.kept_files import FINGERPRINT_FILE, FOLDER
from bagpipe.checkpoint.manifest import check_transform
from bagpipe.checkpoint.places import ACCEPTED_FILE
from bagpipe.checkpoint.store import Checkpoint, open_checkpoint
from bagpipe.config.document import JobSpec
from bagpipe.config.paths import any_url
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.data.files import find_files
from bagpipe.data.fingerprint import Fingerprint, difference, take_fingerprint
from bagpipe.data.transform import Transform, load_transform
from bagpipe.errors import CheckpointError, ConfigError, DataError
from bagpipe.lowlevel.atomic_files import cannot_write, make_folder, raise_unless_file_at_fault, write_whole


@dataclass(frozen=True, slots=True)
class KeptData:
    """What a checkpoint says about its data."""

    transform: Transform
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class JobData:
    """A job's data, and where in it training begins."""

    dataset: Dataset
    cursor: Cursor


def open_job_data(spec: JobSpec, *, checkpoint: Path | None, run_dir: Path, root: Path) -> JobData:
    """Open a job's data, as the checkpoint saw it if there is one, and keep its transform in `root`.

    Args:
        root: the folder of the job's checkpoints.

    Raises:
        ConfigError, DataError: as `open_dataset`; ConfigError too if the job would encode raw rows otherwise than the
            checkpoint does, DataError if training would go on with other rows.
        CheckpointError: the kept transform is damaged.
        StorageError: the transform cannot be written.
    """
    found = None if checkpoint is None else open_checkpoint(checkpoint)
    kept = None if found is None else load_kept(found)
    if found is not None and kept is not None:
        check_transform(found.manifest.spec.data, spec.data)
    cursor = Cursor() if found is None else found.manifest.cursor
    only_evaluates = found is not None and spec.steps is not None and spec.steps <= found.manifest.step
    now = Fingerprint()
    if not only_evaluates:
        now = fingerprint_of(spec)
        if kept is not None and difference(kept.fingerprint, now) is not None:
            check_accepted(kept.fingerprint, now, run_dir)
            cursor = _next_epoch(cursor)
    dataset = open_dataset(
        spec.data,
        spec.embedding,
        seed=spec.seed,
        work_dir=run_dir / "data",
        kept=kept.transform if kept is not None else None,
        only_test=only_evaluates,
    )
    if not only_evaluates:
        save_kept(root, KeptData(dataset.transform, now))
    return JobData(dataset, cursor)


def fingerprint_of(spec: JobSpec) -> Fingerprint:
    """The fingerprint of the data that the job trains on, as it is now."""
    return Fingerprint() if spec.data.format == "synthetic" else take_fingerprint(find_files(spec.data.path))


def check_accepted(before: Fingerprint, now: Fingerprint, run_dir: Path) -> None:
    """Refuse data that differs from what was trained on, unless the user has accepted exactly this data.

    Raises:
        DataError: names the first file that differs.
    """
    try:
        accepted = msgspec.json.decode((run_dir / ACCEPTED_FILE).read_bytes(), type=Fingerprint)
    except (OSError, ValueError):
        accepted = before
    if difference(accepted, now) is not None:
        raise DataError(
            f"data.path: {difference(before, now)}; put the data back, or resume with --new-data (in Python: "
            "resume(data=...)) to train on it from the beginning of a new epoch"
        )


def check_same_data(spec: JobSpec, run_dir: Path, checkpoint: Path) -> None:
    """Refuse other data than the checkpoint's as the oracle would, before a run's summary and job make way.

    Does nothing where no step is left to train, or where the data is behind a URL, which the oracle reads.

    Raises:
        CheckpointError: what the checkpoint keeps of its data is damaged.
        DataError: names the first file that differs, or a path without data.
        StorageError: the data cannot be read now.
    """
    found = open_checkpoint(checkpoint)
    before = _load_fingerprint(found)
    only_evaluates = spec.steps is not None and spec.steps <= found.manifest.step
    if before is None or only_evaluates or any_url(spec.data.path):
        return
    now = fingerprint_of(spec)
    if difference(before, now) is not None:
        check_accepted(before, now, run_dir)


def accept_data(spec: JobSpec, run_dir: Path, checkpoint: Path | None) -> bool:
    """Note that the user accepts the data as it is now, whatever the run was trained on before.

    Args:
        checkpoint: from which the run goes on.

    Returns:
        whether it is other data than the checkpoint's.

    Raises:
        ConfigError: the job ends before it would train on other data.
        CheckpointError: what the checkpoint keeps of its data is damaged.
        DataError, StorageError: it cannot be read, or the note cannot be written.
    """
    now = fingerprint_of(spec)
    found = None if checkpoint is None else open_checkpoint(checkpoint)
    before = None if found is None else _load_fingerprint(found)
    changed = before is not None and difference(before, now) is not None
    if found is not None and changed:
        _check_steps_left(spec, found.manifest.step, _next_epoch(found.manifest.cursor).epoch)
    write_whole(run_dir / ACCEPTED_FILE, msgspec.json.encode(now))
    return changed


def _check_steps_left(spec: JobSpec, trained: int, epoch: int) -> None:
    """Refuse a job whose last step comes before the first one of `epoch`, at which other data begins.

    Raises:
        ConfigError: names the setting that ends it.
    """
    ends_by_epochs = spec.steps is None or spec.epochs is not None
    if ends_by_epochs and epoch >= (spec.epochs or 1):
        raise ConfigError(
            f"spec.epochs: {spec.epochs or 1}, and the new data would begin epoch {epoch + 1}, so nothing is left to "
            f"train; give spec.epochs={epoch + 1} or more, with the epochs that are done (on the command line after "
            "--set)"
        )
    if spec.steps is not None and spec.steps <= trained:
        raise ConfigError(
            f"spec.steps: {spec.steps}, and {trained} are trained, so nothing is left to train on the new data; give "
            "more, with those that are done (on the command line after --set)"
        )


def _next_epoch(cursor: Cursor) -> Cursor:
    """Where other data begins: what is left of an epoch that has begun is passed over."""
    return Cursor(cursor.epoch + 1, 0) if cursor.position else cursor


# ── in the folder of checkpoints ──────────────────────────────────────────────────────────────────


def save_kept(root: Path, kept: KeptData) -> None:
    """Write transform and fingerprint to `root/transform/`, unless they are there.

    Raises:
        StorageError: they cannot be written.
    """
    folder = root / FOLDER
    if not _holds(folder, kept.transform):
        make_folder(folder)
        try:
            kept.transform.save(folder)
        except OSError as error:
            raise cannot_write(folder, error) from None
    write_whole(folder / FINGERPRINT_FILE, msgspec.json.encode(kept.fingerprint))


def _holds(folder: Path, transform: Transform) -> bool:
    try:
        return load_transform(folder).info == transform.info
    except CheckpointError:
        return False


def load_kept(checkpoint: Checkpoint) -> KeptData | None:
    """What the checkpoint says about its data; None: it was written before that was kept.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    if not checkpoint.manifest.data:
        return None
    for file in checkpoint.manifest.data:
        checkpoint.check(file)
    fingerprint = _load_fingerprint(checkpoint)
    assert fingerprint is not None
    return KeptData(load_transform(checkpoint.directory / FOLDER), fingerprint)


def _load_fingerprint(checkpoint: Checkpoint) -> Fingerprint | None:
    if not checkpoint.manifest.data:
        return None
    path = checkpoint.directory / FOLDER / FINGERPRINT_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Fingerprint)
    except (OSError, ValueError) as error:
        raise_unless_file_at_fault(path, error)
        raise CheckpointError(f"{path}: cannot be read ({error}); use another checkpoint") from None
