"""Tables and width groups as a model's constructor sees them; in an export this stands in for `bagpipe.tables`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Pooling = Literal["sum", "mean", "none"]


@dataclass(frozen=True, slots=True)
class Table:
    """One embedding table."""

    name: str
    num_embeddings: int
    embedding_dim: int
    feature_names: tuple[str, ...]
    pooling: Pooling = "sum"
    feature_pooling: Mapping[str, Pooling] = field(default_factory=dict)

    def pooling_of(self, feature: str) -> Pooling:
        return self.feature_pooling.get(feature, self.pooling)


@dataclass(frozen=True, slots=True)
class WidthGroup:
    """Tables that share one width, in the order of the job."""

    embedding_dim: int
    tables: tuple[Table, ...]
    offsets: tuple[int, ...]
    num_rows: int
    table_indices: tuple[int, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f for t in self.tables for f in t.feature_names)

    @property
    def pooling(self) -> tuple[Pooling, ...]:
        return tuple(t.pooling_of(f) for t in self.tables for f in t.feature_names)


@dataclass(frozen=True, slots=True)
class TableLayout:
    """All tables of a job, grouped by width."""

    tables: tuple[Table, ...]
    groups: tuple[WidthGroup, ...]

    @classmethod
    def of(cls, tables: Iterable[Table]) -> "TableLayout":
        """Groups keep the order in which each width first appears."""
        listed = tuple(tables)
        widths = dict.fromkeys(t.embedding_dim for t in listed)
        return cls(listed, tuple(_group(listed, w) for w in widths))

    @property
    def num_rows(self) -> int:
        return sum(g.num_rows for g in self.groups)

    @property
    def feature_pooling(self) -> dict[str, Pooling]:
        return {f: t.pooling_of(f) for t in self.tables for f in t.feature_names}


def _group(tables: tuple[Table, ...], width: int) -> WidthGroup:
    indices = tuple(i for i, t in enumerate(tables) if t.embedding_dim == width)
    members = tuple(tables[i] for i in indices)
    offsets = tuple(sum(t.num_embeddings for t in members[:place]) for place in range(len(members)))
    return WidthGroup(width, members, offsets, sum(t.num_embeddings for t in members), indices)
