"""`Batch`: one global batch, which readers yield and the planner consumes. Without torch.

Shape letters used across the library: `B` examples of the batch (or of one trainer's slice), `F`
dense features, `T` sparse features of one width group, `N` lookups, `K` distinct rows, `S` slots,
`D` embedding_dim.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Lengths = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a batch begins in the stream: enough to start reading there (contract X5).

    `epoch` counts passes over the training part; `position` counts examples of that pass that
    come before this batch, in the (possibly shuffled) order of that pass.
    """

    epoch: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class SparseBlock:
    """The lookups of one width group, example-major: example 0's features in order, then example 1's.

    `keys_N` are row numbers within the group (`WidthGroup.key_of`). `lengths_BT` counts the lookups
    of each (example, feature); None means exactly one each, so that N = B * T. `weights_N` are the
    weights of the lookups, from 0; None: all are 1. Blocks with weights have `lengths_BT`.
    """

    keys_N: Keys
    lengths_BT: Lengths | None = None
    weights_N: Floats | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One global batch. `sparse` has one block for each width group, in `TableLayout.groups` order."""

    cursor: Cursor
    """Where this batch begins."""
    end: Cursor
    """Where the next batch begins (start of the next epoch after the last batch of one)."""
    dense_BF: Floats
    labels_BL: Floats
    """Targets, `[B, L]`; click logs have L = 1."""
    sparse: tuple[SparseBlock, ...]
    weights_B: Floats | None = None
    """Weight of each example in the loss and in figures; None: all weigh the same."""
    groups_B: Int64s | None = None
    """Group of each example (its user or session), as a number that stands for the value of `columns.group`; None: the
    data has no groups."""

    @property
    def num_examples(self) -> int:
        return int(self.dense_BF.shape[0])
