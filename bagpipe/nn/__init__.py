"""TorchRec's vocabulary over Bagpipe's rows: a TorchRec model trains here with its imports changed and nothing else.

    from bagpipe.nn import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

`EmbeddingBagCollection` and `EmbeddingCollection` have no parameters: rows come from the cache of the step
(`docs/models.md`, "A TorchRec model"). What a name means, its arguments and its results are TorchRec's.
"""

from bagpipe.nn.configs import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from bagpipe.nn.embeddings import EmbeddingBagCollection, EmbeddingCollection
from bagpipe.nn.features import KeyedJaggedTensor, StepFeatures
from bagpipe.nn.jagged import JaggedTensor
from bagpipe.nn.keyed import KeyedTensor
from bagpipe.nn.tables import check_tables, feed_collections, tables_of

__all__ = [
    "DataType",
    "EmbeddingBagCollection",
    "EmbeddingBagConfig",
    "EmbeddingCollection",
    "EmbeddingConfig",
    "JaggedTensor",
    "KeyedJaggedTensor",
    "KeyedTensor",
    "PoolingType",
    "StepFeatures",
    "check_tables",
    "feed_collections",
    "tables_of",
]
