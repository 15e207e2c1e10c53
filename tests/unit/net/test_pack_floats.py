"""Packed floats come back to the bit, take fewer bytes, and bytes that do not hold them are refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe.errors import WireError
from bagpipe.net.pack_floats import BLOCK, pack, unpack

ANY_BITS = st.integers(0, 2**32 - 1)
"""Every float there is: not-a-numbers with their payload, infinities, denormals, both zeros."""
NEAR_ONE = st.integers(0x3F000000, 0x3FFFFFFF)
ZEROS = st.sampled_from([0, 0x80000000])


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(left.view(np.uint32), right.view(np.uint32))


@settings(deadline=None, max_examples=300)
@given(
    few=st.lists(st.one_of(ANY_BITS, ZEROS, NEAR_ONE), max_size=3 * BLOCK),
    many=st.integers(0, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_float_comes_back_to_the_bit(few: list[int], many: int, seed: int) -> None:
    """Whatever stands among numbers that pack well, in any order and number."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([np.array(few, np.uint32).view(np.float32), rng.standard_normal(many).astype(np.float32)])
    rng.shuffle(values)
    packed = pack(values)
    if packed is not None:
        assert packed.nbytes < values.nbytes
        out = np.full_like(values, 7)
        unpack(packed, out)
        assert same_bits(out, values)


def test_rows_and_dense_gradients_take_what_is_claimed() -> None:
    """Normal numbers, each row at its own scale: 88 %. With one in eight zero: less."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((4096, 48)) * np.exp(rng.standard_normal((4096, 1)))).astype(np.float32)
    packed = pack(rows)
    assert packed is not None
    assert 0.87 < packed.nbytes / rows.nbytes < 0.885
    rows[rng.random(rows.shape) < 0.125] = 0
    packed = pack(rows)
    assert packed is not None
    assert 0.77 < packed.nbytes / rows.nbytes < 0.80
    out = np.empty_like(rows)
    unpack(packed, out)
    assert same_bits(out, rows)


def test_a_known_layout() -> None:
    """A block of ones, twos and a zero, and one float after it."""
    values = np.ones(BLOCK + 1, np.float32)
    values[[0, 1, BLOCK - 1]] = 2, 0, -0.5
    packed = pack(values)
    assert packed is not None
    expected = np.concatenate(
        [
            np.ones(1, np.float32).view(np.uint8),
            # Distances from the largest exponent, that of 2: 0 and 1 at the start, a zero, and 2 in the last high half.
            [0x10, 0x1E, *[0x11] * 29, 0x21],
            [128],
            np.zeros(2 * (BLOCK - 1)),
            [*np.zeros(BLOCK - 2), 0x80],
        ]
    ).astype(np.uint8)
    assert packed.tolist() == expected.tolist()


@pytest.mark.parametrize("values", [np.zeros(0), np.ones(BLOCK - 1), np.random.default_rng(0).integers(0, 2**31, 640)])
def test_what_would_not_be_shorter_is_left_alone(values: np.ndarray) -> None:
    """Nothing, less than a block, and noise in every bit."""
    floats = values.astype(np.uint32).view(np.float32) if values.dtype == np.int64 else values.astype(np.float32)
    assert pack(floats) is None


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=400), count=st.integers(0, 300))
def test_noise_is_refused_or_fills(data: bytes, count: int) -> None:
    """Never another exception, never a byte read that is not there."""
    with contextlib.suppress(WireError):
        unpack(np.frombuffer(data, np.uint8), np.empty(count, np.float32))


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_missing_and_additional_bytes_are_refused(cut: int) -> None:
    """Both ways."""
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    packed = pack(values)
    assert packed is not None
    for damaged in (packed[:-cut], np.concatenate([packed, np.zeros(cut, np.uint8)])):
        with pytest.raises(WireError, match="expected 1000 packed floats"):
            unpack(damaged, np.empty_like(values))
