"""Rows of one's own columns (`data.columns`) to values, by what the export's `transform.json` says of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from bagpipe.data.column_cells import dense_cells, source_of, sparse_cells
from bagpipe.data.column_values import Problems
from bagpipe.data.raw import Kind
from bagpipe.data.value_counts import ValueCounts
from bagpipe.errors import DataError
from bagpipe.standalone.block import Block, Values
from bagpipe.standalone.column_settings import DenseColumn, DenseStatistics, SparseColumn, read_setting


class OwnColumns:
    """What `data.columns` described.

    Args:
        info: the content of `transform.json`.
        counts: of the dense columns with `count`, by their names.

    Raises:
        CheckpointError: a setting is of a later version.
    """

    def __init__(self, info: Mapping[str, Any], counts: Mapping[str, ValueCounts]) -> None:
        self._counts, columns = counts, info["columns"]
        self.header: tuple[str, ...] = tuple(columns.get("header", ()))
        self._dense = [read_setting(DenseColumn, one) for one in columns.get("dense", ())]
        self._sparse = [read_setting(SparseColumn, one) for one in columns.get("sparse", ())]
        self._kinds: list[Kind] = [feature["kind"] for feature in info["features"]]
        self._jagged: bool = info["jagged"]
        found = [read_setting(DenseStatistics, one) for one in info.get("statistics", ())]
        self._statistics = {one.name: one for one in found}
        names = [*map(_source, self._dense), *(n for c in self._sparse for n in (_source(c), c.weight))]
        self.names = tuple(dict.fromkeys(name for name in names if name))

    def block(self, table: pa.Table, where: str, first_row: int) -> Block:
        """The examples of a table that has the columns `names`.

        Args:
            where: the file, for messages.
            first_row: number of the table's first row.

        Raises:
            DataError: a cell cannot be what its column is; names row and column.
        """
        try:
            return self._block(table, where, first_row)
        except pa.ArrowException as error:
            words = " ".join(str(error).split())
            raise DataError(
                f"{where}: rows from {first_row} on cannot be read as columns were learned ({words})"
            ) from error

    def _block(self, table: pa.Table, where: str, first_row: int) -> Block:
        problems = Problems(np.zeros(table.num_rows, np.bool_))
        dense_BF = np.zeros((table.num_rows, len(self._dense)), np.float32)
        for place, dense in enumerate(self._dense):
            known: Any = self._statistics.get(dense.name)
            dense_BF[:, place] = dense_cells(table, _settings(dense), known, problems, self._counts.get(dense.name))
        both = zip(self._sparse, self._kinds, strict=True)
        values = tuple(self._values(table, sparse, kind, problems) for sparse, kind in both)
        if problems.first_row is not None:
            raise DataError(f"{where}: row {first_row + problems.first_row}: {problems.words}")
        return Block(dense_BF, values)

    def _values(self, table: pa.Table, sparse: SparseColumn, kind: Kind, problems: Problems) -> Values:
        lists = sparse_cells(table, _settings(sparse), kind, problems, jagged=self._jagged)
        if not self._jagged:
            return Values(lists.codes)
        lengths = lists.lengths.astype(np.int64)
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        place = np.repeat(lists.begins, lengths) + within
        return Values(lists.codes[place], lengths, None if lists.weights is None else lists.weights[place])


def _settings(column: DenseColumn | SparseColumn) -> Any:
    """As the library's own functions take them, which read nothing but fields of the same names."""
    return column


def _source(column: DenseColumn | SparseColumn) -> str:
    return source_of(_settings(column))
