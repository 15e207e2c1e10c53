"""A checkpoint beside the uncached reference: is every row and every weight the same, to the bit?"""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy

from bagpipe.batch import Floats
from bagpipe.checkpoint.digest import DENSE_WEIGHTS, sorted_rows
from bagpipe.checkpoint.store import Checkpoint, open_checkpoint
from bagpipe.config import JobSpec
from bagpipe.data.dataset import open_dataset
from bagpipe.testing.reference import ReferenceRun, train_reference


def rows_of(checkpoint: Checkpoint) -> dict[tuple[str, int], Floats]:
    """Every record, by table and row."""
    found = {}
    for number, group in enumerate(checkpoint.manifest.layout.groups):
        for keys, records in sorted_rows(checkpoint, number):
            member = np.searchsorted(group.offsets, keys, side="right") - 1
            for at, key, record in zip(member.tolist(), keys.tolist(), records, strict=True):
                found[group.tables[at].name, key - group.offsets[at]] = record
    return found


def reference_of(
    directory: Path, *, data_path: str | tuple[str, ...], work_dir: Path, **changes: object
) -> ReferenceRun:
    """Train what a checkpoint describes again, without a cache.

    Args:
        data_path: where its data lies, seen from here.
        changes: settings of the spec that the checkpoint does not know.
    """
    manifest = open_checkpoint(directory).manifest
    spec: JobSpec = msgspec.structs.replace(
        manifest.spec, data=msgspec.structs.replace(manifest.spec.data, path=data_path), **changes
    )
    dataset = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=work_dir)
    batches = dataset.train_batches(spec.batch_size)
    return train_reference(
        itertools.islice(batches, manifest.step),
        dataset.layout,
        spec,
        num_dense=dataset.num_dense,
        num_labels=dataset.num_labels,
        world_size=manifest.num_trainers,
    )


def differences(directory: Path, expected: ReferenceRun) -> list[str]:
    """Names of rows and dense weights that differ in any bit, or that only one of the two has."""
    rows = rows_of(open_checkpoint(directory))
    dense = safetensors.numpy.load_file(directory / DENSE_WEIGHTS)
    found = {f"{table} row {row}": record.tobytes() for (table, row), record in rows.items()}
    found |= {name: weights.tobytes() for name, weights in dense.items()}
    wanted = {f"{table} row {row}": np.asarray(r).tobytes() for (table, row), r in expected.records.items()}
    wanted |= {name: weights.numpy().tobytes() for name, weights in expected.dense.items()}
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
