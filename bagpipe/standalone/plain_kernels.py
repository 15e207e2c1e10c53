"""Hashes of values and first weights of rows, as the compiled loops of the library compute them, in numpy.

In an export this stands in for `bagpipe.data.column_kernels`, which needs numba.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint64]

_MULTIPLY = 0x9E3779B97F4A7C15
_TOP = np.uint64(1 << 63)
_ALL = (1 << 64) - 1


def mix(x: Codes) -> Codes:
    """A bijection of 64 bits that spreads every input bit over the output (splitmix64's finaliser)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def mix_codes(codes: Codes, out: Codes) -> None:
    out[:] = mix(codes)


def token_codes(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], out: Codes) -> None:
    """The code of each text `data[offsets[i]:offsets[i + 1]]`: up to 8 bytes of ASCII packed, all else hashed."""
    starts, sizes = offsets[:-1], np.diff(offsets)
    packed = np.zeros(len(sizes), np.uint64)
    odd = (sizes == 0) | (sizes > 8)
    for at in range(8):
        live = np.flatnonzero((sizes > at) & ~odd)
        byte = data[starts[live] + at]
        packed[live] |= byte.astype(np.uint64) << np.uint64(56 - 8 * at)
        odd[live] |= (byte == 0) | (byte >= 128)
    out[:] = packed
    hashed = np.flatnonzero(odd)
    out[hashed] = _hashed(data, starts[hashed], sizes[hashed])


def _hashed(data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> Codes:
    multiply = np.uint64(_MULTIPLY)
    codes = sizes.astype(np.uint64) * multiply
    for at in range(int(sizes.max(initial=0))):
        live = np.flatnonzero(sizes > at)
        codes[live] = mix((codes[live] ^ data[starts[live] + at].astype(np.uint64)) + multiply)
    return codes | _TOP


def first_weights(seed: int, table: int, rows_K: npt.NDArray[np.int64], dim: int, scale: float) -> Any:
    """`[K, D]` float32: rows of the job's table number `table` as they are before anybody trains them."""
    with np.errstate(over="ignore"):
        start = mix(np.array([(seed + _MULTIPLY * (table + 1)) & _ALL], np.uint64))
        base_K = mix(start + np.uint64(_MULTIPLY) * (rows_K.astype(np.uint64) + np.uint64(1)))
        steps_D = np.uint64(_MULTIPLY) * np.arange(1, dim + 1, dtype=np.uint64)
        bits = mix(base_K[:, None] + steps_D) >> np.uint64(40)
    centred = (bits.astype(np.int32) - np.int32(1 << 23)).astype(np.float32) * np.float32(2.0**-23)
    return centred * np.float32(scale)
