"""Losses that compare the examples of a slice with each other, and so depend on how a batch is cut into slices.

    pairwise          log(1 + e^-(x_i - x_j)) of each pair with y_i > y_j, in one group where examples have groups
    in-batch-softmax  -y_i log softmax_j(x_ij) at j = i, x_ij the score of example i's user with example j's item

x is the output, y the label. The first is the mean over pairs, which count by the product of their examples' weights;
the second the mean over examples, which count by their weights.

Shapes: `B` examples, `L` labels.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from bagpipe.errors import ConfigError

Comparison = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None], torch.Tensor]
"""(outputs, labels, weights_B, groups_B) to the loss of a slice."""


def pairwise(
    outputs_BL: torch.Tensor,
    labels_BL: torch.Tensor,
    weights_B: torch.Tensor | None = None,
    groups_B: torch.Tensor | None = None,
    task_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean over the pairs of each label, and over the labels; 0 where a label has no pair.

    Takes memory for B^2 numbers. Sums run over whole matrices, so that their order is fixed.
    """
    counted_BB = torch.ones(1, 1, dtype=outputs_BL.dtype, device=outputs_BL.device)
    if groups_B is not None:
        counted_BB = (groups_B[:, None] == groups_B[None, :]).to(outputs_BL.dtype)
    if weights_B is not None:
        counted_BB = counted_BB * (weights_B[:, None] * weights_B[None, :])
    of_tasks = []
    for outputs_B, labels_B in zip(outputs_BL.unbind(1), labels_BL.unbind(1), strict=True):
        pairs_BB = (labels_B[:, None] > labels_B[None, :]) * counted_BB
        total = pairs_BB.sum()
        terms_BB = functional.softplus(outputs_B[None, :] - outputs_B[:, None])
        of_tasks.append((terms_BB * pairs_BB).sum() / torch.where(total > 0, total, torch.ones_like(total)))
    losses_L = torch.stack(of_tasks)
    return (losses_L if task_weights is None else losses_L * task_weights).mean()


def in_batch_softmax(
    products_BB: torch.Tensor, labels_B1: torch.Tensor, weights_B: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean over the slice, weighted if examples have weights. An example with label 0 only serves as a negative."""
    own_B = torch.arange(products_BB.shape[0], device=products_BB.device)
    losses_B = functional.cross_entropy(products_BB, own_B, reduction="none") * labels_B1.squeeze(1)
    return losses_B.mean() if weights_B is None else (losses_B * weights_B).sum() / weights_B.sum()


def check_products(outputs: torch.Tensor, labels_BL: torch.Tensor, model: nn.Module) -> None:
    """Refuse outputs that are not a score of each example's user with each example's item.

    Raises:
        ConfigError: names the model and the shapes.
    """
    examples, labels = labels_BL.shape
    if labels != 1:
        raise ConfigError(f"spec.model.loss: in-batch-softmax: expected one label, found {labels}")
    if list(outputs.shape) != [examples, examples]:
        raise ConfigError(
            f"model {type(model).__name__}: the loss in-batch-softmax expects outputs of shape {[examples, examples]} "
            f"in training, each example's user with each example's item, found {list(outputs.shape)}; change what "
            "forward returns where self.training is True (two-tower has negatives: in-batch instead)"
        )
