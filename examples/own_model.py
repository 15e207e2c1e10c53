"""A model of your own: embeddings in, logits out, nothing about caching.

    bagpipe run examples/own-model.yaml

Its class is called with what it declares of `layout` (the tables), `num_dense` and `num_labels`, and with
`model.args` of the job. A method `loss(logits, labels)` would replace the job's loss.
"""

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.models.base import register_model
from bagpipe.models.layers import Dropout
from bagpipe.tables import TableLayout


@register_model("gated")  # so that code that imports this file can also say `name: gated`
class Gated(nn.Module):
    """One gate for each feature, computed from the dense features, in front of an MLP."""

    def __init__(self, layout: TableLayout, num_dense: int, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        num_features = sum(len(table.feature_names) for table in layout.tables)
        width = sum(table.embedding_dim * len(table.feature_names) for table in layout.tables)
        self.gates = nn.Sequential(nn.Linear(num_dense, num_features), nn.Sigmoid())
        # Bagpipe's Dropout: the same masks after a resume and on any number of trainers.
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, 1))

    def forward(self, dense: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        """`dense` is [B, F]; `sparse.stacked()` is [B, T, D], `sparse["name"]` one feature's [B, D]."""
        gated = sparse.stacked() * self.gates(dense).unsqueeze(2)
        logits: torch.Tensor = self.mlp(gated.flatten(1))
        return logits
