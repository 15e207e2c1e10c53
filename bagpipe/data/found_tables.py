"""The tables that a job's data needs, before and after they have a width. Pure, and light to import."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from bagpipe.config.columns import ColumnsConfig
from bagpipe.config.document import EmbeddingConfig
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.wording import no_feature
from bagpipe.tables import Table, TableLayout


class Narrow(Protocol):
    """A table before it has a width."""

    @property
    def name(self) -> str: ...
    @property
    def num_embeddings(self) -> int | None:
        """Rows; None: not known yet."""

    @property
    def feature_names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class FoundTable:
    """What data says of a table: its name, its rows (None: not known yet) and the features that use it."""

    name: str
    num_embeddings: int | None
    feature_names: tuple[str, ...]


def column_tables(columns: ColumnsConfig, rows: int | None) -> tuple[FoundTable, ...]:
    """One for each table that columns name, in the order in which they first do, with so many rows each."""
    members: dict[str, list[str]] = {}
    for column in columns.sparse:
        members.setdefault(column.table or column.name, []).append(column.name)
    return tuple(FoundTable(name, rows, tuple(features)) for name, features in members.items())


def layout_of(tables: Iterable[Narrow], embedding: EmbeddingConfig) -> TableLayout:
    """Tables with widths: those that a job lists as they are, found ones as wide as it says, their features pooled so.

    Raises:
        ConfigError: the pooling of a feature is given that no table has.
    """
    if embedding.tables:
        return TableLayout.of(embedding.tables)
    listed = tuple(tables)
    features = [feature for table in listed for feature in table.feature_names]
    if strange := [name for name in embedding.pooling if name not in features]:
        raise ConfigError(f"spec.embedding.pooling: {no_feature(strange[0], features)}")
    return TableLayout.of(_found_table(table, embedding) for table in listed)


def _found_table(found: Narrow, embedding: EmbeddingConfig) -> Table:
    pooling = {name: embedding.pooling[name] for name in found.feature_names if name in embedding.pooling}
    rows = found.num_embeddings or 1
    return Table(found.name, rows, embedding.dim, found.feature_names, feature_pooling=pooling)
