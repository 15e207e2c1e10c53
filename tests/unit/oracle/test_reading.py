"""Plans that only read name, for every lookup of every slice, the row that it looks up, and nothing else."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.batch import Batch, Cursor, SparseBlock
from bagpipe.net.plan_codec import pack_plan, unpack_plan
from bagpipe.oracle.plan.reading import reading_plans
from bagpipe.tables import Table, TableLayout

LAYOUT = TableLayout.of([Table("a", 9, 4, ("a", "b")), Table("c", 50, 8, ("c",))])


@settings(deadline=None)
@given(examples=st.integers(0, 7), world=st.integers(1, 3), bags=st.booleans(), seed=st.integers(0, 99))
def test_each_slice_reads_the_rows_of_its_lookups(examples: int, world: int, bags: bool, seed: int) -> None:
    """In the order of the lookups, each row fetched once, through the wire and back."""
    rng = np.random.default_rng(seed)
    blocks = []
    for group in LAYOUT.groups:
        features = len(group.feature_names)
        lengths = rng.integers(0, 4, (examples, features)).astype(np.int32) if bags else None
        count = examples * features if lengths is None else int(lengths.sum())
        blocks.append(SparseBlock(rng.integers(0, group.num_rows, count), lengths))
    labels = rng.random((examples, 1)).astype(np.float32)
    batch = Batch(Cursor(), Cursor(), np.zeros((examples, 2), np.float32), labels, tuple(blocks))
    plans = [unpack_plan(*pack_plan(plan)) for plan in reading_plans(LAYOUT, batch, 5, world_size=world, after=8)]
    assert np.array_equal(np.concatenate([plan.labels_BL for plan in plans]), labels)
    for index, block in enumerate(blocks):
        looked_up = [plan.groups[index].fetch_keys[plan.groups[index].inverse_N] for plan in plans]
        assert np.array_equal(np.concatenate(looked_up), block.keys_N)
    for plan in plans:
        assert plan.step == 5 and not plan.training and not plan.checkpoint and not plan.validates
        for part in plan.groups:
            assert part.fetch_after == 8 and part.num_fetch_records == 0
            assert np.unique(part.fetch_keys).size == part.fetch_keys.size == part.slots_K.size
            assert not part.evict_keys.size and not part.flush_keys.size and not part.grad_send.values.size
