"""Connects a model's collections with the job's tables: lists the model's tables, checks them, and feeds them rows."""

from typing import Any

from torch import nn

from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError
from bagpipe.nn.configs import BaseEmbeddingConfig, check_names, pooling_of
from bagpipe.nn.embeddings import Collection
from bagpipe.nn.features import StepFeatures
from bagpipe.tables import Table, TableLayout


def tables_of(model: nn.Module) -> tuple[Table, ...]:
    """The tables of all collections in a model, as a job's `embedding.tables` has them; none: it has no collection.

    Raises:
        ConfigError: two collections have a table of one name, or look one feature up.
    """
    configs = _configs(model)
    check_names(configs)
    return tuple(
        Table(c.name, c.num_embeddings, c.embedding_dim, tuple(c.feature_names), pooling_of(c)) for c in configs
    )


def check_tables(model: nn.Module, layout: TableLayout) -> None:
    """Check that the job has every table of the model's collections.

    A table of the job may have fewer rows than the config says, as when a vocabulary is counted in the data.

    Raises:
        ConfigError: a feature is not in the job, or its table has another width, pooling or set of features, or more
            rows.
    """
    homes = {feature: table for table in layout.tables for feature in table.feature_names}
    for wanted in tables_of(model):
        for feature in wanted.feature_names:
            if feature not in homes:
                raise ConfigError(
                    f"model: table {wanted.name}: expected its feature {feature!r} in the job, found "
                    f"{', '.join(homes) or 'none'}; name it in embedding.tables or data.columns"
                )
        found = homes[wanted.feature_names[0]]
        poolings = sorted({found.pooling_of(feature) for feature in wanted.feature_names})
        for what, here, there in (
            ("embedding_dim", wanted.embedding_dim, found.embedding_dim),
            ("pooling", wanted.pooling, ", ".join(poolings)),
            ("features", sorted(wanted.feature_names), sorted(found.feature_names)),
        ):
            if here != there:
                raise ConfigError(
                    f"model: table {wanted.name}: its config has {what} {here}, the job's table {found.name} has "
                    f"{there}; change one of them"
                )
        if found.num_embeddings > wanted.num_embeddings:
            raise ConfigError(
                f"model: table {wanted.name}: its config has {wanted.num_embeddings} rows, the job's table "
                f"{found.name} has {found.num_embeddings}; raise num_embeddings"
            )


def feed_collections(model: nn.Module, layout: TableLayout) -> None:
    """Let a model with collections be called like any other: a hook gives it `StepFeatures` in place of the rows.

    Raises:
        ConfigError: its tables are not the job's.
    """
    if _configs(model):
        check_tables(model, layout)
        model.register_forward_pre_hook(_with_features, with_kwargs=True)


def _configs(model: nn.Module) -> list[BaseEmbeddingConfig]:
    return [config for module in model.modules() if isinstance(module, Collection) for config in module.configs]


def _with_features(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(_features, args)), {name: _features(value) for name, value in kwargs.items()}


def _features(value: Any) -> Any:
    return StepFeatures(value) if isinstance(value, SparseEmbeddings) else value
