"""Caser (Tang and Wang 2018): which items come next, from a user's last ones, by convolutions.

An example has three features, in the order of the tables:

    user        one row, `[D]`, pooled
    history     up to `sequence_length` rows, `[D]` each, pooling "none"
    candidates  one row for each label, `[2 D + 1]`: an item's output weights and bias, pooling "none"

    vertical    = `vertical_filters` weighted sums over the positions of the history
    horizontal  = for each height h: ReLU(convolution over h items), its largest value
    z           = ReLU(Linear(dropout([vertical, horizontal])))
    logit       = <weights of the candidate, [z, user]> + bias of the candidate

Labels are 1 for items that did come next and 0 for sampled negatives. The output table is as large as the item
table, so it goes through the cache too; as a dense weight its whole gradient would be exchanged at every step.

Shapes: `B` examples, `S` positions of the history, `D` embedding_dim, `L` labels (candidates).
"""

import torch
from torch import nn
from torch.nn import functional

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.base import register_model
from bagpipe.models.layers import Dropout
from bagpipe.tables import TableLayout


@register_model("caser")
class Caser(nn.Module):
    """The whole model.

    Args:
        sequence_length: positions of the history; a shorter one is filled with zeros at its end.
        horizontal_filters: filters of each height from 1 to `sequence_length`.
        dropout: share of the convolutions' outputs set to zero while training.

    Raises:
        ConfigError: tables that are not the three described above.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_labels: int,
        sequence_length: int = 10,
        vertical_filters: int = 16,
        horizontal_filters: int = 64,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        dim, self.features = _dim_and_features(layout)
        self.length, self.num_labels = sequence_length, num_labels
        self.list_lengths = {self.features[1]: sequence_length, self.features[2]: num_labels}
        """Longest list of each feature: the shape of a graph's inputs (`bagpipe export --format`)."""
        self.vertical = nn.Linear(sequence_length, vertical_filters)
        self.horizontal = nn.ModuleList(
            nn.Conv1d(dim, horizontal_filters, height) for height in range(1, sequence_length + 1)
        )
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(vertical_filters * dim + horizontal_filters * sequence_length, dim)

    def forward(self, _dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        user, history, candidates = self.features
        weights_BLW = sparse.jagged(candidates).padded_BkD
        if weights_BLW.shape[1] != self.num_labels and sparse.num_examples:
            raise ConfigError(
                f"model caser: expected {self.num_labels} candidates (one a label), found {weights_BLW.shape[1]}; "
                "give every example as many candidates as labels"
            )
        state_BZ = self.state(sparse[user], sparse.jagged(history).padded_BkD)
        width = weights_BLW.shape[2]
        weights_BLW = weights_BLW.reshape(-1, self.num_labels, width)
        logits_BL1 = torch.bmm(weights_BLW[:, :, :-1], state_BZ.unsqueeze(2))
        return logits_BL1.squeeze(2) + weights_BLW[:, :, -1]

    def state(self, user_BD: torch.Tensor, history_BSD: torch.Tensor) -> torch.Tensor:
        """`[B, 2 D]`: what candidates are scored against; the items' short-term part, then the user.

        Raises:
            ConfigError: a history is longer than `sequence_length`.
        """
        missing = self.length - history_BSD.shape[1]
        if missing < 0:
            raise ConfigError(
                f"model caser: expected at most {self.length} items in a history, found {history_BSD.shape[1]}; "
                "raise model.sequenceLength"
            )
        history_BDS = functional.pad(history_BSD, (0, 0, 0, missing)).transpose(1, 2).contiguous()
        vertical = self.vertical(history_BDS).flatten(1)
        horizontal = [torch.relu(conv(history_BDS)).amax(dim=2) for conv in self.horizontal]
        z_BD = torch.relu(self.fc(self.dropout(torch.cat([vertical, *horizontal], dim=1))))
        return torch.cat([z_BD, user_BD], dim=1)

    def loss(self, logits_BL: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
        """Mean of -log s(x) over positives plus mean of -log(1 - s(x)) over negatives."""
        losses_BL = functional.binary_cross_entropy_with_logits(logits_BL, labels_BL, reduction="none")
        # By example, so that slices of any size add up to the global batch's mean.
        positives_B = (losses_BL * labels_BL).sum(1) / labels_BL.sum(1).clamp(min=1.0)
        negatives_B = (losses_BL * (1.0 - labels_BL)).sum(1) / (1.0 - labels_BL).sum(1).clamp(min=1.0)
        return (positives_B + negatives_B).mean()


def _dim_and_features(layout: TableLayout) -> tuple[int, tuple[str, str, str]]:
    tables = layout.tables
    poolings = [[t.pooling_of(f) for f in t.feature_names] for t in tables]
    each = zip(tables, poolings, strict=True)
    found = ", ".join(f"{t.name} ({t.embedding_dim}, {len(p)} features: {', '.join(p)})" for t, p in each)
    dim = tables[0].embedding_dim if tables else 0
    expected = [(dim, True), (dim, False), (2 * dim + 1, False)]
    shapes = [(t.embedding_dim, "none" not in p) for t, p in zip(tables, poolings, strict=True)]
    if shapes != expected or any(len(p) != 1 for p in poolings):
        raise ConfigError(
            "model caser: expected three tables with one feature each: users (width D, pooling sum), items (width D, "
            f"pooling none), candidates (width 2 D + 1, pooling none); found {found or 'none'}; see embedding.tables "
            "in examples/caser-movielens.yaml"
        )
    user, history, candidates = (t.feature_names[0] for t in tables)
    return dim, (user, history, candidates)
