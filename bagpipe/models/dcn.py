"""Deep & Cross, version 2, low rank (Wang et al. 2021).

    x0      = [MLP(dense), embeddings]
    x(l+1)  = x0 * (W_l V_l x_l + b_l) + x_l        V_l: [rank, width], W_l: [width, rank]
    logit   = MLP(x_last)

Shapes: `B` examples, `F` dense features, `X` width of x0, `L` labels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.models.base import register_model
from bagpipe.models.dlrm import DenseArch, OverArch
from bagpipe.models.layers import width_and_features, xavier
from bagpipe.tables import TableLayout


class LowRankCrossNet(nn.Module):
    """Cross layers; matrices begin with Xavier's normal distribution, biases with zero."""

    def __init__(self, width: int, num_layers: int, rank: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(xavier(nn.Linear(width, rank, bias=False)) for _ in range(num_layers))
        self.up = nn.ModuleList(xavier(nn.Linear(rank, width)) for _ in range(num_layers))

    def forward(self, x0_BX: torch.Tensor) -> torch.Tensor:
        x_BX = x0_BX
        for down, up in zip(self.down, self.up, strict=True):
            x_BX = x0_BX * up(down(x_BX)) + x_BX
        return x_BX


@register_model("dcn")
class DeepAndCross(nn.Module):
    """The whole model.

    Args:
        bottom_mlp: widths of the dense arch; the embedding's width is appended.
        over_mlp: widths of the over arch; the labels' number is appended.

    Raises:
        ConfigError: tables of several widths or without pooling.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_dense: int,
        num_labels: int = 1,
        bottom_mlp: Sequence[int] = (1024, 512, 256, 64),
        over_mlp: Sequence[int] = (1024, 512, 256),
        cross_layers: int = 2,
        cross_rank: int = 8,
    ) -> None:
        super().__init__()
        dim, num_features = width_and_features(layout, "dcn")
        self.dense_arch = DenseArch(num_dense, (*bottom_mlp, dim)) if num_dense else None
        width = dim * (num_features + (1 if num_dense else 0))
        self.cross_net = LowRankCrossNet(width, cross_layers, cross_rank)
        self.over_arch = OverArch(width, over_mlp, num_labels)

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        if self.dense_arch is None:
            x0_BX = sparse.concatenated()
        else:
            dense_BD = self.dense_arch(dense_BF)  # First: the rows are on their way meanwhile.
            x0_BX = torch.cat([dense_BD, sparse.concatenated()], dim=1)
        logits_BL: torch.Tensor = self.over_arch(self.cross_net(x0_BX))
        return logits_BL
