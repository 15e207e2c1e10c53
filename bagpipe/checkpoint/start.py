"""Finds the checkpoint from which a run goes on: the newest undamaged one, or the one that the user chose.

Damage is found by the checksums of the manifest, before any role starts. A checkpoint that is damaged, or newer than
the chosen one, is set aside by renaming its manifest: it is no checkpoint any more, and nothing of it is deleted.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

from bagpipe.checkpoint.manifest import FILE_NAME
from bagpipe.checkpoint.store import ASIDE, list_checkpoints, open_checkpoint, step_of
from bagpipe.errors import CheckpointError
from bagpipe.lowlevel.atomic_files import cannot_write


def starting_checkpoint(root: Path, *, strict: bool, note: Callable[[str], None]) -> Path | None:
    """The newest checkpoint in `root` whose files are all as its manifest says; None where there is none at all.

    Reads every file of it once.

    Args:
        strict: a damaged newest one is an error.
        note: told of each damaged one that is set aside.

    Raises:
        CheckpointError: the newest is damaged and `strict`, or every one is.
        StorageError: a damaged one cannot be set aside.
    """
    damaged: list[tuple[Path, CheckpointError]] = []
    sound: Path | None = None
    for path in reversed(list_checkpoints(root)):
        try:
            open_checkpoint(path).verify()
        except CheckpointError as error:
            if strict:
                raise CheckpointError(f"{error} (spec.checkpoint.strict)") from None
            damaged.append((path, error))
        else:
            sound = path
            break
    if damaged and sound is None:
        raise CheckpointError(f"{root}: none of its {len(damaged)} checkpoints is sound; the newest: {damaged[0][1]}")
    for path, why in damaged:
        kept = set_aside(path)
        note(f"{why}; the run goes on from {sound} instead, and {kept} keeps the manifest")
    return sound


def chosen_checkpoint(chosen: Path, root: Path, *, note: Callable[[str], None]) -> Path:
    """The checkpoint that the user named; newer ones in `root` do not follow from it, and are set aside.

    Raises:
        CheckpointError: it is incomplete or damaged.
        StorageError: a newer one cannot be set aside.
    """
    checkpoint = open_checkpoint(chosen)
    checkpoint.verify()
    # By their names: a newer one that is damaged is the usual reason to choose an older one.
    step = checkpoint.manifest.step
    for path in [path for path in list_checkpoints(root) if step_of(path) >= step and not path.samefile(chosen)]:
        kept = set_aside(path)
        note(f"{path} is newer than {chosen} and is set aside, where {kept.name} keeps its manifest")
    return chosen


def set_aside(directory: Path) -> Path:
    """Make this no checkpoint any more; returns where its manifest lies now.

    Raises:
        StorageError: its manifest cannot be renamed.
    """
    aside = directory / ASIDE
    for number in itertools.count(2):
        if not aside.exists():
            break
        aside = directory / f"{ASIDE}.{number}"
    try:
        (directory / FILE_NAME).rename(aside)
    except OSError as error:
        raise cannot_write(directory / FILE_NAME, error) from None
    return aside
