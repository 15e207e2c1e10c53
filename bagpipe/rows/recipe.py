"""The settings for the rows of one table: those of `spec.embedding`, changed by every override that matches it."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bagpipe.config.document import EmbeddingConfig, RowOptimizer
from bagpipe.config.recipe import changed_optimizer
from bagpipe.errors import ConfigError
from bagpipe.tables import WidthGroup


@dataclass(frozen=True, slots=True)
class TableRecipe:
    """The settings of one table's rows."""

    optimizer: RowOptimizer
    init_scale: float | None
    """None: 1 / sqrt(rows of the table)."""
    frozen: bool


def recipe_of(embedding: EmbeddingConfig, table: str) -> TableRecipe:
    """The settings of the table of this name."""
    optimizer, init_scale, frozen = embedding.optimizer, embedding.init_scale, False
    for override in embedding.overrides:
        if any(fnmatchcase(table, pattern) for pattern in override.tables):
            optimizer = changed_optimizer(optimizer, override.optimizer)
            init_scale = init_scale if override.init_scale is None else override.init_scale
            frozen = frozen if override.frozen is None else override.frozen
    return TableRecipe(optimizer, init_scale, frozen)


def recipes_of(embedding: EmbeddingConfig, group: WidthGroup) -> tuple[TableRecipe, ...]:
    """The settings of each table of a width group."""
    return tuple(recipe_of(embedding, table.name) for table in group.tables)


def check_overrides(embedding: EmbeddingConfig, tables: Iterable[str]) -> None:
    """Check that every override matches a table.

    Raises:
        ConfigError: a pattern matches no table.
    """
    names = list(tables)
    for number, override in enumerate(embedding.overrides):
        for pattern in override.tables:
            if not any(fnmatchcase(name, pattern) for name in names):
                where = f"spec.embedding.overrides[{number}].tables"
                raise ConfigError(f"{where}: {pattern!r} matches no table; there are {', '.join(names)}")
