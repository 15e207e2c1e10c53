"""The batch that a user's own training loop is given."""

from collections.abc import Callable
from typing import TypedDict

import torch

from bagpipe.cache.lookup import SparseEmbeddings


class BatchDict(TypedDict):
    """One trainer's slice of a batch, on the CPU: B examples, F dense features, T sparse features, L labels."""

    dense_x: torch.Tensor
    """`[B, F]` float32."""
    sparse_vector: "torch.Tensor | list[torch.Tensor]"
    """Ids, int64, in the order of the job's tables: a tensor `[T, B]`; where features have several lookups, a list of T
    tensors `[B, k]`, in which shorter bags end in -1."""
    target: torch.Tensor
    """`[B, L]` float32."""
    embeddings: SparseEmbeddings
    """Pooled, by feature, as `bagpipe.models` take them. Rows are awaited when the model first asks for one."""


Evaluate = Callable[[BatchDict], torch.Tensor]
"""From a batch of the test part to its logits `[B, L]`; called without gradients."""
