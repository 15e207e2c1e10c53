"""Parts of a slice hold its examples and lookups once each, in order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagpipe.batch import Cursor
from bagpipe.plan import BatchPlan, GroupPlan, PeerLists, Transfer
from bagpipe.trainer.micro_batches import micro_batches

NOTHING = PeerLists.of([])
NOBODY = Transfer(NOTHING, NOTHING, NOTHING, NOTHING)
NONE, NO_KEYS = np.zeros(0, np.int32), np.zeros(0, np.int64)


def group_of(lengths_BT: np.ndarray | None, lookups: int, *, weighted: bool) -> GroupPlan:
    return GroupPlan(
        slots_K=NONE,
        inverse_N=np.arange(lookups, dtype=np.int32),
        lengths_BT=lengths_BT,
        fetch_keys=NO_KEYS,
        fetch_slots=NONE,
        num_fetch_records=0,
        fetch_after=-1,
        grad_send=NOTHING,
        grad_recv=NOTHING,
        send=NOBODY,
        receive=NOBODY,
        evict_keys=NO_KEYS,
        evict_slots=NONE,
        flush_keys=NO_KEYS,
        flush_slots=NONE,
        keys_K=NO_KEYS,
        weights_N=np.arange(lookups, dtype=np.float32) if weighted else None,
    )


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), max_size=12), st.integers(1, 15), st.booleans())
def test_nothing_is_lost_and_nothing_is_twice(lengths: list[list[int]], count: int, weighted: bool) -> None:
    """Put side by side, the parts are the slice; each has about as many examples, and none has none."""
    examples, lengths_BT = len(lengths), np.array(lengths, np.int32).reshape(-1, 2)
    jagged = group_of(lengths_BT, int(lengths_BT.sum()), weighted=weighted)
    plain = group_of(None, 3 * examples, weighted=False)
    numbers = np.arange(examples, dtype=np.float32)[:, None]
    plan = BatchPlan(
        step=4,
        rank=1,
        num_examples=100,
        first_example=40,
        end=Cursor(),
        training=True,
        checkpoint=False,
        dense_BF=numbers,
        labels_BL=numbers,
        groups=(jagged, plain),
        weights_B=numbers[:, 0] if weighted else None,
        total_weight=7.0 if weighted else None,
        groups_B=numbers[:, 0].astype(np.int64),
    )
    parts = micro_batches(plan, count)
    assert len(parts) == max(1, min(count, examples))
    sizes = [part.dense_BF.shape[0] for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert [part.first_example for part in parts] == [40 + sum(sizes[:number]) for number in range(len(parts))]
    for name in ("dense_BF", "labels_BL", "groups_B") + (("weights_B",) if weighted else ()):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(plan, name))
    for number, whole in enumerate(plan.groups):
        pieces = [part.groups[number] for part in parts]
        for name in ("inverse_N", "lengths_BT", "weights_N"):
            if getattr(whole, name) is not None:
                np.testing.assert_array_equal(
                    np.concatenate([getattr(one, name) for one in pieces]), getattr(whole, name)
                )
        assert [one.inverse_N.size for one in pieces if one.lengths_BT is not None] == [
            int(one.lengths_BT.sum()) for one in pieces if one.lengths_BT is not None
        ]
