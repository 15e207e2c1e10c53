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
def _token(data: Any, start: int, stop: int) -> Any:
    """The code of a piece of text (see `bagpipe.data.raw`)."""
    size = stop - start
    if size == 0:
        return np.uint64(0)
    packed = np.uint64(0)
    if size <= 8:
        high = np.uint8(0)
        for i in range(start, stop):
            packed = (packed << np.uint64(8)) | np.uint64(data[i])
            high |= data[i]
        if high < 128:
            return packed << np.uint64(8 * (8 - size))
    packed = np.uint64(size) * _MULTIPLY
    for i in range(start, stop):
        packed = mix((packed ^ np.uint64(data[i])) + _MULTIPLY)
    return packed | _TOP


@njit(cache=True, nogil=True)
def _line(data: Any, start: int, stop: int, separator: int, columns: Any, label: Any, integers: Any, codes: Any) -> Any:
    """Parse one line into the output rows: (reason, field number from 1 or number of fields found)."""
    field, integer, code, at = 0, 0, 0, start
    num_columns = columns.shape[0]
    while True:
        end = at
        while end < stop and data[end] != separator:
            if data[end] == 0:
                return BINARY, field + 1
            end += 1
        if field < num_columns:
            column = columns[field]
            if column == TOKEN:
                codes[code] = _token(data, at, end)
                code += 1
            elif column != SKIP:
                valid, value = _integer(data, at, end)
                if not valid or (column == LABEL and at == end):
                    if _count_fields(data, end, stop, separator) + field != num_columns:
                        return FIELDS, _count_fields(data, end, stop, separator) + field
                    return NOT_A_NUMBER, field + 1
                if column == LABEL:
                    label[0] = value
                else:
                    integers[integer] = value
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
def parse_lines(data: Any, separator: int, columns: Any, labels: Any, integers: Any, codes: Any, lines: Any) -> Any:
    """Parse every line of `data`; blank lines are passed over.

    Returns (examples written, bad lines, first bad line from 0, its reason, its field or field count).
    """
    size = data.shape[0]
    at, line, example, bad = 0, 0, 0, 0
    first_bad, first_reason, first_detail = -1, FINE, 0
    while at < size:
        end = at
        while end < size and data[end] != NEWLINE:
            end += 1
        stop = end - 1 if end > at and data[end - 1] == RETURN else end
        if stop > at:
            reason, detail = _line(
                data, at, stop, separator, columns, labels[example], integers[example], codes[example]
            )
            if reason == FINE:
                lines[example] = line
                example += 1
            else:
                if bad == 0:
                    first_bad, first_reason, first_detail = line, reason, detail
                bad += 1
        line += 1
        at = end + 1
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
