"""Makes the weights whose sizes a model leaves to its first forward pass (`nn.LazyLinear` and the like).

The optimizer, the other trainers and a checkpoint need all weights before the first step.
"""

from itertools import chain

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bagpipe.cache.lookup import Lookups, SparseEmbeddings
from bagpipe.tables import TableLayout


def make_lazy_weights(model: nn.Module, layout: TableLayout, num_dense: int) -> None:
    """Let a model that has such weights compute on two examples of zeros, each with one lookup of every feature.

    The model's mode is as before. What `forward` raises is the user's error, with its line.
    """
    if not any(map(is_lazy, chain(model.parameters(), model.buffers()))):
        return
    rows = [torch.zeros(1, group.embedding_dim) for group in layout.groups]
    lookups = [Lookups(np.zeros(2 * len(group.feature_names), np.int32)) for group in layout.groups]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(2, num_dense), SparseEmbeddings.of_lookups(layout, rows, lookups))
    finally:
        for module, training in modes:
            module.training = training
