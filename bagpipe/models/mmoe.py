"""MMoE (Ma et al. 2018): several labels share experts, and each label has its own mixture of them.

    x        = [dense, embeddings]
    expert_e = MLP(x)
    gate_l   = softmax(Linear(x))                      one weight for each expert
    logit_l  = MLP(sum over e of gate_l[e] * expert_e)

Shapes: `B` examples, `F` dense features, `E` experts, `H` width of an expert's output, `L` labels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.models.base import register_model
from bagpipe.models.layers import check_pooled, linear, mlp
from bagpipe.tables import TableLayout


@register_model("mmoe")
class MultiGateExperts(nn.Module):
    """The whole model; tables may have any widths.

    Args:
        experts: how many.
        expert_mlp: widths of each expert; ReLU after every layer.
        tower_mlp: widths of each label's own MLP; its logit is appended.

    Raises:
        ConfigError: a table without pooling.
    """

    def __init__(
        self,
        layout: TableLayout,
        num_dense: int,
        num_labels: int = 1,
        experts: int = 8,
        expert_mlp: Sequence[int] = (256, 128),
        tower_mlp: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        check_pooled(layout, "mmoe")
        width = num_dense + sum(t.embedding_dim * len(t.feature_names) for t in layout.tables)
        shared = expert_mlp[-1] if expert_mlp else width
        self.experts = nn.ModuleList(mlp(width, expert_mlp, last_is_linear=False) for _ in range(experts))
        self.gates = nn.ModuleList(linear(width, experts) for _ in range(num_labels))
        self.towers = nn.ModuleList(mlp(shared, (*tower_mlp, 1), last_is_linear=True) for _ in range(num_labels))

    def forward(self, dense_BF: torch.Tensor, sparse: SparseEmbeddings) -> torch.Tensor:
        inputs = torch.cat([dense_BF, sparse.concatenated()], dim=1)
        experts_BEH = torch.stack([expert(inputs) for expert in self.experts], dim=1)
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights_B1E = torch.softmax(gate(inputs), dim=1).unsqueeze(1)
            logits.append(tower(torch.bmm(weights_B1E, experts_BEH).squeeze(1)))
        return torch.cat(logits, dim=1)
