"""Wide & Deep (Cheng et al. 2016), with embeddings in the wide part.

    deep = MLP(dense), or MLP([dense, embeddings]) with `deep_inputs="all"`
    logit = Linear([embeddings, deep])

Shapes: `B` examples, `F` dense features, `L` labels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.base import register_model
from bagpipe.models.layers import check_pooled, linear, mlp
from bagpipe.tables import TableLayout


@register_model("wdl")
class WideAndDeep(nn.Module):
    """The whole model; tables may have any widths.

    Args:
        bottom_mlp: widths of the deep part.
        deep_inputs: what the deep part sees: the dense features, or the embeddings too.

    Raises:
        ConfigError: a table without pooling, or nothing for the deep part to see.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_dense: int,
        num_labels: int = 1,
        bottom_mlp: Sequence[int] = (256, 256, 256),
        deep_inputs: Literal["dense", "all"] = "dense",
    ) -> None:
        super().__init__()
        check_pooled(layout, "wdl")
        if deep_inputs == "dense" and num_dense == 0:
            raise ConfigError("model wdl: deepInputs dense needs dense features, found none; set deepInputs: all")
        width = sum(t.embedding_dim * len(t.feature_names) for t in layout.tables)
        self.sees_embeddings = deep_inputs == "all"
        self.deep = mlp(num_dense + (width if self.sees_embeddings else 0), bottom_mlp, last_is_linear=False)
        self.wide = linear(width + bottom_mlp[-1], num_labels)

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        embeddings = sparse.concatenated()
        inputs = torch.cat([dense_BF, embeddings], dim=1) if self.sees_embeddings else dense_BF
        logits_BL: torch.Tensor = self.wide(torch.cat([embeddings, self.deep(inputs)], dim=1))
        return logits_BL
