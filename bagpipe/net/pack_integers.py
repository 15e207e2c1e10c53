"""Packs integers into as few bits as the largest of them needs, one after the other in 64-bit words.

A plan lists slots and rows by the ten thousand, and on a slow link its bytes delay those of the step: a slot
that takes 17 bits is half of an int32, a key of 22 bits a third of an int64.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bagpipe.errors import WireError

WORD_BITS = 64

Words = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def pack(values: Numbers) -> tuple[int, Words]:
    """How many bits each value takes (one at least), and the words that hold them.

    Raises:
        ValueError: a value is negative.
    """
    if values.min(initial=0) < 0:
        raise ValueError(f"expected numbers from 0 on, found {values.min()}")
    bits = max(1, int(values.max(initial=0)).bit_length())
    words = np.empty(num_words(values.size, bits), np.int64)
    _pack(values, bits, words.view(np.uint64))
    return bits, words


def unpack(words: Words, bits: int, out: Numbers) -> None:
    """Fill `out` with as many values of `bits` bits.

    Raises:
        WireError: the words do not hold as many values as `out` has, or values of `bits` bits do not fit its type.
    """
    widest = 8 * out.itemsize - 1
    if not 1 <= bits <= widest or words.size != num_words(out.size, bits):
        raise WireError(
            f"expected {out.size} numbers of at most {widest} bits, found {words.size} words for {bits} bits each"
        )
    _unpack(words.view(np.uint64), bits, out)


def num_words(count: int, bits: int) -> int:
    """64-bit words that hold so many numbers."""
    return -(-count * bits // WORD_BITS)


@njit(cache=True, nogil=True)
def _pack(values: Any, bits: Any, words: Any) -> None:
    word, used, at = np.uint64(0), 0, 0
    for i in range(values.shape[0]):
        value = np.uint64(values[i])
        word |= value << np.uint64(used)
        used += bits
        if used >= WORD_BITS:
            words[at] = word
            at += 1
            used -= WORD_BITS
            word = value >> np.uint64(bits - used)
    if used:
        words[at] = word


@njit(cache=True, nogil=True)
def _unpack(words: Any, bits: Any, out: Any) -> None:
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    at, used = 0, 0
    for i in range(out.shape[0]):
        value = words[at] >> np.uint64(used)
        used += bits
        if used >= WORD_BITS:
            at += 1
            used -= WORD_BITS
            if used:
                value |= words[at] << np.uint64(bits - used)
        out[i] = np.int64(value & mask)
