"""Trains a checkpoint's job again without a cache: the reference for a run that is already over."""

import itertools
from pathlib import Path

import msgspec

from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.config.document import JobSpec
from bagpipe.data.dataset import open_dataset
from bagpipe.testing.reference import ReferenceRun, train_reference


def reference_of(
    directory: Path, *, data_path: str | tuple[str, ...], work_dir: Path, **changes: object
) -> ReferenceRun:
    """Train to the checkpoint's step, from the beginning.

    Args:
        data_path: where its data lies, seen from here.
        changes: settings of the spec that the checkpoint does not know.
    """
    manifest = open_checkpoint(directory).manifest
    data = msgspec.structs.replace(manifest.spec.data, path=data_path)
    spec: JobSpec = msgspec.structs.replace(manifest.spec, data=data, **changes)
    dataset = open_dataset(spec.data, spec.embedding, seed=spec.seed, work_dir=work_dir)
    return train_reference(
        itertools.islice(dataset.train_batches(spec.batch_size), manifest.step),
        dataset.layout,
        spec,
        num_dense=dataset.num_dense,
        num_labels=dataset.num_labels,
        world_size=manifest.num_trainers,
    )
