"""DeepFM (Guo et al. 2017): a factorisation machine and an MLP over the same embeddings.

    logit = bias + sum of first-order weights + sum over pairs <v_i, v_j> + MLP([v_1, ..., v_T])

A row holds its first-order weight and its factors side by side, `[1 + K]`: one lookup, one cached row and one
message carry both. As a dense weight, the first-order table of Criteo would be 135 MB in every all-reduce.
Dense features are not used; let them be looked up (`data.numericBins`).

Shapes: `B` examples, `T` features, `K` factors, `L` labels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.base import register_model
from bagpipe.models.layers import BatchNorm, Dropout, linear, width_and_features
from bagpipe.tables import TableLayout


@register_model("deepfm")
class DeepFM(nn.Module):
    """The whole model.

    Args:
        over_mlp: widths of the deep part's layers; the logit is appended.
        dropout: share of each layer's outputs set to zero while training.
        batch_norm: normalise each layer before its ReLU.

    Raises:
        ConfigError: tables of several widths, without pooling, or too narrow for a factor.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_labels: int = 1,
        over_mlp: Sequence[int] = (64, 64, 64),
        dropout: float = 0.5,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        dim, num_features = width_and_features(layout, "deepfm")
        if dim < 2:
            raise ConfigError(
                f"model deepfm: expected an embedding width of at least 2 (a first-order weight and factors), "
                f"found {dim}; raise embedding.dim"
            )
        if num_labels != 1:
            raise ConfigError(f"model deepfm: expected one label, found {num_labels}; use a model of your own")
        self.bias = nn.Parameter(torch.zeros(1))
        self.deep = _deep((dim - 1) * num_features, over_mlp, dropout, batch_norm)

    def forward(self, _dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        rows_BTD = sparse.stacked()
        first_order_B1 = rows_BTD[:, :, 0].sum(dim=1, keepdim=True)
        factors_BTK = rows_BTD[:, :, 1:]
        # Pairs by the identity 2 sum <v_i, v_j> = |sum v_i|^2 - sum |v_i|^2.
        pairs_BK = factors_BTK.sum(dim=1).square() - factors_BTK.square().sum(dim=1)
        second_order_B1 = 0.5 * pairs_BK.sum(dim=1, keepdim=True)
        logits_B1: torch.Tensor = self.bias + first_order_B1 + second_order_B1 + self.deep(factors_BTK.flatten(1))
        return logits_B1


def _deep(num_inputs: int, widths: Sequence[int], dropout: float, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(linear(num_inputs, width))
        if batch_norm:
            layers.append(BatchNorm(width))
        layers += [nn.ReLU(), Dropout(dropout)]
        num_inputs = width
    return nn.Sequential(*layers, linear(num_inputs, 1))
