"""A run of examples whose lookups are already keys: what readers produce and batches are cut from.

Everything here is a pure function of arrays: slicing, joining and reordering whole examples. Shape
letters as in `bagpipe.batch`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from bagpipe.batch import Floats, Keys, Lengths, SparseBlock

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Examples:
    """Consecutive examples; `sparse` has one block for each width group."""

    labels_BL: Floats
    dense_BF: Floats
    sparse: tuple[SparseBlock, ...]

    def __len__(self) -> int:
        return int(self.labels_BL.shape[0])

    def slice(self, start: int, stop: int) -> "Examples":
        """Examples `start..stop-1`, as views."""
        if start == 0 and stop == len(self):
            return self
        blocks = tuple(_slice(block, start, stop, len(self)) for block in self.sparse)
        return Examples(self.labels_BL[start:stop], self.dense_BF[start:stop], blocks)

    def take(self, index_B: Int64s) -> "Examples":
        """The examples `index_B`, in that order."""
        blocks = tuple(_take(block, index_B, len(self)) for block in self.sparse)
        return Examples(self.labels_BL[index_B], self.dense_BF[index_B], blocks)


def concatenate(parts: Sequence[Examples]) -> Examples:
    """The examples of all parts, one after another; at least one part is given."""
    if len(parts) == 1:
        return parts[0]
    blocks = []
    for group in range(len(parts[0].sparse)):
        members = [part.sparse[group] for part in parts]
        lengths = [m.lengths_BT for m in members if m.lengths_BT is not None]
        keys_N = np.concatenate([m.keys_N for m in members])
        blocks.append(SparseBlock(keys_N, np.concatenate(lengths) if lengths else None))
    labels = np.concatenate([part.labels_BL for part in parts])
    return Examples(labels, np.concatenate([part.dense_BF for part in parts]), tuple(blocks))


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
    return SparseBlock(block.keys_N[before : before + count], lengths_BT)


def _take(block: SparseBlock, index_B: Int64s, num_examples: int) -> SparseBlock:
    if block.lengths_BT is None:
        return SparseBlock(block.keys_N.reshape(num_examples, -1)[index_B].reshape(-1))
    lengths_BT = block.lengths_BT[index_B]
    keys_N = np.empty(int(lengths_BT.sum(dtype=np.int64)), np.int64)
    _copy_examples(block.keys_N, lookups_before(block.lengths_BT), index_B, keys_N)
    return SparseBlock(keys_N, lengths_BT)


@njit(cache=True, nogil=True)
def _copy_examples(keys_N: Keys, starts: Int64s, index_B: Int64s, out_N: Keys) -> None:
    at = 0
    for example in index_B:
        for position in range(starts[example], starts[example + 1]):
            out_N[at] = keys_N[position]
            at += 1
