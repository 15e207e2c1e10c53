"""A model written for TorchRec. Its imports are Bagpipe's; nothing else was changed.

    bagpipe run examples/torchrec-model.yaml

In TorchRec the first import reads `from torchrec import (...)`. `make_model` is what the job names: the tables that it
states are those of the job.
"""

import torch
from torch import nn

from bagpipe.nn import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
)


class SparseArch(nn.Module):
    """The pooled features, `[B, F, D]`, by the names that the collection gives them."""

    def __init__(self, collection: EmbeddingBagCollection) -> None:
        super().__init__()
        self.collection = collection
        configs = collection.embedding_bag_configs()
        self.features = [name for config in configs for name in config.feature_names]
        self.dim = configs[0].embedding_dim

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        by_name = self.collection(features).to_dict()
        return torch.cat([by_name[name] for name in self.features], dim=1).reshape(-1, len(self.features), self.dim)


class SequenceArch(nn.Module):
    """The last state of a GRU over the items of a sequence, `[B, D]`."""

    def __init__(self, collection: EmbeddingCollection, feature: str, longest: int) -> None:
        super().__init__()
        self.collection, self.feature, self.longest = collection, feature, longest
        self.gru = nn.GRU(collection.embedding_dim(), collection.embedding_dim(), batch_first=True)

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        items = self.collection(features)[self.feature]
        states_BSD, _ = self.gru(items.to_padded_dense(self.longest))
        last_B11 = (items.lengths().long() - 1).clamp(0, self.longest - 1).view(-1, 1, 1)
        last_BD: torch.Tensor = states_BSD.gather(1, last_B11.expand(-1, 1, states_BSD.shape[2])).squeeze(1)
        return last_BD


class ClickModel(nn.Module):
    """DLRM's arrangement, with a sequence beside the pooled features."""

    def __init__(
        self, bags: EmbeddingBagCollection, sequences: EmbeddingCollection, dense_in_features: int, longest: int
    ) -> None:
        super().__init__()
        self.sparse_arch = SparseArch(bags)
        self.sequence_arch = SequenceArch(sequences, "C4", longest)
        dim, vectors = self.sparse_arch.dim, len(self.sparse_arch.features) + 2
        self.dense_arch = nn.Sequential(nn.Linear(dense_in_features, 32), nn.ReLU(), nn.Linear(32, dim), nn.ReLU())
        self.register_buffer("pairs", torch.triu_indices(vectors, vectors, offset=1), persistent=False)
        self.over_arch = nn.Sequential(nn.Linear(dim + vectors * (vectors - 1) // 2, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense_features: torch.Tensor, sparse_features: KeyedJaggedTensor) -> torch.Tensor:
        dense_BD = self.dense_arch(dense_features)
        beside_BCD = torch.stack([dense_BD, self.sequence_arch(sparse_features)], dim=1)
        vectors_BCD = torch.cat([beside_BCD, self.sparse_arch(sparse_features)], dim=1)
        products_BCC = torch.bmm(vectors_BCD, vectors_BCD.transpose(1, 2))
        pairs_BP = products_BCC[:, self.pairs[0], self.pairs[1]]
        logits: torch.Tensor = self.over_arch(torch.cat([dense_BD, pairs_BP], dim=1))
        return logits


def make_model(num_dense: int, longest: int = 4) -> ClickModel:
    """The model and its tables: one of them serves two features, one is pooled by mean, one is a sequence's."""
    bags = EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(name="products", embedding_dim=8, num_embeddings=5000, feature_names=["C1", "C2"]),
            EmbeddingBagConfig(
                name="shops", embedding_dim=8, num_embeddings=300, feature_names=["C3"], pooling=PoolingType.MEAN
            ),
        ],
    )
    sequences = EmbeddingCollection(
        device=torch.device("meta"),
        tables=[EmbeddingConfig(name="words", embedding_dim=8, num_embeddings=2000, feature_names=["C4"])],
    )
    return ClickModel(bags, sequences, num_dense, longest)
