"""Row gradients of several trainers are summed in the order of ranks, to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.cache.cache import HostCache, Reduction, RowKind
from bagpipe.config.document import RowOptimizer
from bagpipe.trainer.sums import Contribution, add_in_rank_order

VALUES = np.array([0.0, -0.0, 1e8, -1e8, 1.0, -1.0, 3e-8, 0.1, 1 / 3], np.float32)
"""Zeros of both signs, and numbers whose sum depends on the order."""


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), world=st.integers(2, 6), num_rows=st.integers(1, 12))
def test_in_the_order_of_ranks(seed: int, world: int, num_rows: int) -> None:
    """`((0 + g_0) + g_1) + ...` over the trainers that use a row, whichever of them owns it."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(world))
    uses = rng.random((world, num_rows)) < 0.5
    uses[rank] = True
    gradients = rng.choice(VALUES, (world, num_rows, 3))
    expected = np.zeros((num_rows, 3), np.float32)
    for source in range(world):
        expected[uses[source]] += gradients[source, uses[source]]
    others = [
        Contribution(source, index, gradients[source, index])
        for source in range(world)
        if source != rank and (index := np.flatnonzero(uses[source]).astype(np.int32)).size
    ]
    own = gradients[rank].copy()
    add_in_rank_order(own, rank, others)
    own += np.float32(0.0)
    assert own.tobytes() == expected.tobytes()


@pytest.mark.parametrize("num_rows", [5, 1024, 2500])
def test_an_update_takes_the_scaled_sums_of_the_rows_it_names(num_rows: int) -> None:
    """`w -= lr * (0 + sum) * scale`, in as many blocks as it takes, and no other row moves."""
    rng = np.random.default_rng(num_rows)
    cache = HostCache(2 * num_rows, 4, 4, [RowKind(RowOptimizer(name="sgd", lr=0.5))])
    slots = rng.permutation(2 * num_rows)[:num_rows].astype(np.int32)
    index = rng.permutation(3 * num_rows)[:num_rows].astype(np.int32)
    sums = rng.random((3 * num_rows, 4), np.float32)
    cache.update(slots, sums, index, Reduction(4, mean=True), 0)
    expected = np.zeros((2 * num_rows, 4), np.float32)
    expected[slots] -= np.float32(0.5) * (sums[index] * np.float32(0.25))
    np.testing.assert_array_equal(cache.take_values(np.arange(2 * num_rows, dtype=np.int32)), expected)
