"""From codes to weights: which row of its table a value has, and what the row holds."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bagpipe.data.value_counts import ValueCounts
from bagpipe.errors import CheckpointError, DataError
from bagpipe.standalone.block import Codes
from bagpipe.standalone.layout import Table
from bagpipe.standalone.plain_kernels import first_weights, mix

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ByHash:
    """Row 0 for missing values; every other one is hashed into the rest of the table."""

    size: int

    def rows(self, codes_N: Codes, feature: str) -> Rows:
        if self.size == 1:
            return np.zeros(len(codes_N), np.int64)
        hashed = (mix(codes_N) % np.uint64(self.size - 1)).astype(np.int64) + 1
        return np.where(codes_N != 0, hashed, 0)


@dataclass(frozen=True, slots=True)
class ById:
    """Values are rows."""

    table: str
    size: int

    def rows(self, codes_N: Codes, feature: str) -> Rows:
        """Raises:
        DataError: an id is no row of the table.
        """
        rows = codes_N.view(np.int64) - 1
        wrong = np.flatnonzero((rows < 0) | (rows >= self.size))
        if len(wrong):
            raise DataError(
                f"id {rows[wrong[0]]} of feature {feature} is out of range for table {self.table} ({self.size} rows)"
            )
        return rows


@dataclass(frozen=True, slots=True)
class ByVocabulary:
    """Rows of known values; the first `others` rows for all else, by hash. `codes` rise."""

    codes: Codes
    numbers: Rows
    others: int

    def rows(self, codes_N: Codes, feature: str) -> Rows:
        rows = np.zeros(len(codes_N), np.int64)
        if self.others > 1:
            hashed = (mix(codes_N) % np.uint64(self.others)).astype(np.int64)
            rows = np.where(codes_N != 0, hashed, 0)
        if len(self.codes):
            place = np.minimum(np.searchsorted(self.codes, codes_N), len(self.codes) - 1)
            known = self.codes[place] == codes_N
            rows[known] = self.numbers[place[known]]
        return rows


RowFinder = ByHash | ById | ByVocabulary


def row_finders(folder: Path, info: Mapping[str, Any], tables: tuple[Table, ...]) -> dict[str, RowFinder]:
    """For each table, how its rows are found; `folder` holds the transform.

    Raises:
        CheckpointError: the vocabulary is missing or damaged.
    """
    if info["encoding"] == "hash":
        return {t.name: ByHash(t.num_embeddings) for t in tables}
    if info["encoding"] == "ids":
        return {t.name: ById(t.name, t.num_embeddings) for t in tables}
    finders: dict[str, RowFinder] = {}
    for table, found in zip(info["tables"], _kept_values(folder, info), strict=False):
        codes, rows = found.column("code").to_numpy(), found.column("row").to_numpy()
        order = np.argsort(codes)
        finders[table["name"]] = ByVocabulary(codes[order], rows[order], table.get("oovRows", 1))
    return finders


def value_counts(folder: Path, info: Mapping[str, Any]) -> dict[str, ValueCounts]:
    """The counts of each dense column with `count`, by its name; `folder` holds the transform.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    counted = info.get("counted", ())
    parts = _kept_values(folder, info)[len(info["tables"]) :] if counted else ()
    return {
        one["name"]: ValueCounts(one["kind"], found.column("code").to_numpy(), found.column("count").to_numpy())
        for one, found in zip(counted, parts, strict=True)
    }


def _kept_values(folder: Path, info: Mapping[str, Any]) -> list[pa.Table]:
    """The values that each table has rows for, then those that each dense column has counted: code, row, count."""
    path = folder / "vocabulary.arrow"
    try:
        with pa.memory_map(str(path)) as file:
            found = pa.ipc.open_file(file).read_all().select(["table", "code", "row", "count"])
        which = np.concatenate([np.zeros(0, np.int32), *(c.indices.to_numpy() for c in found.column("table").chunks)])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); export the model again") from None
    bounds = np.searchsorted(which, np.arange(len(info["tables"]) + len(info.get("counted", ())) + 1)).tolist()
    return [found.slice(begin, end - begin) for begin, end in itertools.pairwise(bounds)]


@dataclass(frozen=True, slots=True)
class StoredTable:
    """The rows of one table, as exported: all of them, or those that training touched; the others are computed."""

    table: Table
    number: int
    """Place in the job's list of tables."""
    values: npt.NDArray[Any]
    """`[stored, D]`, float32, float16 or int8."""
    touched: Rows | None
    """Rows that are stored, rising; None: all."""
    scales: Floats | None
    """Of int8: what one step of each stored row is worth."""
    seed: int
    first_scale: float
    """Half-width of the distribution of first weights."""

    def weights(self, rows_N: Rows) -> Floats:
        """`[N, D]`."""
        if self.touched is None:
            return self._stored(rows_N)
        out = np.empty((len(rows_N), self.table.embedding_dim), np.float32)
        if len(self.touched):
            place = np.minimum(np.searchsorted(self.touched, rows_N), len(self.touched) - 1)
            known = self.touched[place] == rows_N
        else:
            place, known = np.zeros(len(rows_N), np.int64), np.zeros(len(rows_N), np.bool_)
        out[known] = self._stored(place[known])
        born = rows_N[~known]
        out[~known] = first_weights(self.seed, self.number, born, self.table.embedding_dim, self.first_scale)
        return out

    def _stored(self, place_N: Rows) -> Floats:
        values = self.values[place_N].astype(np.float32)
        return values if self.scales is None else values * self.scales[place_N, None]
