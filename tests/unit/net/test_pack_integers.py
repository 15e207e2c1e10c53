"""Numbers in few bits come back as they were, and words that do not hold them are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.errors import WireError
from bagpipe.net.pack_integers import num_words, pack, unpack


@settings(deadline=None, max_examples=200)
@given(
    bits=st.integers(0, 63),
    wide=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 300),
)
def test_numbers_come_back(bits: int, wide: bool, seed: int, count: int) -> None:
    """Of every width, as int32 and int64, in exactly the bits of the largest."""
    dtype, bits = (np.int64, bits) if wide else (np.int32, min(bits, 31))
    values = np.random.default_rng(seed).integers(0, 2**bits, count, endpoint=False).astype(dtype)
    taken, words = pack(values)
    assert taken == max((int(v).bit_length() for v in (*values, 1)), default=1)
    assert words.size == num_words(count, taken) <= count * max(bits, 1) // 64 + 1
    out = np.empty_like(values)
    unpack(words, taken, out)
    assert np.array_equal(out, values)


def test_a_known_layout() -> None:
    """The first number in the lowest bits; one that does not fit ends in the next word."""
    bits, words = pack(np.array([1, 2**39, 3], np.int64))
    assert bits == 40
    assert words.view(np.uint64).tolist() == [1 | (2**39 << 40) % 2**64, 2**39 >> 24 | 3 << 16]


def test_negative_numbers_are_refused() -> None:
    """They would come back as others."""
    with pytest.raises(ValueError, match="found -1"):
        pack(np.array([0, -1], np.int32))


@pytest.mark.parametrize(("bits", "count"), [(-1, 4), (32, 4), (8, 9), (9, 8), (0, 4)])
def test_words_that_do_not_hold_so_many(bits: int, count: int) -> None:
    """Nothing is read outside the words, nothing cut off to fit."""
    with pytest.raises(WireError, match="expected"):
        unpack(np.zeros(1, np.int64), bits, np.empty(count, np.int32))
