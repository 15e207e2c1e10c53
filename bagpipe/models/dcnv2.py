"""Deep & Cross, version 2, full rank (Wang et al. 2021).

    x0      = [embeddings, dense]
    x(l+1)  = x0 * (W_l x_l + b_l) + x_l           W_l: [width, width]
    logit   = Linear([x_last, MLP(x0)])            crossStructure: parallel
    logit   = Linear(MLP(x_last))                  crossStructure: stacked

`dcn` is the variant whose matrices are products of two narrow ones.

Shapes: `B` examples, `F` dense features, `X` width of x0, `L` labels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.models.base import register_model
from bagpipe.models.layers import check_pooled, linear, mlp, xavier
from bagpipe.tables import TableLayout


class CrossNet(nn.Module):
    """Cross layers; matrices begin with Xavier's normal distribution, biases with zero."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(xavier(nn.Linear(width, width)) for _ in range(num_layers))

    def forward(self, x0_BX: torch.Tensor) -> torch.Tensor:
        x_BX = x0_BX
        for layer in self.layers:
            x_BX = x0_BX * layer(x_BX) + x_BX
        return x_BX


@register_model("dcnv2")
class DeepAndCrossFull(nn.Module):
    """The whole model; tables may have any widths.

    Args:
        over_mlp: widths of the deep part.
        cross_layers: layers of the cross net.
        cross_structure: the deep part beside the cross net, or behind it.

    Raises:
        ConfigError: a table without pooling.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_dense: int,
        num_labels: int = 1,
        over_mlp: Sequence[int] = (768, 768),
        cross_layers: int = 3,
        cross_structure: Literal["parallel", "stacked"] = "parallel",
    ) -> None:
        super().__init__()
        check_pooled(layout, "dcnv2")
        width = num_dense + sum(t.embedding_dim * len(t.feature_names) for t in layout.tables)
        self.parallel = cross_structure == "parallel"
        self.cross_net = CrossNet(width, cross_layers)
        self.deep = mlp(width, over_mlp, last_is_linear=False)
        deepest = over_mlp[-1] if over_mlp else width
        self.logit = linear(deepest + (width if self.parallel else 0), num_labels)

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        x0_BX = torch.cat([sparse.concatenated(), dense_BF], dim=1)
        crossed_BX = self.cross_net(x0_BX)
        if self.parallel:
            inputs = torch.cat([crossed_BX, self.deep(x0_BX)], dim=1)
        else:
            inputs = self.deep(crossed_BX)
        logits_BL: torch.Tensor = self.logit(inputs)
        return logits_BL
