"""DIN (Zhou et al. 2018): how much each item of a user's history counts depends on the item in question.

    a_i      = MLP([h_i, t, h_i - t, h_i * t])         the activation unit; h_i an item of the history, t the target
    interest = sum over i of a_i h_i                   not normalised: its length says how strong the interest is
    logit    = MLP([target, interest, other embeddings, dense])

Target and history may be features of one table; its pooling is "none", because the history stays a list. With several
histories (items, their categories, ...) each has its own target and its own activation unit. PReLU after every layer
but the last, as in the paper's base; its Dice normalises by the batch, so that results would depend on the slices.

Shapes: `B` examples, `F` dense features, `S` longest history of the slice, `D` width of a history's table, `L` labels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe.cache.lookup import Jagged, SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.base import register_model
from bagpipe.models.layers import linear
from bagpipe.tables import Table, TableLayout


class ActivationUnit(nn.Module):
    """Weighted sum of a history, `[B, D]`; of an empty one, zeros."""

    def __init__(self, dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.mlp = _prelu_mlp(4 * dim, (*widths, 1))

    def forward(self, target_BD: torch.Tensor, history: Jagged) -> torch.Tensor:
        items_BSD = history.padded_BkD
        targets_BSD = target_BD.unsqueeze(1).expand_as(items_BSD)
        inputs = torch.cat([items_BSD, targets_BSD, items_BSD - targets_BSD, items_BSD * targets_BSD], dim=2)
        # Places beyond a history's end hold zeros, so that whatever weight they get adds nothing.
        weights_BS1: torch.Tensor = self.mlp(inputs)
        return (weights_BS1 * items_BSD).sum(dim=1)


@register_model("din")
class DeepInterest(nn.Module):
    """The whole model; tables may have any widths.

    Args:
        target_features: the item in question, one lookup of each example; several: one for each history.
        history_features: the user's last items, each history's table as wide as its target's.
        attention_mlp: widths of the activation unit; the weight is appended.
        over_mlp: widths of the last MLP; the labels' number is appended.

    Raises:
        ConfigError: targets and histories do not pair up, are not in the job, are pooled, or another feature is not.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_dense: int,
        target_features: Sequence[str],
        history_features: Sequence[str],
        num_labels: int = 1,
        attention_mlp: Sequence[int] = (80, 40),
        over_mlp: Sequence[int] = (200, 80),
    ) -> None:
        super().__init__()
        dims = _paired_widths(layout, target_features, history_features)
        self.pairs = list(zip(target_features, history_features, strict=True))
        self.units = nn.ModuleList(ActivationUnit(dim, attention_mlp) for dim in dims)
        paired = {*target_features, *history_features}
        self.others = [f for t in layout.tables for f in t.feature_names if f not in paired]
        homes = _homes(layout)
        width = num_dense + sum(homes[f].embedding_dim for f in self.others) + 2 * sum(dims)
        self.over_mlp = _prelu_mlp(width, (*over_mlp, num_labels))

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        parts = [dense_BF]
        if self.others:
            parts.append(sparse.side_by_side(self.others))
        for (target, history), unit in zip(self.pairs, self.units, strict=True):
            target_BD = _only(sparse.jagged(target), target)
            parts += [target_BD, unit(target_BD, sparse.jagged(history))]
        logits_BL: torch.Tensor = self.over_mlp(torch.cat(parts, dim=1))
        return logits_BL


def _prelu_mlp(num_inputs: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        layers.append(linear(num_inputs, width))
        if number < len(widths) - 1:
            layers.append(nn.PReLU())
        num_inputs = width
    return nn.Sequential(*layers)


def _only(target: Jagged, feature: str) -> torch.Tensor:
    """The one row of each example."""
    if torch.compiler.is_exporting():  # A graph cannot ask for values.
        return target.padded_BkD.sum(1)
    if target.lengths_B.numel() and not bool((target.lengths_B == 1).all()):
        found = int(target.lengths_B[target.lengths_B != 1][0])
        raise ConfigError(f"model din: expected one lookup of target {feature!r} in every example, found {found}")
    return target.padded_BkD.flatten(1) if target.lengths_B.numel() else target.padded_BkD.sum(1)


def _homes(layout: TableLayout) -> dict[str, Table]:
    return {feature: table for table in layout.tables for feature in table.feature_names}


def _paired_widths(layout: TableLayout, targets: Sequence[str], histories: Sequence[str]) -> list[int]:
    """Width of each pair."""
    homes, pooling = _homes(layout), layout.feature_pooling
    if not histories or len(targets) != len(histories):
        raise ConfigError(
            f"model din: expected a target for each history, found {len(targets)} targetFeatures and {len(histories)} "
            "historyFeatures; name one for each"
        )
    for feature in (*targets, *histories):
        if feature not in homes:
            raise ConfigError(f"model din: expected one of the features {', '.join(homes)}, found {feature!r}")
        if pooling[feature] != "none":
            raise ConfigError(
                f'model din: expected pooling "none" for feature {feature!r}, found "{pooling[feature]}"; change it'
            )
    for feature in homes:
        if pooling[feature] == "none" and feature not in {*targets, *histories}:
            raise ConfigError(
                f'model din: expected feature {feature!r}, which has pooling "none", among targetFeatures or '
                "historyFeatures; name it there, or pool it"
            )
    widths = [(homes[t].embedding_dim, homes[h].embedding_dim) for t, h in zip(targets, histories, strict=True)]
    for target, history, (one, other) in zip(targets, histories, widths, strict=True):
        if one != other:
            raise ConfigError(
                f"model din: expected target {target!r} and history {history!r} of one width, found {one} and {other}"
            )
    return [one for one, _ in widths]
