"""The files of dense weights in a checkpoint, and which of them a model is evaluated with."""

from bagpipe.checkpoint.store import Checkpoint
from bagpipe.net.messages import SnapshotFile

DENSE_WEIGHTS = "dense.safetensors"
"""The weights that are trained."""
DENSE_AVERAGE = "dense_average.safetensors"
"""With `optimizer.average`: the same tensors, with the averages of the trained ones."""


def weights_in_use(checkpoint: Checkpoint) -> SnapshotFile | None:
    """The weights to evaluate, export and predict with: the average where there is one."""
    found = {file.name: file for file in checkpoint.manifest.dense}
    return found.get(DENSE_AVERAGE) or found.get(DENSE_WEIGHTS)
