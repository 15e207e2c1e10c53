"""TorchRec's configs of a collection's tables, with the fields that have an effect here.

First values of rows are a setting of the job (`embedding.initScale`), and rows are float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from bagpipe.errors import ConfigError
from bagpipe.tables import Pooling


class PoolingType(Enum):
    """How the rows of a bag become one vector."""

    SUM = "SUM"
    MEAN = "MEAN"
    NONE = "NONE"


class DataType(Enum):
    """Type of a table's weights."""

    FP32 = "FP32"


@dataclass
class BaseEmbeddingConfig:
    """One table.

    Args:
        num_embeddings: its rows.
        embedding_dim: floats of a row.
        name: of the table; in a collection no two are alike.
        data_type: float32.
        feature_names: features that look rows up here; none given: one, named as the table.

    Raises:
        ConfigError: a size is not positive, or the name is empty.
    """

    num_embeddings: int
    embedding_dim: int
    name: str = ""
    data_type: DataType = DataType.FP32
    feature_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError(f"{type(self).__name__}: expected a name, found none; give the table one")
        for what in ("num_embeddings", "embedding_dim"):
            if getattr(self, what) < 1:
                raise ConfigError(f"table {self.name}: expected a positive {what}, found {getattr(self, what)}")
        if self.data_type is not DataType.FP32:
            raise ConfigError(f"table {self.name}: expected data_type FP32, found {self.data_type}; rows are float32")
        self.feature_names = list(self.feature_names) or [self.name]


@dataclass
class EmbeddingBagConfig(BaseEmbeddingConfig):
    """A table whose lookups are pooled, one vector for each feature and example.

    Args:
        pooling: sum (an empty bag gives zeros) or mean.
    """

    pooling: PoolingType = PoolingType.SUM

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling is PoolingType.NONE:
            raise ConfigError(f"table {self.name}: expected pooling SUM or MEAN, found NONE; use EmbeddingCollection")


@dataclass
class EmbeddingConfig(BaseEmbeddingConfig):
    """A table whose lookups stay as they are, one vector for each."""


def pooling_of(config: BaseEmbeddingConfig) -> Pooling:
    """A table's pooling as a job document names it."""
    if not isinstance(config, EmbeddingBagConfig):
        return "none"
    return "mean" if config.pooling is PoolingType.MEAN else "sum"


def check_names(configs: Sequence[BaseEmbeddingConfig]) -> None:
    """Check that names of tables differ, and that each feature belongs to one table.

    Raises:
        ConfigError: two tables have one name, or one feature is looked up in two tables.
    """
    tables: set[str] = set()
    homes: dict[str, str] = {}
    for config in configs:
        if config.name in tables:
            raise ConfigError(f"table {config.name}: its name is another table's too; give every table its own name")
        tables.add(config.name)
        for feature in config.feature_names:
            if feature in homes:
                raise ConfigError(
                    f"table {config.name}: feature {feature!r} is looked up in table {homes[feature]} already; "
                    "give the data a second feature of the same column"
                )
            homes[feature] = config.name
