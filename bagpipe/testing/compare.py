"""Where does a run differ from the uncached reference? Nowhere, to the bit (contract X1)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from bagpipe.batch import Floats
from bagpipe.checkpoint.dense_files import DENSE_AVERAGE
from bagpipe.checkpoint.digest import sorted_rows
from bagpipe.checkpoint.store import Checkpoint, newest_complete, open_checkpoint
from bagpipe.errors import CheckpointError
from bagpipe.testing.reference import ReferenceRun
from bagpipe.testing.threads import ThreadedRun


def differences(run: ThreadedRun, expected: ReferenceRun) -> list[str]:
    """Names of what differs: losses, rows with their state (all that were touched), dense weights and buffers.

    Raises:
        CheckpointError: the run left no complete checkpoint.
    """
    newest = newest_complete(run.run_dir / "checkpoints")
    if newest is None:
        raise CheckpointError(f"{run.run_dir}: expected a complete checkpoint, found none")
    return checkpoint_differences(newest, run.losses, expected)


def checkpoint_differences(directory: Path, losses: Sequence[float], expected: ReferenceRun) -> list[str]:
    """The same of a run that left a checkpoint and told its losses."""
    found = [] if list(losses) == list(expected.losses) else ["losses"]
    rows = rows_of(open_checkpoint(directory))
    dense = safetensors.numpy.load_file(directory / "dense.safetensors")
    found += [f"row {name}" for name in sorted(rows.keys() ^ expected.records.keys())]
    for name, record in expected.records.items():
        if name in rows and np.asarray(record).tobytes() != rows[name].tobytes():
            found.append(f"row {name}")
    found += [f"dense {name}" for name in sorted(dense.keys() ^ expected.dense.keys())]
    for key, weights in expected.dense.items():
        if key in dense and weights.numpy().tobytes() != dense[key].tobytes():
            found.append(f"dense {key}")
    if expected.average is not None:
        kept = safetensors.numpy.load_file(directory / DENSE_AVERAGE)
        for key, weights in expected.average.items():
            if weights.numpy().tobytes() != kept[key].tobytes():
                found.append(f"average of {key}")
    return found


def rows_of(checkpoint: Checkpoint) -> dict[tuple[str, int], Floats]:
    """Every record of a checkpoint, by table and row."""
    found = {}
    for number, group in enumerate(checkpoint.manifest.layout.groups):
        for keys, records in sorted_rows(checkpoint, number):
            member = np.searchsorted(group.offsets, keys, side="right") - 1
            for at, key, record in zip(member.tolist(), keys.tolist(), records, strict=True):
                found[group.tables[at].name, key - group.offsets[at]] = record
    return found
