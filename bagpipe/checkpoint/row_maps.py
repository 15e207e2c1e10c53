"""Maps the rows of another run's table to rows of a table here, so that values keep their vectors. Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.data.raw import Kind
from bagpipe.data.transform import Transform
from bagpipe.data.vocabulary import Vocabulary
from bagpipe.tables import Table

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TableOfRun:
    """A table with the transform that gives values their rows."""

    table: Table
    transform: Transform | None
    """None: it was not kept."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The table's vocabulary; None where its values have no rows of their own."""
        if self.transform is None or self.transform.vocabularies is None:
            return None
        return self.transform.vocabularies.get(self.table.name)

    @property
    def encoding(self) -> str | None:
        """How values become rows."""
        return None if self.transform is None else self.transform.info.encoding

    @property
    def kind(self) -> Kind | None:
        """What the codes of its values are."""
        if self.transform is None:
            return None
        kinds = {feature.name: feature.kind for feature in self.transform.info.features}
        return next((kinds[name] for name in self.table.feature_names if name in kinds), None)

    @property
    def boundaries(self) -> set[tuple[float, ...]]:
        """Between which its values are intervals; empty where they are none."""
        columns = None if self.transform is None else self.transform.info.columns
        sparse = () if columns is None else columns.sparse
        return {column.boundaries for column in sparse if column.name in self.table.feature_names and column.boundaries}


def row_map(here: TableOfRun, there: TableOfRun) -> Rows | str:
    """For each row of the table there its row here, or -1; or, as a text, why no row can be taken."""
    if here.table.embedding_dim != there.table.embedding_dim:
        return f"width {there.table.embedding_dim} there, {here.table.embedding_dim} here"
    if here.encoding != there.encoding:
        return f"values have their rows by {there.encoding or 'unknown means'} there, by {here.encoding} here"
    by_value = here.vocabulary is not None and there.vocabulary is not None
    # A hash is of a value's code, so the same text or number lands in another row where the kind is another.
    if (by_value or here.encoding == "hash") and here.kind != there.kind:
        return f"values are of kind {there.kind} there, {here.kind} here"
    if here.boundaries != there.boundaries:  # The code is the interval's number, which stands for another one there.
        return "values are intervals between other boundaries there"
    if here.vocabulary is not None and there.vocabulary is not None:
        return _by_value(here.vocabulary, there.vocabulary)
    rows_here, rows_there = here.table.num_embeddings, there.table.num_embeddings
    if here.encoding == "hash" and rows_here != rows_there:
        return f"values are hashed into {rows_there} rows there, {rows_here} here"
    rows = np.arange(rows_there, dtype=np.int64)
    rows[rows_here:] = -1
    return rows


def _by_value(here: Vocabulary, there: Vocabulary) -> Rows:
    """Map the values that both know. The first rows stand for all others, and are mapped if both have as many."""
    rows = np.full(there.num_rows, -1, np.int64)
    if here.first_row == there.first_row:
        rows[: here.first_row] = np.arange(here.first_row)
    order = np.argsort(here.codes)
    place = np.minimum(np.searchsorted(here.codes[order], there.codes), max(len(order) - 1, 0))
    if len(order):
        known = here.codes[order][place] == there.codes
        rows[there.first_row :][known] = here.first_row + order[place[known]]
    return rows
