"""Plans that only read: for a batch of the validation part, the rows that each trainer's slice looks up. Pure.

Nothing is kept from one batch to the next, no slot is given out and no row has an owner: rows come from the servers,
go through the model and are dropped. What trainers have cached for training stays as it is.
"""

from collections.abc import Iterator

import numpy as np

from bagpipe.batch import Batch
from bagpipe.oracle.plan.schedule import NO_KEYS, assemble, slice_bounds, slice_lookups
from bagpipe.plan import BatchPlan, GroupPlan, PeerLists, Slots, Transfer
from bagpipe.tables import TableLayout

_NO_SLOTS: Slots = np.zeros(0, np.int32)


def reading_plans(
    layout: TableLayout, batch: Batch, number: int, *, world_size: int, after: int
) -> tuple[BatchPlan, ...]:
    """One plan for each trainer, which evaluates its slice of the batch.

    Args:
        number: of the batch in the validation part.
        after: the training step whose rows are read.
    """
    groups = [tuple(_of_group(layout, batch, index, world_size, after)) for index in range(len(layout.groups))]
    return assemble(batch, number, groups, training=False, checkpoint=False)


def _of_group(layout: TableLayout, batch: Batch, index: int, world_size: int, after: int) -> Iterator[GroupPlan]:
    block = batch.sparse[index]
    features = len(layout.groups[index].feature_names)
    lookups = slice_lookups(block, slice_bounds(batch.num_examples, world_size), features)
    nobody = PeerLists.of([[]] * world_size)
    nothing = Transfer(nobody, nobody, nobody, nobody)
    for rank in range(world_size):
        begin, end = int(lookups.bounds[rank]), int(lookups.bounds[rank + 1])
        keys_K, inverse = np.unique(lookups.keys_N[begin:end], return_inverse=True)
        places = np.arange(keys_K.size, dtype=np.int32)
        yield GroupPlan(
            slots_K=places,
            inverse_N=inverse.astype(np.uint16) if keys_K.size <= 1 << 16 else inverse.astype(np.int32),
            lengths_BT=lookups.lengths[rank],
            fetch_keys=keys_K,
            fetch_slots=places,
            num_fetch_records=0,
            fetch_after=after,
            grad_send=nobody,
            grad_recv=nobody,
            send=nothing,
            receive=nothing,
            evict_keys=NO_KEYS,
            evict_slots=_NO_SLOTS,
            flush_keys=NO_KEYS,
            flush_slots=_NO_SLOTS,
            keys_K=NO_KEYS,
        )
