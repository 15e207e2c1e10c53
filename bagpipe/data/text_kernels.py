"""Separated text (tabs or commas) to numbers, compiled: one pass over the bytes, no string objects.

`parse_lines` either accepts a line as a whole or says why not and where; what is done about a bad
line (fail, or skip and count) is its caller's policy.
"""

from typing import Any

import numpy as np
from numba import njit

# What a column holds.
SKIP = 0
LABEL = 1
INTEGER = 2
TOKEN = 3

# Why a line was refused.
FINE = 0
FIELDS = 1  # wrong number of fields
NOT_A_NUMBER = 2
BINARY = 3  # a NUL byte

MISSING = np.int64(-(2**63))
NEWLINE, RETURN, MINUS, ZERO = 10, 13, 45, 48
_MAX_DIGITS = 18
_MULTIPLY = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TOP = np.uint64(1 << 63)


@njit(cache=True, nogil=True)
def mix(x: Any) -> Any:
    """A 64-bit bijection that spreads every input bit over the output (splitmix64's finaliser)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def _integer(data: Any, start: int, stop: int) -> Any:
    """(valid, value); an empty field is valid and MISSING."""
    if start == stop:
        return True, MISSING
    at = start + 1 if data[start] == MINUS else start
    if at == stop or stop - at > _MAX_DIGITS:
        return False, MISSING
    value = np.int64(0)
    for i in range(at, stop):
        digit = np.int64(data[i]) - ZERO
        if digit < 0 or digit > 9:
            return False, MISSING
        value = value * 10 + digit
    return True, -value if at > start else value


@njit(cache=True, nogil=True)
def _long_token(data: Any, start: int, stop: int) -> Any:
    """The code of text that does not fit 8 ASCII bytes (see `bagpipe.data.raw`)."""
    code = np.uint64(stop - start) * _MULTIPLY
    for i in range(start, stop):
        code = mix((code ^ np.uint64(data[i])) + _MULTIPLY)
    return code | _TOP


@njit(cache=True, nogil=True)
def _line(
    data: Any, start: int, stop: int, separator: int, columns: Any, labels: Any, integers: Any, codes: Any, row: int
) -> Any:
    """Parse one line into row `row`: (reason, field number from 1 or number of fields found)."""
    field, integer, code, at = 0, 0, 0, start
    num_columns = columns.shape[0]
    while True:
        end = at
        packed, high = np.uint64(0), np.uint8(0)
        while end < stop:
            byte = data[end]
            if byte == separator:
                break
            if byte == 0:
                return BINARY, field + 1
            packed = (packed << np.uint64(8)) | np.uint64(byte)
            high |= byte
            end += 1
        if field < num_columns:
            column = columns[field]
            if column == TOKEN:
                size = end - at
                if size > 8 or high >= 128:
                    packed = _long_token(data, at, end)
                elif size > 0:
                    packed <<= np.uint64(8 * (8 - size))
                codes[row, code] = packed
                code += 1
            elif column != SKIP:
                valid, value = _integer(data, at, end)
                if not valid or (column == LABEL and at == end):
                    found = _count_fields(data, end, stop, separator) + field
                    return (NOT_A_NUMBER, field + 1) if found == num_columns else (FIELDS, found)
                if column == LABEL:
                    labels[row, 0] = value
                else:
                    integers[row, integer] = value
                    integer += 1
        field += 1
        if end >= stop:
            break
        at = end + 1
    return (FINE, 0) if field == num_columns else (FIELDS, field)


@njit(cache=True, nogil=True)
def _count_fields(data: Any, start: int, stop: int, separator: int) -> int:
    count = 1
    for i in range(start, stop):
        if data[i] == separator:
            count += 1
    return count


@njit(cache=True, nogil=True)
def parse_lines(
    data: Any, ends: Any, separator: int, columns: Any, labels: Any, integers: Any, codes: Any, lines: Any
) -> Any:
    """Parse every line of `data`; `ends` are their ends, newlines not included. Blank lines are passed over.

    Returns (examples written, bad lines, first bad line from 0, its reason, its field or field count).
    """
    at, example, bad = 0, 0, 0
    first_bad, first_reason, first_detail = -1, FINE, 0
    for line in range(ends.shape[0]):
        stop = ends[line] - 1 if ends[line] > at and data[ends[line] - 1] == RETURN else ends[line]
        if stop > at:
            reason, detail = _line(data, at, stop, separator, columns, labels, integers, codes, example)
            if reason == FINE:
                lines[example] = line
                example += 1
            else:
                if bad == 0:
                    first_bad, first_reason, first_detail = line, reason, detail
                bad += 1
        at = ends[line] + 1
    return example, bad, first_bad, first_reason, first_detail


@njit(cache=True, nogil=True)
def log_dense(integers: Any, small: Any, out: Any) -> None:
    """`log(1 + max(x, 0))` as float32, missing 0; `small[x]` holds the values of small x."""
    for i in range(integers.shape[0]):
        for j in range(integers.shape[1]):
            x = max(integers[i, j], np.int64(0))
            out[i, j] = small[x] if x < small.shape[0] else np.float32(np.log(1.0 + np.float64(x)))


@njit(cache=True, nogil=True)
def log_squared_bins(integers: Any, offset: int, codes: Any) -> None:
    """Write each integer's bin (see `bagpipe.data.raw.bin_text`) to the first columns of `codes`."""
    for i in range(integers.shape[0]):
        for j in range(integers.shape[1]):
            x = integers[i, j]
            if x == MISSING:
                codes[i, j] = 0
            elif x <= 2:
                codes[i, j] = np.uint64(x + offset)
            else:
                codes[i, j] = np.uint64(np.int64(np.floor(np.log(np.float64(x)) ** 2)) + 3 + offset)
