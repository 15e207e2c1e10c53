"""Codes to keys, compiled: hashing, checking, counting and looking values up.

Value tables are open-addressing hash tables of (code, number) with a power-of-two capacity and linear
probing; the code 0 (missing) is kept in a place of its own because 0 marks an empty place.
"""

from typing import Any

import numpy as np
from numba import njit

from bagpipe.data.text_kernels import mix


@njit(cache=True, nogil=True)
def select_features(codes_N: Any, lengths_BT: Any, features: Any, out_N: Any, out_lengths: Any, which_N: Any) -> int:
    """Jagged: pick and reorder features; `which_N` tells each lookup's place in `features`. Returns N."""
    examples, width = lengths_BT.shape
    starts = np.empty(width, np.int64)
    at, read = 0, 0
    for example in range(examples):
        for feature in range(width):
            starts[feature] = read
            read += lengths_BT[example, feature]
        for place in range(features.shape[0]):
            feature = features[place]
            count = lengths_BT[example, feature]
            out_lengths[example, place] = count
            for i in range(starts[feature], starts[feature] + count):
                out_N[at] = codes_N[i]
                which_N[at] = place
                at += 1
    return at


@njit(cache=True, nogil=True)
def select_values(values_N: Any, lengths_BT: Any, features: Any, out_N: Any) -> None:
    """Jagged: what belongs to the lookups, in the order in which `select_features` puts them."""
    examples, width = lengths_BT.shape
    starts = np.empty(width, np.int64)
    at, read = 0, 0
    for example in range(examples):
        for feature in range(width):
            starts[feature] = read
            read += lengths_BT[example, feature]
        for place in range(features.shape[0]):
            feature = features[place]
            for i in range(starts[feature], starts[feature] + lengths_BT[example, feature]):
                out_N[at] = values_N[i]
                at += 1


@njit(cache=True, nogil=True)
def hash_keys(codes_N: Any, which_N: Any, offsets: Any, sizes: Any, out_N: Any) -> None:
    """Row 0 is the missing value's; every other value is hashed into rows 1..size-1."""
    for i in range(codes_N.shape[0]):
        place = which_N[i]
        row = np.int64(0)
        if codes_N[i] != 0 and sizes[place] > 1:
            row = 1 + np.int64(mix(codes_N[i]) % np.uint64(sizes[place] - 1))
        out_N[i] = offsets[place] + row


@njit(cache=True, nogil=True)
def id_keys(codes_N: Any, which_N: Any, offsets: Any, sizes: Any, out_N: Any) -> int:
    """Ids as rows. Returns the first lookup whose id is out of range, or -1."""
    for i in range(codes_N.shape[0]):
        row = np.int64(codes_N[i]) - 1
        place = which_N[i]
        if row < 0 or row >= sizes[place]:
            return i
        out_N[i] = offsets[place] + row
    return -1


@njit(cache=True, nogil=True)
def largest_codes(codes_N: Any, which_N: Any, largest: Any) -> None:
    for i in range(codes_N.shape[0]):
        largest[which_N[i]] = max(largest[which_N[i]], codes_N[i])


@njit(cache=True, nogil=True)
def find_place(codes: Any, first: Any, mask: Any, code: Any) -> Any:
    """Where `code` is, or where it would go, in the table at `codes[first:first + mask + 1]`."""
    at = np.int64(mix(code) & np.uint64(mask))
    while codes[first + at] != 0 and codes[first + at] != code:
        at = (at + 1) & mask
    return first + at


@njit(cache=True, nogil=True)
def count_codes(codes_N: Any, start: int, codes: Any, counts: Any, held: int, limit: int) -> Any:
    """Count `codes_N[start:]`; stops when `limit` places are taken. Returns (next position, places taken)."""
    mask = codes.shape[0] - 1
    for i in range(start, codes_N.shape[0]):
        place = find_place(codes, 0, mask, codes_N[i])
        if codes[place] == 0:
            if held >= limit:
                return i, held
            codes[place] = codes_N[i]
            held += 1
        counts[place] += 1
    return codes_N.shape[0], held


@njit(cache=True, nogil=True)
def insert_counts(old_codes: Any, old_counts: Any, codes: Any, counts: Any) -> None:
    mask = codes.shape[0] - 1
    for i in range(old_codes.shape[0]):
        if old_codes[i] != 0:
            place = find_place(codes, 0, mask, old_codes[i])
            codes[place] = old_codes[i]
            counts[place] = old_counts[i]


@njit(cache=True, nogil=True)
def fill_table(values: Any, rows: Any, codes: Any, numbers: Any, first: int, mask: int) -> None:
    for i in range(values.shape[0]):
        place = find_place(codes, first, mask, values[i])
        codes[place] = values[i]
        numbers[place] = rows[i]


@njit(cache=True, nogil=True)
def vocabulary_keys(
    codes_N: Any,
    which_N: Any,
    offsets: Any,
    firsts: Any,
    masks: Any,
    missing: Any,
    others: Any,
    codes: Any,
    numbers: Any,
    out_N: Any,
) -> None:
    """Rows of known values; the first `others` rows for all else, by hash. Tables lie one after another in `codes`."""
    for i in range(codes_N.shape[0]):
        place, code = which_N[i], codes_N[i]
        if code == 0:
            row = np.int64(missing[place])
        else:
            found = find_place(codes, firsts[place], masks[place], code)
            row = np.int64(numbers[found]) if codes[found] == code else np.int64(0)
            if row == 0 and others[place] > 1:
                row = np.int64(mix(code) % np.uint64(others[place]))
        out_N[i] = offsets[place] + row
