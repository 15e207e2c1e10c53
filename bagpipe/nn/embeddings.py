"""TorchRec's collections over Bagpipe's rows: lookups of several tables in one call.

They hold no weights. In a step (and wherever a batch is scored) rows come with the features; outside, with features of
ids, from tables lent by `use_tables`, such as those of an export.

Shapes: `B` examples, `N` ids of a feature, `D` width of a table, `W` sum of the features' widths.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.nn.configs import BaseEmbeddingConfig, EmbeddingBagConfig, EmbeddingConfig, check_names, pooling_of
from bagpipe.nn.features import StepFeatures
from bagpipe.nn.jagged import JaggedTensor
from bagpipe.nn.keyed import KeyedTensor

Config = TypeVar("Config", bound=BaseEmbeddingConfig)


class Collection(nn.Module, Generic[Config]):
    """The base of both collections: tables by config.

    Args:
        tables: one config for each table.
        device: accepted for TorchRec's sake; a collection has no memory to place.

    Raises:
        ConfigError: no tables, or names that repeat.
    """

    def __init__(self, tables: Sequence[Config], device: torch.device | None = None) -> None:
        super().__init__()
        if not tables:
            raise ConfigError(f"{type(self).__name__}: expected at least one table, found none")
        check_names(tables)
        self.configs = list(tables)
        self._device = torch.device("cpu" if device is None else device)
        self._lent: dict[str, torch.Tensor] = {}

    def extra_repr(self) -> str:
        return ", ".join(f"{c.name}: {c.num_embeddings} x {c.embedding_dim}" for c in self.configs)

    @property
    def device(self) -> torch.device:
        """The device that the constructor was given."""
        return self._device

    def use_tables(self, tables: Mapping[str, torch.Tensor]) -> None:
        """Look features of ids up in these tables, `[num_embeddings, D]` by name; they are not copied.

        Raises:
            ConfigError: a table is missing, or its shape is not its config's.
        """
        for config in self.configs:
            found = list(tables[config.name].shape) if config.name in tables else "none"
            if found != (expected := [config.num_embeddings, config.embedding_dim]):
                raise ConfigError(f"use_tables: table {config.name}: expected shape {expected}, found {found}")
        self._lent = {config.name: tables[config.name] for config in self.configs}

    def _features(self) -> list[str]:
        return [feature for config in self.configs for feature in config.feature_names]

    def _table(self, config: BaseEmbeddingConfig) -> torch.Tensor:
        if not self._lent:
            raise ConfigError(
                f"{type(self).__name__}: expected the features of a step, found ids; rows come from the job's tables; "
                "train with `bagpipe run`, or lend tables with use_tables"
            )
        return self._lent[config.name]


class EmbeddingBagCollection(Collection[EmbeddingBagConfig]):
    """Pooled lookups: one vector for each feature and example.

    Args:
        is_weighted: each row counts by the weight of its id, which the data must have.
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        is_weighted: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(tables, device)
        self._is_weighted = is_weighted

    def forward(self, features: Any) -> KeyedTensor:
        """The features' vectors side by side, `[B, W]`: table by table, in a table feature by feature.

        Args:
            features: those of a step, as the model is called with them; or a `KeyedJaggedTensor` of ids (TorchRec's is
                one too) and tables lent before.

        Raises:
            ConfigError: a feature is not there, has no weights, or is not pooled as its config says.
        """
        names = self._features()
        widths = [config.embedding_dim for config in self.configs for _ in config.feature_names]
        sparse = rows_of_step(features)
        if sparse is None:
            values = torch.cat([bag for config in self.configs for bag in self._bags(config, features)], dim=1)
        else:
            self._check_weights(sparse, names)
            values = sparse.side_by_side(names)
        return KeyedTensor(names, widths, values)

    def is_weighted(self) -> bool:
        """Whether each row counts by the weight of its id."""
        return self._is_weighted

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """The tables."""
        return self.configs

    def _check_weights(self, sparse: SparseEmbeddings, names: Sequence[str]) -> None:
        """A step's bags are weighted if the data has weights."""
        weights = {name: found for name in names if (found := sparse.weights(name)) is not None}
        if self._is_weighted and not weights:
            raise ConfigError("EmbeddingBagCollection: is_weighted: the data has no weights of ids; set it to False")
        for name, found in weights.items():
            # Features of one width have weights together: those that the data gives none count 1.
            if not self._is_weighted and bool((found != 1.0).any()):
                raise ConfigError(
                    f"EmbeddingBagCollection: ids of {name} have weights in the data; set is_weighted to True, "
                    "or remove the weights from data.columns"
                )

    def _bags(self, config: EmbeddingBagConfig, features: Any) -> list[torch.Tensor]:
        table, bags = self._table(config), []
        for name in config.feature_names:
            lists = features[name]
            weights = lists.weights() if self._is_weighted else None
            bags.append(
                functional.embedding_bag(
                    lists.values(),
                    table,
                    lists.offsets(),
                    mode=pooling_of(config),
                    per_sample_weights=weights,
                    include_last_offset=True,
                )
            )
        return bags


class EmbeddingCollection(Collection[EmbeddingConfig]):
    """Lookups as they are: one vector for each id. All tables have one width.

    Raises:
        ConfigError: tables of several widths.
    """

    def __init__(self, tables: Sequence[EmbeddingConfig], device: torch.device | None = None) -> None:
        super().__init__(tables, device)
        widths = sorted({config.embedding_dim for config in tables})
        if len(widths) != 1:
            raise ConfigError(
                f"EmbeddingCollection: expected tables of one embedding_dim, found {', '.join(map(str, widths))}; "
                "make one collection for each"
            )

    def forward(self, features: Any) -> dict[str, JaggedTensor]:
        """For each feature its vectors, `[N, D]`, with the lengths of its lists.

        Args:
            features: as `EmbeddingBagCollection` takes them.

        Raises:
            ConfigError: a feature is not there, or is pooled in the job.
        """
        sparse = rows_of_step(features)
        if sparse is not None:
            parts = {name: sparse.flat(name) for name in self._features()}
            return {name: JaggedTensor(values, lengths=lengths) for name, (values, lengths) in parts.items()}
        found = {}
        for config in self.configs:
            for name in config.feature_names:
                lists = features[name]
                rows_ND = functional.embedding(lists.values(), self._table(config))
                found[name] = JaggedTensor(rows_ND, lengths=lists.lengths())
        return found

    def embedding_configs(self) -> list[EmbeddingConfig]:
        """The tables."""
        return self.configs

    def embedding_dim(self) -> int:
        """The one width."""
        return self.configs[0].embedding_dim

    def embedding_names_by_table(self) -> list[list[str]]:
        """Features of each table."""
        return [config.feature_names for config in self.configs]


def rows_of_step(features: Any) -> SparseEmbeddings | None:
    """The rows that came with the features of a step; None: the features are ids."""
    if isinstance(features, StepFeatures):
        return features.sparse
    return features if isinstance(features, SparseEmbeddings) else None
