"""SASRec (Kang and McAuley 2018): which item comes next, from the items before it, by self-attention.

An example has two features of one table, pooling "none":

    history     up to `sequenceLength` items, the latest last
    candidates  one item for each label: for each of the last `positions` places of the history the item that came next,
                oldest place first, then as many times over other items that did not

    x_t      = sqrt(D) * item_t + place                    places are counted from the end
    block    : x = x + dropout(attention(norm(x))), each place over itself and those before it; then
               x = x + dropout(Linear(dropout(ReLU(Linear(norm(x))))))
    logit    = <norm(x_t), candidate>                      the same table as the history's

Labels are 1 for items that did come next and 0 for the others. With `positions: 1` all candidates are judged at the end
of the history, as when the model is asked what comes next.

Shapes: `B` examples, `S` sequenceLength, `D` width of the table, `H` heads, `P` positions, `L` labels.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from bagpipe.cache.lookup import Jagged, SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.models.base import register_model
from bagpipe.models.layers import Dropout, xavier
from bagpipe.tables import TableLayout


class Block(nn.Module):
    """Self-attention and a layer for each place, each with a way around it."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.place_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (xavier(nn.Linear(dim, dim)) for _ in range(4))
        self.up, self.down = xavier(nn.Linear(dim, dim)), xavier(nn.Linear(dim, dim))
        self.weight_dropout, self.attention_dropout = Dropout(dropout), Dropout(dropout)
        self.up_dropout, self.down_dropout = Dropout(dropout), Dropout(dropout)

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        x_BSD = x_BSD + self.attention_dropout(self._attend(self.attention_norm(x_BSD)))
        up_BSD = self.up_dropout(torch.relu(self.up(self.place_norm(x_BSD))))
        out_BSD: torch.Tensor = x_BSD + self.down_dropout(self.down(up_BSD))
        return out_BSD

    def _attend(self, x_BSD: torch.Tensor) -> torch.Tensor:
        length, dim = x_BSD.shape[1], x_BSD.shape[2]
        query, key, value = (
            part(x_BSD).view(-1, length, self.heads, dim // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        products_BHSS = query @ key.transpose(2, 3) / math.sqrt(dim // self.heads)
        # Histories begin at the first place, so what lies beyond a history's end comes after all of its items.
        later = torch.ones(length, length, dtype=torch.bool, device=x_BSD.device).triu(1)
        weights_BHSS = self.weight_dropout(torch.softmax(products_BHSS.masked_fill(later, -torch.inf), dim=3))
        mixed_BSD: torch.Tensor = self.out((weights_BHSS @ value).transpose(1, 2).flatten(2))
        return mixed_BSD


@register_model("sasrec")
class SelfAttentiveSequence(nn.Module):
    """The whole model.

    Args:
        history_features: one feature, the history.
        sequence_length: places of the history.
        positions: places at its end whose next items are candidates.
        attention_layers: blocks.
        attention_heads: heads of each; they divide the table's width.
        dropout: share of the units set to zero while training.

    Raises:
        ConfigError: the table is not as described above, or labels are no multiple of `positions`.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_labels: int,
        history_features: tuple[str, ...],
        sequence_length: int = 50,
        positions: int = 1,
        attention_layers: int = 2,
        attention_heads: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.history, self.candidates, dim = _features(layout, history_features)
        if dim % attention_heads:
            raise ConfigError(
                f"model sasrec: expected attentionHeads to divide the width {dim}, found {attention_heads}"
            )
        if positions > sequence_length or num_labels % positions:
            raise ConfigError(
                f"model sasrec: expected as many candidates for each of {positions} positions, at most "
                f"{sequence_length}, found {num_labels} labels; change positions or the labels"
            )
        self.length, self.positions, self.num_labels = sequence_length, positions, num_labels
        self.list_lengths = {self.history: sequence_length, self.candidates: num_labels}
        """Longest list of each feature: the shape of a graph's inputs (`bagpipe export --format`)."""
        self.places = nn.Parameter(torch.empty(sequence_length, dim).normal_(0.0, dim**-0.5))
        self.first_dropout, self.last_norm = Dropout(dropout), nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(Block(dim, attention_heads, dropout) for _ in range(attention_layers))

    def forward(self, _dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        candidates = sparse.jagged(self.candidates)
        states_BPD = self.states(sparse.jagged(self.history))
        self._check_candidates(candidates.lengths_B)
        rounds = self.num_labels // self.positions
        rows_BRPD = candidates.padded_BkD.reshape(-1, rounds, self.positions, states_BPD.shape[2])
        return (rows_BRPD * states_BPD.unsqueeze(1)).sum(dim=3).flatten(1)

    def states(self, history: Jagged) -> torch.Tensor:
        """`[B, P, D]`: what candidates are scored against, at the last `positions` places of each history.

        Raises:
            ConfigError: a history is longer than `sequence_length` or shorter than `positions`.
        """
        items_BSD, lengths_B = history.padded_BkD, history.lengths_B
        if not lengths_B.numel():
            return (items_BSD.sum() + self._nothing()).expand(0, self.positions, items_BSD.shape[2])
        self._check_histories(lengths_B)
        ends_B1 = lengths_B.unsqueeze(1)
        # As long in every slice: a dropout mask counts units, and must not depend on who else is in the slice.
        items_BSD = functional.pad(items_BSD, (0, 0, 0, self.length - items_BSD.shape[1]))
        place_BS = (self.length - ends_B1 + torch.arange(self.length, device=ends_B1.device)).clamp(max=self.length - 1)
        x_BSD = self.first_dropout(items_BSD * math.sqrt(items_BSD.shape[2]) + self.places[place_BS])
        for block in self.blocks:
            x_BSD = block(x_BSD)
        last_BP = ends_B1 - self.positions + torch.arange(self.positions, device=ends_B1.device)
        picked_BPD = x_BSD.gather(1, last_BP.unsqueeze(2).expand(-1, -1, x_BSD.shape[2]))
        states_BPD: torch.Tensor = self.last_norm(picked_BPD)
        return states_BPD

    def _check_histories(self, lengths_B: torch.Tensor) -> None:
        if torch.compiler.is_exporting():  # A graph cannot ask for values.
            return
        shortest, longest = int(lengths_B.min()), int(lengths_B.max())
        if longest > self.length or shortest < self.positions:
            raise ConfigError(
                f"model sasrec: expected histories of {self.positions} to {self.length} items, found "
                f"{shortest} to {longest}; change model.sequenceLength or model.positions, or the data"
            )

    def _check_candidates(self, lengths_B: torch.Tensor) -> None:
        if torch.compiler.is_exporting() or not lengths_B.numel():
            return
        if not bool((lengths_B == self.num_labels).all()):
            found = int(lengths_B[lengths_B != self.num_labels][0])
            raise ConfigError(
                f"model sasrec: expected {self.num_labels} candidates (one a label), found {found}; "
                "give every example as many candidates as labels"
            )

    def _nothing(self) -> torch.Tensor:
        """Zero, connected to every weight: a trainer without examples has gradients too."""
        return torch.stack([weight.sum() for weight in self.parameters()]).sum() * 0.0


def _features(layout: TableLayout, histories: tuple[str, ...]) -> tuple[str, str, int]:
    """History, candidates, and the width of their table."""
    tables, pooling = layout.tables, layout.feature_pooling
    found = ", ".join(f"{t.name} ({', '.join(f'{f}: {pooling[f]}' for f in t.feature_names)})" for t in tables)
    if len(tables) == 1 and list(pooling.values()) == ["none", "none"] and len(histories) == 1:
        names = tables[0].feature_names
        if histories[0] in names:
            (candidates,) = (name for name in names if name != histories[0])
            return histories[0], candidates, tables[0].embedding_dim
    raise ConfigError(
        "model sasrec: expected one table, pooling none, of two features, one of them in historyFeatures, found tables "
        f"{found or 'none'} and historyFeatures {', '.join(histories) or 'none'}; see examples/sasrec-movielens.yaml"
    )
