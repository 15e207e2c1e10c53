"""What does not fit into memory while data is prepared lies in files, and comes to the same."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.data import split, vocabulary
from bagpipe.data.split import nth_smallest
from bagpipe.data.vocabulary import ValueCounter

CODES = st.one_of(st.integers(0, 3000), st.sampled_from([0, 1, 2**63, 2**64 - 1]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([30, 900, 5000, 2**63]), least=st.integers(1, 4))
def test_counting_in_runs_on_disk_equals_counting_in_memory(seed, spread, least):
    """Whatever the number of runs and how they overlap; compared with a plain count of Python's."""
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(0, spread, 700).astype(np.uint64) * np.uint64(rng.integers(1, 3)) for _ in range(8)]
    counter = ValueCounter(most_held=640)
    before = vocabulary.MERGED_VALUES
    vocabulary.MERGED_VALUES = 100
    try:
        for block in blocks:
            counter.add(block)
            assert counter._held <= 640
        codes, counts = counter.result(least)
    finally:
        vocabulary.MERGED_VALUES = before
    expected = Counter(int(code) for block in blocks for code in block)
    ordered = sorted((c for c in expected if expected[c] >= least), key=lambda c: (-expected[c], c))
    assert codes.tolist() == ordered
    assert counts.tolist() == [expected[c] for c in ordered]


def test_runs_leave_no_file(tmp_path):
    """They have no name in the folder, so that nothing is left of them when a process is killed."""
    counter = ValueCounter(most_held=640, scratch=tmp_path)
    counter.add(np.arange(1, 5000, dtype=np.uint64))
    assert "runs=7" in repr(counter)
    assert not list(tmp_path.iterdir())
    assert counter.result()[0].tolist() == list(range(1, 5000))


REALS = st.floats(allow_nan=False) | st.integers(-3, 3).map(float) | st.just(-0.0)


@settings(max_examples=200, deadline=None)
@given(numbers=st.lists(REALS, min_size=1, max_size=40), data=st.data())
def test_the_nth_smallest_number_is_that_of_the_sorted_ones(numbers, data):
    """Negative, tiny, infinite and repeated ones, without sorting them."""
    place = data.draw(st.integers(0, len(numbers) - 1))
    assert nth_smallest(np.array(numbers), place) == sorted(numbers)[place]


@pytest.mark.parametrize("stretch", [1, 7, 1000])
def test_it_is_found_whatever_fits_into_memory(stretch, monkeypatch):
    """Numbers are looked at stretch by stretch."""
    monkeypatch.setattr(split, "STRETCH", stretch)
    numbers = np.random.default_rng(1).normal(size=300)
    for place in (0, 1, 150, 298, 299):
        assert nth_smallest(numbers, place) == np.sort(numbers)[place]
