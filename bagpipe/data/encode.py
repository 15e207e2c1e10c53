"""Codes to keys: the `Encoder` turns a `RawBlock` into `Examples` for the tables of a job.

Three encodings. *hash*: missing is row 0, any other value is hashed into the rest of its table; the hash
is splitmix64's finaliser of the code, the same everywhere and forever. *vocabulary*: see
`bagpipe.data.vocabulary`. *ids*: values are rows, checked against the size of their table.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Floats, Int64s, Keys, Lengths, SparseBlock
from bagpipe.data import encode_kernels as kernels
from bagpipe.data.examples import Examples
from bagpipe.data.raw import Codes, RawBlock, RawSchema
from bagpipe.data.vocabulary import LookupTables, Vocabulary
from bagpipe.errors import ConfigError, DataError
from bagpipe.lowlevel.wording import listed
from bagpipe.tables import Table, TableLayout, WidthGroup


@dataclass(frozen=True, slots=True)
class _Group:
    """Where the features of one width group come from and go to."""

    group: WidthGroup
    features: Int64s
    """Position of each of the group's features in the data."""
    tables: tuple[Table, ...]
    """The table of each of the group's features."""
    offsets: Int64s
    sizes: Int64s
    lookup: LookupTables | None
    weighted: bool
    """The values of one of its features have weights."""


class Encoder:
    """Keys of `layout` for raw blocks of `schema`; with `vocabularies` (by table name) or by hash or ids."""

    def __init__(
        self,
        schema: RawSchema,
        layout: TableLayout,
        encoding: str,
        vocabularies: Mapping[str, Vocabulary] | None = None,
    ) -> None:
        self.schema, self.layout, self.encoding = schema, layout, encoding
        self._groups = tuple(_group(schema, g, vocabularies) for g in layout.groups)

    def __repr__(self) -> str:
        return f"Encoder({self.encoding}, tables={len(self.layout.tables)}, rows={self.layout.num_rows})"

    def encode(self, block: RawBlock) -> Examples:
        """Raises:
        DataError: an id is out of range of its table.
        """
        sparse = tuple(self._block(g, block) for g in self._groups)
        return Examples(block.labels_BL, block.dense_BF, sparse, block.weights_B, block.groups_B)

    def _block(self, group: _Group, block: RawBlock) -> SparseBlock:
        codes_N, lengths_BT, which_N = select(block, len(self.schema.features), group.features)
        keys_N: Keys = np.empty(len(codes_N), np.int64)
        if self.encoding == "hash":
            kernels.hash_keys(codes_N, which_N, group.offsets, group.sizes, keys_N)
        elif self.encoding == "ids":
            wrong = kernels.id_keys(codes_N, which_N, group.offsets, group.sizes, keys_N)
            if wrong >= 0:
                raise self._out_of_range(group, block, int(codes_N[wrong]) - 1, int(which_N[wrong]), wrong, lengths_BT)
        elif group.lookup is not None:
            t = group.lookup
            kernels.vocabulary_keys(
                codes_N, which_N, group.offsets, t.firsts, t.masks, t.missing, t.others, t.codes, t.numbers, keys_N
            )
        return SparseBlock(keys_N, lengths_BT, self._weights(group, block, len(keys_N)))

    def _weights(self, group: _Group, block: RawBlock, lookups: int) -> Floats | None:
        if block.weights_N is None or not group.weighted:
            return None
        weights_N = np.empty(lookups, np.float32)
        kernels.select_values(block.weights_N, block.lengths_BT, group.features, weights_N)
        return weights_N

    def _out_of_range(
        self, group: _Group, block: RawBlock, value: int, place: int, lookup: int, lengths_BT: Lengths | None
    ) -> DataError:
        table, feature = group.tables[place], group.group.feature_names[place]
        if lengths_BT is None:
            example = lookup // len(group.features)
        else:
            example = int(np.searchsorted(np.cumsum(lengths_BT.sum(axis=1)), lookup, side="right"))
        return DataError(
            f"{block.file}:{block.lines_B[example]}: id {value} of feature {feature} is out of range for "
            f"table {table.name} ({table.num_embeddings} rows); fix the line or raise the table's numEmbeddings"
        )


def select(block: RawBlock, num_features: int, features: Int64s) -> tuple[Codes, Lengths | None, npt.NDArray[np.int32]]:
    """The codes of some features in the given order, their lengths, and each lookup's place in `features`."""
    if block.lengths_BT is None:
        codes = block.codes_N.reshape(len(block), num_features)
        if len(features) != num_features or np.any(features != np.arange(num_features)):
            codes = codes[:, features]
        return (codes.reshape(-1), None, np.tile(np.arange(len(features), dtype=np.int32), len(block)))
    lengths_BT = np.empty((len(block), len(features)), np.int32)
    most = int(block.lengths_BT[:, features].sum(dtype=np.int64))
    codes_N, which_N = np.empty(most, np.uint64), np.empty(most, np.int32)
    kernels.select_features(block.codes_N, block.lengths_BT, features, codes_N, lengths_BT, which_N)
    return codes_N, lengths_BT, which_N


def feature_positions(names: Sequence[str], wanted: Sequence[str], table: str) -> list[int]:
    """Positions of a table's features in the data.

    Raises:
        ConfigError: a table names a feature that the data does not have.
    """
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the data has {listed(names) or 'no features'}"
            raise ConfigError(
                f"embedding.tables: table {table} uses feature {name!r}, which the data does not have; {hint}"
            )
    return [names.index(name) for name in wanted]


def _group(schema: RawSchema, group: WidthGroup, vocabularies: Mapping[str, Vocabulary] | None) -> _Group:
    names = [f.name for f in schema.features]
    features: list[int] = []
    tables: list[Table] = []
    offsets: list[int] = []
    for table, offset in zip(group.tables, group.offsets, strict=True):
        features += feature_positions(names, table.feature_names, table.name)
        tables += [table] * len(table.feature_names)
        offsets += [offset] * len(table.feature_names)
    lookup = LookupTables.of([vocabularies[t.name] for t in tables]) if vocabularies is not None else None
    sizes = np.array([t.num_embeddings for t in tables], np.int64)
    weighted = any(schema.features[f].weighted for f in features)
    places = (np.array(features, np.int64), tuple(tables), np.array(offsets, np.int64))
    return _Group(group, *places, sizes, lookup, weighted)
