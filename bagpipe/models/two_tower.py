"""Two towers (Covington et al. 2016, Yi et al. 2019): users and items become vectors, whose product is the logit.

    user, item = MLP(its embeddings and, for the user, the dense features)
    logit      = <user, item> / temperature

With `negatives: in-batch` the model has a loss of its own: each user against the items of all examples of the slice, of
which its own is the right one,

    loss       = mean of -log softmax_j(<user_i, item_j> / temperature - logQ_j) at j = i

over examples whose label is 1. `logQ` is the last dense feature, the logarithm of the item's share of the examples: an
item that is often in the slice is often a negative, and would be pushed down for that alone. Other examples of the
slice take part, so results depend on the batch size and the number of trainers.

With `normalise` both vectors have length one, so that the product is their cosine. `user(...)` and `item(...)` give the
vectors, so that all items are scored for all users by one matrix product.

Shapes: `B` examples, `F` dense features, `V` width of a tower's vector.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.base import register_model
from bagpipe.models.comparing import in_batch_softmax
from bagpipe.models.layers import check_pooled, mlp
from bagpipe.tables import TableLayout


@register_model("two-tower")
class TwoTower(nn.Module):
    """The whole model; tables may have any widths.

    Args:
        item_features: features of the item's tower; all others, and dense features, are the user's.
        tower_mlp: widths of each tower; the last is its vector's, and has no ReLU.
        temperature: divides the product.
        normalise: give each vector length one.
        negatives: in-batch: train by the softmax over the slice's items.
        log_q: the last dense feature is the logarithm of the item's share, and corrects that softmax.

    Raises:
        ConfigError: a tower has no features, a feature is not in the job, a table is not pooled, or log_q has no
            effect.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_dense: int,
        item_features: Sequence[str],
        num_labels: int = 1,
        tower_mlp: Sequence[int] = (64, 32),
        temperature: float = 1.0,
        normalise: bool = False,
        negatives: Literal["none", "in-batch"] = "none",
        log_q: bool = False,
    ) -> None:
        super().__init__()
        check_pooled(layout, "two-tower")
        widths = {feature: t.embedding_dim for t in layout.tables for feature in t.feature_names}
        self.item_features = list(item_features)
        self.user_features = [feature for feature in widths if feature not in self.item_features]
        self.num_inputs = num_dense - log_q
        _check(self.item_features, self.user_features, widths, num_labels, self.num_inputs)
        if log_q and (negatives == "none" or not num_dense):
            raise ConfigError(
                "model two-tower: logQ needs negatives: in-batch and a dense feature, the last; give both"
            )
        self.temperature, self.normalise, self.log_q = temperature, normalise, log_q
        if negatives == "in-batch":
            self.loss = self.loss_in_batch
        self.user_tower = mlp(
            self.num_inputs + sum(widths[f] for f in self.user_features), tower_mlp, last_is_linear=True
        )
        self.item_tower = mlp(sum(widths[f] for f in self.item_features), tower_mlp, last_is_linear=True)

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        user_BV, item_BV = self.user(dense_BF, sparse), self.item(sparse)
        if self.training and hasattr(self, "loss"):
            products_BB = user_BV @ item_BV.T / self.temperature
            return products_BB - dense_BF[:, -1] if self.log_q else products_BB
        return (user_BV * item_BV).sum(dim=1, keepdim=True) / self.temperature

    def user(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        """`[B, V]`, the users' vectors."""
        embeddings = [sparse.side_by_side(self.user_features)] if self.user_features else []
        return self._vector(self.user_tower(torch.cat([dense_BF[:, : self.num_inputs], *embeddings], dim=1)))

    def item(self, sparse: SparseEmbeddings) -> torch.Tensor:
        """`[B, V]`, the items' vectors."""
        return self._vector(self.item_tower(sparse.side_by_side(self.item_features)))

    def loss_in_batch(
        self, products_BB: torch.Tensor, labels_B1: torch.Tensor, weights_B: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The mean over the slice, weighted if examples have weights. Examples with label 0 only serve as negatives."""
        return in_batch_softmax(products_BB, labels_B1, weights_B)

    def _vector(self, vector_BV: torch.Tensor) -> torch.Tensor:
        return functional.normalize(vector_BV, dim=1) if self.normalise else vector_BV


def _check(
    items: Sequence[str], users: Sequence[str], widths: dict[str, int], num_labels: int, num_inputs: int
) -> None:
    for feature in items:
        if feature not in widths:
            raise ConfigError(f"model two-tower: expected one of the features {', '.join(widths)}, found {feature!r}")
    if not items:
        raise ConfigError("model two-tower: expected features of the item's tower, found none; name itemFeatures")
    if not users and not num_inputs:
        raise ConfigError(
            "model two-tower: expected features of the user's tower, found none; take some off itemFeatures"
        )
    if num_labels != 1:
        raise ConfigError(f"model two-tower: expected one label, found {num_labels}; use a model of your own")
