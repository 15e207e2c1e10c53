"""Arrow columns to codes, compiled: text packed or hashed, and lists put side by side by example."""

from typing import Any

import numpy as np
from numba import njit

from bagpipe.data.text_kernels import _long_token, mix


@njit(cache=True, nogil=True)
def token_codes(data: Any, offsets: Any, out: Any) -> None:
    """The code of each text: up to 8 bytes of ASCII without a NUL packed, everything else hashed (`raw.py`)."""
    for i in range(out.shape[0]):
        start, stop = offsets[i], offsets[i + 1]
        size = stop - start
        packed, odd = np.uint64(0), size == 0 or size > 8
        if not odd:
            for at in range(start, stop):
                byte = data[at]
                odd |= byte == 0 or byte >= 128
                packed = (packed << np.uint64(8)) | np.uint64(byte)
        out[i] = _long_token(data, start, stop) if odd else packed << np.uint64(8 * (8 - size))


@njit(cache=True, nogil=True)
def mix_codes(codes: Any, out: Any) -> None:
    for i in range(codes.shape[0]):
        out[i] = mix(codes[i])


@njit(cache=True, nogil=True)
def interleave(values: Any, begins_BT: Any, lengths_BT: Any, out_N: Any) -> None:
    """Feature by feature to example by example: the list of (b, t) begins at `begins_BT[b, t]` of `values`."""
    at = 0
    for b in range(lengths_BT.shape[0]):
        for t in range(lengths_BT.shape[1]):
            for i in range(begins_BT[b, t], begins_BT[b, t] + lengths_BT[b, t]):
                out_N[at] = values[i]
                at += 1
