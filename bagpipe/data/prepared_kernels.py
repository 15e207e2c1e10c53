"""Columns to example-major keys and back, compiled; the checks of ids ride along for free."""

from typing import Any

import numpy as np
from numba import njit

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
def interleave_floats(columns_FB: Any, out_BF: Any) -> None:
    features, examples = columns_FB.shape
    for start in range(0, examples, _ROWS):
        for f in range(features):
            for b in range(start, min(start + _ROWS, examples)):
                out_BF[b, f] = columns_FB[f, b]


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
