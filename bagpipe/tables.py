"""The embedding tables of a job, and how their rows are numbered.

Tables of equal width form a *width group*: one cache slab, one row file on each server, one key space. A *key* is a
row's number within its group: the rows of the group's first table, then the second's, and so on. Keys map to servers by
`key % num_servers`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec

Pooling = Literal["sum", "mean", "none"]
TableRows = Annotated[
    int,
    msgspec.Meta(
        ge=1, le=1 << 40, extra={"because": "byte offsets fit into 63 bits"}, extra_json_schema={"x-unit": "rows"}
    ),
]
Width = Annotated[
    int,
    msgspec.Meta(
        ge=1, le=1 << 16, extra={"because": "byte offsets fit into 63 bits"}, extra_json_schema={"x-unit": "floats"}
    ),
]


class Table(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One embedding table, in torchrec's vocabulary."""

    name: Annotated[str, msgspec.Meta(description="Name of the table.")]
    num_embeddings: Annotated[TableRows, msgspec.Meta(description="Rows of the table.")]
    embedding_dim: Annotated[Width, msgspec.Meta(description="Width of its rows.")]
    feature_names: Annotated[tuple[str, ...], msgspec.Meta(description="Sparse features that look rows up here.")]
    pooling: Annotated[
        Pooling, msgspec.Meta(description="How the rows of one lookup list become one vector; none: they stay a list.")
    ] = "sum"
    feature_pooling: Annotated[
        Mapping[str, Pooling],
        msgspec.Meta(description="Pooling of those features that have another than the table: `{history: mean}`."),
    ] = {}

    def pooling_of(self, feature: str) -> Pooling:
        """How the rows that one of this table's features looks up become one vector."""
        return self.feature_pooling.get(feature, self.pooling)


class WidthGroup(msgspec.Struct, frozen=True):
    """Tables that share one width: `offsets[i]` is the key of row 0 of `tables[i]`."""

    embedding_dim: int
    tables: tuple[Table, ...]
    offsets: tuple[int, ...]
    num_rows: int
    table_indices: tuple[int, ...]
    """Position of each table in the job's table list (the `table` of the row initialiser)."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Sparse features of this group in the order in which blocks list them."""
        return tuple(f for t in self.tables for f in t.feature_names)

    @property
    def pooling(self) -> tuple[Pooling, ...]:
        """Of each feature, in the same order."""
        return tuple(t.pooling_of(f) for t in self.tables for f in t.feature_names)

    def key_of(self, table: int, row: int) -> int:
        return self.offsets[table] + row


class TableLayout(msgspec.Struct, frozen=True):
    """All tables of a job, grouped by width; a pure function of the table list."""

    tables: tuple[Table, ...]
    groups: tuple[WidthGroup, ...]

    @classmethod
    def of(cls, tables: Iterable[Table]) -> "TableLayout":
        """Groups keep the order in which each width first appears."""
        listed = tuple(tables)
        widths = list(dict.fromkeys(t.embedding_dim for t in listed))
        return cls(listed, tuple(_group(listed, w) for w in widths))

    @property
    def num_rows(self) -> int:
        return sum(g.num_rows for g in self.groups)

    @property
    def feature_pooling(self) -> dict[str, Pooling]:
        """Of every feature by its name, in the order of tables."""
        return {f: t.pooling_of(f) for t in self.tables for f in t.feature_names}


def _group(tables: Sequence[Table], width: int) -> WidthGroup:
    indices = tuple(i for i, t in enumerate(tables) if t.embedding_dim == width)
    members = tuple(tables[i] for i in indices)
    offsets, total = [], 0
    for table in members:
        offsets.append(total)
        total += table.num_embeddings
    return WidthGroup(width, members, tuple(offsets), total, indices)
