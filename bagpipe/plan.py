"""`BatchPlan`: every decision about one step, for one trainer, which only carries it out.

A plan lists *rows* in three ways. A **local index** (0..K-1) names a distinct row that this trainer
uses in this step; a **slot** names a position in the trainer's cache; a **key** names a row of the
tables. Trainers never translate between them: the plan carries what each action needs.

One step at a trainer, in this order (the order is what makes slot reuse safe without a quarantine:
everything that leaves is copied out before anything that arrives is copied in):

1. the rows in `fetch_keys` (requested earlier) are written to `fetch_slots`;
2. `slots_K` are gathered, `inverse_N` spreads them over the lookups, forward and backward run;
3. gradients of rows owned elsewhere go to their owners (`grad_send`), others' arrive (`grad_recv`);
4. the owner sums in rank order, scales, and updates the rows it owns (`owned`);
5. new values leave (`send`), evicted rows are copied out for their servers (`evict_*`);
6. values from other owners arrive (`receive`): eager ones before the next step reads its rows, deferred ones
   before the step after it does; at a checkpoint or a validation, all of them, and then `flush_*` is copied out too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Cursor, Floats, Int64s, Keys, Lengths

Slots = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PeerLists:
    """One list of int32 for each rank, concatenated: rank r's is `values[offsets[r]:offsets[r+1]]`."""

    offsets: npt.NDArray[np.int32]
    values: npt.NDArray[np.int32]

    def __getitem__(self, rank: int) -> npt.NDArray[np.int32]:
        return self.values[self.offsets[rank] : self.offsets[rank + 1]]

    @classmethod
    def of(cls, lists: Sequence[npt.ArrayLike]) -> "PeerLists":
        arrays = [np.asarray(x, np.int32).reshape(-1) for x in lists]
        offsets = np.zeros(len(arrays) + 1, np.int32)
        np.cumsum([a.size for a in arrays], out=offsets[1:])
        return cls(offsets, np.concatenate(arrays) if arrays else np.zeros(0, np.int32))


@dataclass(frozen=True, slots=True)
class Transfer:
    """Rows moving between trainers after the update, by slot, in the same order at both ends.

    `values` carry weights only; `records` carry weights and optimizer state, because the row's owner
    changes. `eager_*` are needed by the very next step; the others may travel under its compute.
    """

    eager_values: PeerLists
    eager_records: PeerLists
    deferred_values: PeerLists
    deferred_records: PeerLists


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """The decisions of one step for one width group, at one trainer."""

    slots_K: Slots
    """Cache slot of each distinct row used here, by local index."""
    inverse_N: npt.NDArray[np.uint16] | npt.NDArray[np.int32]
    """Local index of each lookup, example-major."""
    lengths_BT: Lengths | None
    """Lookups of each (example, feature); None: exactly one each."""
    fetch_keys: Keys
    fetch_slots: Slots
    num_fetch_records: int
    """The first so many fetched rows come with optimizer state (this trainer will own them)."""
    fetch_after: int
    """A server answers once every trainer's write-back watermark has reached this step (-1: at once)."""
    grad_send: PeerLists
    """Local indices of rows whose gradients go to each owner."""
    grad_recv: PeerLists
    """Local indices of rows owned here for which each rank sends a gradient."""
    send: Transfer
    receive: Transfer
    evict_keys: Keys
    evict_slots: Slots
    """Rows that leave the cache of their owner here: written back after the step."""
    flush_keys: Keys
    flush_slots: Slots
    """At a checkpoint or a validation only: rows that stay are also written back, once everything has arrived."""
    keys_K: Keys
    """Key of each distinct row; empty unless the trainer asked for it (`Hello.init_cache`)."""
    weights_N: Floats | None = None
    """Weight of each lookup; None: all are 1, and nothing travels. With weights there is `lengths_BT`."""

    def owned(self) -> Indices:
        """Local indices of the rows this trainer owns in this step: those whose gradients stay here. Ascending."""
        stays = np.ones(self.slots_K.size, np.bool_)
        stays[self.grad_send.values] = False
        return np.flatnonzero(stays).astype(np.int32)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One trainer's slice of a batch and everything decided about it."""

    step: int
    rank: int
    num_examples: int
    """Examples of the global batch; this trainer has `dense_BF.shape[0]` of them."""
    first_example: int
    """Position of this slice in the global batch."""
    end: Cursor
    """Where the next batch begins: the resume point if a checkpoint is taken after this step."""
    training: bool
    """False: evaluation; rows are read and never written back."""
    checkpoint: bool
    """A checkpoint is taken after this step."""
    dense_BF: Floats
    labels_BL: Floats
    groups: tuple[GroupPlan, ...]
    weights_B: Floats | None = None
    """Weight of each example of this slice; None: all weigh the same, and nothing travels."""
    total_weight: float | None = None
    """Sum of the weights of the global batch, in float64: what a weighted mean over all slices is divided by."""
    validates: bool = False
    """The validation part is evaluated after this step: everything that is newer here than on the servers is written
    back, as at a checkpoint.
    """
    groups_B: Int64s | None = None
    """Group of each example of this slice; None: the data has no groups, and nothing travels."""
