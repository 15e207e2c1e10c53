"""The files of dense weights in a checkpoint, and which of them a model is evaluated with."""

from bagpipe.checkpoint.store import Checkpoint
from bagpipe.errors import CheckpointError
from bagpipe.net.messages import SnapshotFile

DENSE_WEIGHTS = "dense.safetensors"
"""The weights that are trained."""
DENSE_AVERAGE = "dense_average.safetensors"
"""With `optimizer.average`: the same tensors, with the averages of the trained ones."""


def weights_in_use(checkpoint: Checkpoint) -> SnapshotFile:
    """The weights to evaluate, export and predict with: the average where there is one.

    Raises:
        CheckpointError: the loop that trained the rows gave no model to be saved with them.
    """
    files = {file.name: file for file in checkpoint.manifest.dense}
    found = files.get(DENSE_AVERAGE) or files.get(DENSE_WEIGHTS)
    if found is None:
        raise CheckpointError(
            f"{checkpoint.directory}: holds rows of tables and no dense weights, because the loop that trained it gave "
            "no model; train again with cache.attach(model, optimizer) before the loop (`bagpipe export --table` "
            "writes its rows)"
        )
    return found
