"""DLRM (Naumov et al. 2019): dense features and embeddings interact by dot products.

Names are torchrec's: DenseArch, InteractionArch, OverArch. First weights are those of the paper's code:
W ~ N(0, sqrt(2 / (in + out))), b ~ N(0, sqrt(1 / out)).

Shapes: `B` examples, `F` dense features, `T` sparse features, `D` embedding_dim, `L` labels,
`C` = T + 1 interacting vectors (T without dense features).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.models.base import register_model
from bagpipe.models.layers import mlp, width_and_features
from bagpipe.tables import TableLayout


class DenseArch(nn.Module):
    """Dense features to one vector of the embedding's width; ReLU after every layer."""

    def __init__(self, num_dense: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = mlp(num_dense, widths, last_is_linear=False)

    def forward(self, dense_BF: torch.Tensor) -> torch.Tensor:
        out_BD: torch.Tensor = self.layers(dense_BF)
        return out_BD


class InteractionArch(nn.Module):
    """Dot products of all pairs of vectors: the lower triangle, row by row; its diagonal if `itself`."""

    pairs: torch.Tensor
    pair_of: torch.Tensor

    def __init__(self, num_vectors: int, *, itself: bool = False) -> None:
        super().__init__()
        self.itself = itself
        row, column = torch.tril_indices(num_vectors, num_vectors, offset=0 if itself else -1)
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
        if self.itself:  # rare, and its gradient has a factor 2 on the diagonal: torch's own
            return torch.bmm(vectors_BCD, vectors_BCD.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        products: torch.Tensor = _Interaction.apply(vectors_BCD, self.pairs, self.pair_of)  # type: ignore[no-untyped-call]  # torch has not annotated it
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
        symmetric_BCC = with_diagonal.index_select(1, pair_of).view(b, c, c)
        # Under autocast products are narrower than the vectors, and so are their gradients.
        return torch.bmm(symmetric_BCC, vectors_BCD.to(grad.dtype)).to(vectors_BCD.dtype), None, None


class OverArch(nn.Module):
    """The top MLP, to logits; ReLU between layers."""

    def __init__(self, num_inputs: int, widths: Sequence[int], num_labels: int) -> None:
        super().__init__()
        self.layers = mlp(num_inputs, (*widths, num_labels), last_is_linear=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits_BL: torch.Tensor = self.layers(inputs)
        return logits_BL


@register_model("dlrm")
class DLRM(nn.Module):
    """The whole model.

    Args:
        bottom_mlp: widths of the dense arch; the embedding's width is appended.
        over_mlp: widths of the over arch; the labels' number is appended.
        interaction: dot products of all pairs of vectors, or the vectors side by side.
        interaction_itself: also each vector's product with itself.

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
        interaction: Literal["dot", "cat"] = "dot",
        interaction_itself: bool = False,
    ) -> None:
        super().__init__()
        dim, num_features = width_and_features(layout, "dlrm")
        self.dense_arch = DenseArch(num_dense, (*bottom_mlp, dim)) if num_dense else None
        num_vectors = num_features + (1 if num_dense else 0)
        self.interaction_arch = (
            InteractionArch(num_vectors, itself=interaction_itself) if interaction == "dot" else None
        )
        num_inputs = dim * num_vectors
        if self.interaction_arch is not None:
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
        if self.interaction_arch is None:
            inputs = vectors_BCD.flatten(1)
        else:
            inputs = torch.cat([beside, self.interaction_arch(vectors_BCD)], dim=1)
        logits_BL: torch.Tensor = self.over_arch(inputs)
        return logits_BL
