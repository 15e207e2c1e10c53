"""A run of examples whose lookups are already keys: what readers produce and batches are cut from.

Everything here is a pure function of arrays: slicing, joining and reordering whole examples. Shape
letters as in `bagpipe.batch`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from bagpipe.batch import Floats, Int64s, Lengths, SparseBlock

Number = TypeVar("Number", np.float32, np.int64)
Range = slice
"""`slice` has another meaning within `Examples`."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Consecutive examples; `sparse` has one block for each width group."""

    labels_BL: Floats
    dense_BF: Floats
    sparse: tuple[SparseBlock, ...]
    weights_B: Floats | None = None
    groups_B: Int64s | None = None

    def __len__(self) -> int:
        return int(self.labels_BL.shape[0])

    def slice(self, start: int, stop: int) -> "Examples":
        """Examples `start..stop-1`, as views."""
        if start == 0 and stop == len(self):
            return self
        blocks = tuple(_slice(block, start, stop, len(self)) for block in self.sparse)
        return self._with(blocks, Range(start, stop))

    def take(self, index_B: Int64s) -> "Examples":
        """The examples `index_B`, in that order."""
        blocks = tuple(_take(block, index_B, len(self)) for block in self.sparse)
        return self._with(blocks, index_B)

    def _with(self, sparse: tuple[SparseBlock, ...], chosen: Range | Int64s) -> "Examples":
        """The chosen examples, whose lookups are `sparse`."""
        weights = None if self.weights_B is None else self.weights_B[chosen]
        groups = None if self.groups_B is None else self.groups_B[chosen]
        return Examples(self.labels_BL[chosen], self.dense_BF[chosen], sparse, weights, groups)


def concatenate(parts: Sequence[Examples]) -> Examples:
    """The examples of all parts, one after another; at least one part is given."""
    if len(parts) == 1:
        return parts[0]
    blocks = []
    for group in range(len(parts[0].sparse)):
        members = [part.sparse[group] for part in parts]
        lengths = [m.lengths_BT for m in members if m.lengths_BT is not None]
        keys_N = np.concatenate([m.keys_N for m in members])
        weights_N = joined([m.weights_N for m in members])
        blocks.append(SparseBlock(keys_N, np.concatenate(lengths) if lengths else None, weights_N))
    return Examples(
        np.concatenate([part.labels_BL for part in parts]),
        np.concatenate([part.dense_BF for part in parts]),
        tuple(blocks),
        joined([part.weights_B for part in parts]),
        joined([part.groups_B for part in parts]),
    )


def joined(parts: "Sequence[npt.NDArray[Number] | None]") -> "npt.NDArray[Number] | None":
    """All parts one after another; either all are arrays or none is."""
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else None


def lookups_before(lengths_BT: Lengths) -> Int64s:
    """Where each example's lookups begin, `[B + 1]`."""
    starts = np.zeros(lengths_BT.shape[0] + 1, np.int64)
    np.cumsum(lengths_BT.sum(axis=1, dtype=np.int64), out=starts[1:])
    return starts


def _slice(block: SparseBlock, start: int, stop: int, num_examples: int) -> SparseBlock:
    if block.lengths_BT is None:
        width = block.keys_N.shape[0] // num_examples if num_examples else 0
        return SparseBlock(block.keys_N[start * width : stop * width])
    before = int(block.lengths_BT[:start].sum(dtype=np.int64))
    lengths_BT = block.lengths_BT[start:stop]
    count = int(lengths_BT.sum(dtype=np.int64))
    weights_N = None if block.weights_N is None else block.weights_N[before : before + count]
    return SparseBlock(block.keys_N[before : before + count], lengths_BT, weights_N)


def _take(block: SparseBlock, index_B: Int64s, num_examples: int) -> SparseBlock:
    if block.lengths_BT is None:
        return SparseBlock(block.keys_N.reshape(num_examples, -1)[index_B].reshape(-1))
    lengths_BT = block.lengths_BT[index_B]
    starts, total = lookups_before(block.lengths_BT), int(lengths_BT.sum(dtype=np.int64))
    keys_N, weights_N = np.empty(total, np.int64), None
    _copy_examples(block.keys_N, starts, index_B, keys_N)
    if block.weights_N is not None:
        weights_N = np.empty(total, np.float32)
        _copy_examples(block.weights_N, starts, index_B, weights_N)
    return SparseBlock(keys_N, lengths_BT, weights_N)


@njit(cache=True, nogil=True)
def _copy_examples(values_N: Any, starts: Int64s, index_B: Int64s, out_N: Any) -> None:
    at = 0
    for example in index_B:
        for position in range(starts[example], starts[example + 1]):
            out_N[at] = values_N[position]
            at += 1
