"""A checkpoint's model in this process, over encoded examples: no servers, no oracle, read-only."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import safetensors.torch
import torch
from torch import nn

from bagpipe.batch import Floats, Keys
from bagpipe.cache.aligned import aligned
from bagpipe.cache.lookup import Lookups, SparseEmbeddings
from bagpipe.checkpoint.dense_files import weights_in_use
from bagpipe.checkpoint.kept_rows import kept_rows
from bagpipe.checkpoint.store import Checkpoint
from bagpipe.data.examples import Examples
from bagpipe.data.transform import Transform
from bagpipe.errors import UserCodeError
from bagpipe.models.base import build_model, naming_the_trained_model
from bagpipe.models.precision import forward_of
from bagpipe.standalone.tensors import check_weights
from bagpipe.tables import WidthGroup
from bagpipe.trainer.loop import num_threads
from bagpipe.trainer.user_code import naming_user_code


class RowWeights(Protocol):
    """The weights of one width group's rows."""

    @property
    def group(self) -> WidthGroup: ...

    def weights(self, keys_K: Keys) -> Floats:
        """Weights of these rows, `[K, D]` float32."""
        ...


class Scorer:
    """A model and the rows that it looks up.

    Args:
        rows: of each width group; None: the checkpoint's.

    Raises:
        CheckpointError: a file is missing or damaged, or its weights are not those of the job's model.
        UserCodeError: the model's constructor raised.
    """

    def __init__(self, checkpoint: Checkpoint, transform: Transform, rows: Sequence[RowWeights] | None = None) -> None:
        manifest = checkpoint.manifest
        self.spec, self.layout = manifest.spec, manifest.layout
        info = transform.info
        with naming_user_code([]), naming_the_trained_model(self.spec.model):
            model = build_model(self.spec.model, self.layout, len(info.dense), info.num_labels, self.spec.seed)
        weights = _dense_weights(checkpoint)
        check_weights(str(checkpoint.directory), model.state_dict(), weights)
        model.load_state_dict(weights)
        self.model: nn.Module = model.eval()
        self.forward = forward_of(self.spec.model)
        self._rows = kept_rows(checkpoint) if rows is None else rows
        torch.set_num_threads(num_threads(self.spec, self.spec.trainers.replicas))

    def logits(self, examples: Examples) -> Floats:
        """The model's outputs, `[B, L]` float32.

        Raises:
            UserCodeError: the model raised, or gave something else than equally many numbers for each example.
        """
        with naming_user_code([self.model]), torch.no_grad():
            out = self.forward(self.model, aligned(examples.dense_BF), self.embeddings(examples))
        if out.numel() % len(examples):
            raise UserCodeError(
                f"model {type(self.model).__name__}: forward: expected outputs [{len(examples)}, L], one row for each "
                f"example, found {list(out.shape)}; change what it returns where self.training is False"
            )
        found: Floats = out.numpy().reshape(len(examples), -1)
        return found

    def embeddings(self, examples: Examples) -> SparseEmbeddings:
        """What the dense model receives for its sparse features."""
        weights, lookups = [], []
        for rows, block in zip(self._rows, examples.sparse, strict=True):
            distinct, inverse = np.unique(block.keys_N, return_inverse=True)
            weights.append(aligned(rows.weights(distinct)))
            lookups.append(Lookups(inverse.astype(np.int32), block.lengths_BT, block.weights_N))
        return SparseEmbeddings.of_lookups(self.layout, weights, lookups)


def _dense_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = safetensors.torch.load(checkpoint.read(weights_in_use(checkpoint)))
    return found
