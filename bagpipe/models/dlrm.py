"""DLRM (Naumov et al. 2019): dense features and embeddings interact by dot products.

Names are torchrec's: DenseArch, InteractionArch, OverArch. First weights are those of the paper's code:
W ~ N(0, sqrt(2 / (in + out))), b ~ N(0, sqrt(1 / out)).

Shapes: `B` examples, `F` dense features, `T` sparse features, `D` embedding_dim, `L` labels,
`C` = T + 1 interacting vectors (T without dense features).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.base import register_model
from bagpipe.tables import TableLayout


class DenseArch(nn.Module):
    """Dense features to one vector of the embedding's width; ReLU after every layer."""

    def __init__(self, num_dense: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = _mlp(num_dense, widths, last_is_linear=False)

    def forward(self, dense_BF: torch.Tensor) -> torch.Tensor:
        out_BD: torch.Tensor = self.layers(dense_BF)
        return out_BD


class InteractionArch(nn.Module):
    """Dot products of all pairs of vectors: the strictly lower triangle, row by row."""

    pairs: torch.Tensor
    pair_of: torch.Tensor

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        row, column = torch.tril_indices(num_vectors, num_vectors, offset=-1)
        pairs = row * num_vectors + column
        pair_of = torch.full((num_vectors * num_vectors,), pairs.numel())
        pair_of[pairs] = pair_of[column * num_vectors + row] = torch.arange(pairs.numel())
        # Derived from the shape alone, so they are no part of the saved weights.
        self.register_buffer("pairs", pairs, persistent=False)
        self.register_buffer("pair_of", pair_of, persistent=False)

    @property
    def num_pairs(self) -> int:
        return self.pairs.numel()

    def forward(self, vectors_BCD: torch.Tensor) -> torch.Tensor:
        products: torch.Tensor = _Interaction.apply(vectors_BCD, self.pairs, self.pair_of)  # type: ignore[no-untyped-call]
        return products


class _Interaction(torch.autograd.Function):
    """Its gradient by hand: one symmetric product instead of two and no scatter (2.2 times faster).

    `pairs` are the places of the triangle in the flat [C, C] matrix, `pair_of` is each place's pair; the
    diagonal's is a further one, whose gradient is zero.
    """

    @staticmethod
    def forward(ctx: Any, vectors_BCD: torch.Tensor, pairs: torch.Tensor, pair_of: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(vectors_BCD, pair_of)
        products_BCC = torch.bmm(vectors_BCD, vectors_BCD.transpose(1, 2))
        return products_BCC.flatten(1).index_select(1, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        vectors_BCD, pair_of = ctx.saved_tensors
        b, c, _ = vectors_BCD.shape
        with_diagonal = torch.cat([grad, grad.new_zeros((b, 1))], dim=1)
        return torch.bmm(with_diagonal.index_select(1, pair_of).view(b, c, c), vectors_BCD), None, None


class OverArch(nn.Module):
    """The top MLP, to logits; ReLU between layers."""

    def __init__(self, num_inputs: int, widths: Sequence[int], num_labels: int) -> None:
        super().__init__()
        self.layers = _mlp(num_inputs, (*widths, num_labels), last_is_linear=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits_BL: torch.Tensor = self.layers(inputs)
        return logits_BL


@register_model("dlrm")
class DLRM(nn.Module):
    """The whole model. It has no dropout: a run's random state would have to be part of every checkpoint.

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
        bottom_mlp: Sequence[int] = (512, 256),
        over_mlp: Sequence[int] = (512, 256),
    ) -> None:
        super().__init__()
        dim, num_features = _width_and_features(layout)
        self.dense_arch = DenseArch(num_dense, (*bottom_mlp, dim)) if num_dense else None
        self.interaction_arch = InteractionArch(num_features + (1 if num_dense else 0))
        num_inputs = self.interaction_arch.num_pairs + (dim if num_dense else dim * num_features)
        self.over_arch = OverArch(num_inputs, over_mlp, num_labels)

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        if self.dense_arch is None:
            # Nothing stands for the dense part, so the over arch sees the embeddings themselves.
            vectors_BCD = sparse.stacked()
            beside = vectors_BCD.flatten(1)
        else:
            beside = self.dense_arch(dense_BF)  # First: the rows are on their way meanwhile.
            vectors_BCD = torch.cat([beside.unsqueeze(1), sparse.stacked()], dim=1)
        logits_BL: torch.Tensor = self.over_arch(torch.cat([beside, self.interaction_arch(vectors_BCD)], dim=1))
        return logits_BL


def _width_and_features(layout: TableLayout) -> tuple[int, int]:
    widths = sorted({t.embedding_dim for t in layout.tables})
    if len(widths) != 1:
        found = ", ".join(map(str, widths)) or "no tables"
        raise ConfigError(
            f"model dlrm: expected tables of one width, because vectors of different widths have no dot product; "
            f"found {found}; give all tables one embeddingDim or use a model of your own (model.entrypoint)"
        )
    for table in layout.tables:
        if table.pooling == "none":
            raise ConfigError(
                f'model dlrm: expected pooling "sum" or "mean", found "none" for table {table.name}; '
                "change its pooling or use a model of your own (model.entrypoint)"
            )
    return widths[0], sum(len(t.feature_names) for t in layout.tables)


def _mlp(num_inputs: int, widths: Sequence[int], *, last_is_linear: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        layers.append(_linear(num_inputs, width))
        if not last_is_linear or number < len(widths) - 1:
            layers.append(nn.ReLU())
        num_inputs = width
    return nn.Sequential(*layers)


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (num_inputs + num_outputs)))
    nn.init.normal_(layer.bias, 0.0, math.sqrt(1.0 / num_outputs))
    return layer
