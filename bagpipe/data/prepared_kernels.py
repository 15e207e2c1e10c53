"""Columns to example-major keys and back, compiled; the checks of ids ride along for free."""

from typing import Any

import numpy as np
from numba import njit

_LARGEST = np.finfo(np.float32).max
_ROWS = 64  # examples transposed together: their keys stay in the first-level cache


@njit(cache=True, nogil=True)
def interleave_ids(columns_TB: Any, offsets: Any, sizes: Any, keys_BT: Any) -> int:
    """Ids by column to keys by example. Returns `example * T + feature` of an id out of range, or -1."""
    tables, examples = columns_TB.shape
    wrong = -1
    for start in range(0, examples, _ROWS):
        stop = min(start + _ROWS, examples)
        for t in range(tables):
            offset, size = offsets[t], np.uint64(sizes[t])
            over = np.int64(0)
            for b in range(start, stop):
                row = np.int64(columns_TB[t, b])
                over += np.int64(np.uint64(row) >= size)
                keys_BT[b, t] = offset + row
            if over > 0 and wrong < 0:
                for b in range(start, stop):
                    if np.uint64(np.int64(columns_TB[t, b])) >= size:
                        wrong = b * tables + t
                        break
    return wrong


@njit(cache=True, nogil=True)
def interleave_floats(columns_FB: Any, out_BF: Any) -> int:
    """Columns to rows. Returns `example * F + feature` of a value that is not finite, or -1."""
    features, examples = columns_FB.shape
    wrong = -1
    for start in range(0, examples, _ROWS):
        stop = min(start + _ROWS, examples)
        for f in range(features):
            odd = np.int64(0)
            for b in range(start, stop):
                x = columns_FB[f, b]
                odd += np.int64(not abs(x) <= _LARGEST)
                out_BF[b, f] = x
            if odd > 0 and wrong < 0:
                for b in range(start, stop):
                    if not np.isfinite(columns_FB[f, b]):
                        wrong = b * features + f
                        break
    return wrong


@njit(cache=True, nogil=True)
def interleave_lists(values: Any, starts: Any, lengths_BT: Any, offsets: Any, sizes: Any, keys_N: Any) -> int:
    """For lists: feature t's values begin at `starts[t]` of `values`. Returns the first lookup out of range, or -1."""
    at, wrong = 0, -1
    nexts = starts.copy()
    for b in range(lengths_BT.shape[0]):
        for t in range(lengths_BT.shape[1]):
            for _ in range(lengths_BT[b, t]):
                row = np.int64(values[nexts[t]])
                if wrong < 0 and (row < 0 or row >= sizes[t]):
                    wrong = at
                keys_N[at] = offsets[t] + row
                nexts[t] += 1
                at += 1
    return wrong
