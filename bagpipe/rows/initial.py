"""The first value of a row, a pure function of (seed, table, row, dim) (contract X4).

The generator is counter-based: element j of row r of table t is a hash of (seed, t, r, j), so that rows need no order,
no stored generator and no memory before they are written. 24 bits of the hash become a float32 in [-1, 1) without
rounding; the product with the scale is rounded once, alike on every machine.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bagpipe.batch import Floats
from bagpipe.config.document import EmbeddingConfig
from bagpipe.rows.recipe import recipes_of
from bagpipe.rows.record import group_record_width, initial_state
from bagpipe.tables import WidthGroup


@njit(cache=True, nogil=True)
def _mix(x: Any) -> Any:
    """Stafford's variant 13 of the 64-bit finalizer: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def _fill(seed: Any, tables: Any, rows: Any, scales: Any, dim: Any, where: Any, out: Any) -> None:
    golden = np.uint64(0x9E3779B97F4A7C15)
    for i in range(rows.shape[0]):
        base = _mix(_mix(np.uint64(seed) + golden * np.uint64(tables[i] + 1)) + golden * np.uint64(rows[i] + 1))
        scale = scales[i]
        for j in range(dim):
            bits = _mix(base + golden * np.uint64(j + 1)) >> np.uint64(40)
            centred = np.float32(np.int32(bits) - np.int32(1 << 23)) * np.float32(2.0**-23)
            out[where[i], j] = centred * scale


def initial_rows(seed: int, table: int, rows: npt.ArrayLike, dim: int, scale: float) -> Floats:
    """First weights of `rows` of the job's table number `table`: uniform in [-scale, scale), `[n, dim]`."""
    index = np.asarray(rows, np.int64)
    out = np.empty((index.size, dim), np.float32)
    tables = np.full(index.size, table, np.int64)
    scales = np.full(index.size, scale, np.float32)
    _fill(seed, tables, index, scales, dim, np.arange(index.size), out)
    return out


class InitialRows:
    """Rows of one width group by key, as they are before training."""

    def __init__(self, group: WidthGroup, embedding: EmbeddingConfig, seed: int) -> None:
        self.dim = group.embedding_dim
        self.record_width = group_record_width(embedding, group)
        recipes = recipes_of(embedding, group)
        scales = [row_scale(t.num_embeddings, r.init_scale) for t, r in zip(group.tables, recipes, strict=True)]
        self._seed = seed
        self._offsets = np.array(group.offsets, np.int64)
        self._tables = np.array(group.table_indices, np.int64)
        self._scales = np.array(scales, np.float32)
        self._states = np.array([initial_state(r.optimizer) for r in recipes], np.float32)

    def fill(self, keys: npt.NDArray[np.int64], where: npt.NDArray[np.int64], out: Floats) -> None:
        """Write the weights of `keys[i]` to `out[where[i], :dim]`."""
        if keys.size:
            member = np.searchsorted(self._offsets, keys, side="right") - 1
            rows = keys - self._offsets[member]
            _fill(self._seed, self._tables[member], rows, self._scales[member], self.dim, where, out)

    def fill_records(self, keys: npt.NDArray[np.int64], out: Floats) -> None:
        """Write weights and optimizer state of `keys[i]` to `out[i]`: as many columns as `out` has, `dim` at least."""
        self.fill(keys, np.arange(keys.size), out)
        if out.shape[1] > self.dim:
            member = np.searchsorted(self._offsets, keys, side="right") - 1
            out[:, self.dim :] = self._states[member][:, None]


def row_scale(num_embeddings: int, init_scale: float | None) -> float:
    """Half-width of a new row's distribution: as set, or 1 / sqrt(rows), as in DLRM."""
    return init_scale if init_scale is not None else 1.0 / math.sqrt(num_embeddings)
