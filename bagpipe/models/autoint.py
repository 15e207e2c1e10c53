"""AutoInt (Song et al. 2019): features interact by self-attention.

    e_m     = the embedding of a sparse feature; a dense feature's value times a vector of its own
    layer   : for each head, e_m' = sum over k of softmax_k(<Wq e_m, Wk e_k>) Wv e_k; heads side by side;
              e_m = ReLU(e_m' + Wr e_m)
    logit   = Linear([e_1, ..., e_M]), plus MLP of the first e with `overMlp` (AutoInt+)

Shapes: `B` examples, `F` dense features, `M` features of both kinds, `D` width of a vector, `H` heads, `A` units of a
head, `L` labels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.models.base import register_model
from bagpipe.models.layers import linear, mlp, width_and_features, xavier
from bagpipe.tables import TableLayout


class InteractingLayer(nn.Module):
    """One layer of self-attention over the features, with a way around it; `[B, M, D]` to `[B, M, H * A]`."""

    def __init__(self, dim: int, heads: int, units: int) -> None:
        super().__init__()
        self.heads, self.units = heads, units
        self.query, self.key, self.value, self.around = (
            xavier(nn.Linear(dim, heads * units, bias=False)) for _ in range(4)
        )

    def forward(self, vectors_BMD: torch.Tensor) -> torch.Tensor:
        query, key, value = (self._by_head(part(vectors_BMD)) for part in (self.query, self.key, self.value))
        attention_BHMM = torch.softmax(query @ key.transpose(2, 3), dim=3)
        mixed = (attention_BHMM @ value).transpose(1, 2).flatten(2)
        out: torch.Tensor = torch.relu(mixed + self.around(vectors_BMD))
        return out

    def _by_head(self, vectors_BMX: torch.Tensor) -> torch.Tensor:
        return vectors_BMX.view(*vectors_BMX.shape[:2], self.heads, self.units).transpose(1, 2)


@register_model("autoint")
class AutoInt(nn.Module):
    """The whole model.

    Args:
        attention_layers: interacting layers.
        attention_heads: heads of each.
        attention_dim: units of each head.
        over_mlp: widths of an MLP beside the attention, over the vectors that enter it; none: no such part.

    Raises:
        ConfigError: tables of several widths or without pooling.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_dense: int,
        num_labels: int = 1,
        attention_layers: int = 3,
        attention_heads: int = 2,
        attention_dim: int = 16,
        over_mlp: Sequence[int] = (),
    ) -> None:
        super().__init__()
        dim, num_features = width_and_features(layout, "autoint")
        num_vectors, wide = num_features + num_dense, attention_heads * attention_dim
        self.dense_vectors = nn.Parameter(torch.empty(num_dense, dim).normal_(0.0, dim**-0.5)) if num_dense else None
        widths = [dim, *[wide] * attention_layers]
        self.layers = nn.ModuleList(InteractingLayer(w, attention_heads, attention_dim) for w in widths[:-1])
        self.logit = linear(num_vectors * widths[-1], num_labels)
        self.deep = mlp(num_vectors * dim, (*over_mlp, num_labels), last_is_linear=True) if over_mlp else None

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        vectors_BMD = sparse.stacked()
        if self.dense_vectors is not None:
            vectors_BMD = torch.cat([vectors_BMD, dense_BF.unsqueeze(2) * self.dense_vectors], dim=1)
        interacting = vectors_BMD
        for layer in self.layers:
            interacting = layer(interacting)
        logits_BL: torch.Tensor = self.logit(interacting.flatten(1))
        return logits_BL if self.deep is None else logits_BL + self.deep(vectors_BMD.flatten(1))
