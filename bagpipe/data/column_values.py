"""One column's cells as codes or numbers, and which rows cannot be read, with the reason.

Nothing is rounded: a number with a fraction is no id, text that is no number is no number. Missing cells are null, and
for numbers also NaN.
"""

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.data import column_kernels as kernels
from bagpipe.data.raw import INTEGER_KEY, Codes, Kind
from bagpipe.errors import DataError

Floats64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
EXACT = 2.0**53
MINUS = "\u2212"
"""The sign of typographers, which always means a negative number."""
MICROSECONDS = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}
PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(slots=True)
class Problems:
    """Rows of one table that cannot be read; the first of them in words."""

    bad: Mask
    first_row: int | None = None
    words: str = field(default="")

    def add(self, column: str, wrong: Mask, expected: str, cells: Any) -> None:
        if not wrong.any():
            return
        row = int(np.flatnonzero(wrong)[0])
        if self.first_row is None or row < self.first_row:
            self.first_row = row
            self.words = f"column {column}: expected {expected}, found {_shown(cells[row])}"
        self.bad |= wrong


def _shown(cell: Any) -> str:
    value = cell.as_py() if hasattr(cell, "as_py") else cell
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_list(kind: pa.DataType) -> bool:
    return any(f(kind) for f in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def is_duration(kind: pa.DataType) -> bool:
    """Whether cells of this type are lengths of time or times of day."""
    return bool(pa.types.is_duration(kind) or pa.types.is_time(kind))


def is_moment(kind: pa.DataType) -> bool:
    """Whether cells of this type are points in time or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether plain cells of this type are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def kind_of(file: str, column: str, kind: pa.DataType) -> Kind:
    """What codes of this column are.

    Raises:
        DataError: its type cannot be an id.
    """
    inner = kind.value_type if is_list(kind) or pa.types.is_dictionary(kind) else kind
    if pa.types.is_dictionary(inner):
        inner = inner.value_type
    if any(f(inner) for f in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        return "token"
    whole = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp, pa.types.is_floating)
    if any(f(inner) for f in whole) or (pa.types.is_decimal(inner) and inner.scale == 0):
        return "integer"
    if pa.types.is_null(inner):
        raise DataError(f"{file}: column {column}: all values are missing; put it under data.columns.ignore")
    raise DataError(
        f"{file}: column {column}: expected text or whole numbers, found {kind}; flatten or cast it when writing the "
        "file, or put it under data.columns.ignore"
    )


def plain(column: Any) -> Any:
    """One array without dictionaries."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_string_view(array.type):  # Arrow cannot parse it; polars writes it.
        return array.cast(pa.large_string())
    if not pa.types.is_dictionary(array.type):
        return array
    if pa.types.is_string_view(array.type.value_type):  # Arrow cannot take from it; polars writes it.
        array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.large_string()))
    return array.dictionary_decode()


_NO_VALUES = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
_NO_TEXT = (pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_timestamp)
"""Types of which programs write one value as several texts: True and true, 3.0 and 3, with and without a T."""


def codes_of(array: Any, kind: Kind) -> tuple[Codes, Mask]:
    """Codes of plain cells (missing is 0), and which of them are none of the kind."""
    missing = array.is_null().to_numpy(zero_copy_only=False).copy()
    if any(f(array.type) for f in _NO_VALUES) or (kind == "token" and any(f(array.type) for f in _NO_TEXT)):
        return np.zeros(len(array), np.uint64), ~missing
    if kind == "token":
        codes = _token_codes(array)
        wrong = np.zeros(len(array), np.bool_)
    else:
        patterns, wrong = _patterns(array, missing)
        codes = ((patterns ^ INTEGER_KEY) + np.uint64(1)) if kind == "integer" else patterns + np.uint64(1)
        if kind == "int":
            wrong |= missing
    codes[missing] = 0
    return codes, wrong & ~missing if kind != "int" else wrong


def _token_codes(array: Any) -> Codes:
    text = array.cast(pa.large_string())
    codes = np.empty(len(text), np.uint64)
    _, offsets, data = text.buffers()
    if len(text):
        bounds = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        kernels.token_codes(np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), bounds, codes)
    return codes


def _patterns(array: Any, missing: Mask) -> tuple[Codes, Mask]:
    """Whole numbers as their 64 bits, and which cells are none."""
    none = np.zeros(len(array), np.bool_)
    if pa.types.is_uint64(array.type):
        return array.fill_null(0).to_numpy(zero_copy_only=False).copy(), none
    if pa.types.is_floating(array.type):
        numbers = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
        wrong = ~((np.abs(numbers) < EXACT) & (numbers == np.floor(numbers)))
        wrong &= ~np.isnan(numbers)
        missing |= np.isnan(numbers)
        return np.where(wrong | missing, 0, numbers).astype(np.int64).view(np.uint64), wrong
    if is_text(array.type):
        return _parsed(array)
    if is_moment(array.type):
        return _microseconds(array)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    numbers = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers.copy().view(np.uint64), none


def _microseconds(array: Any) -> tuple[Codes, Mask]:
    """Points in time as microseconds since 1970, whatever the unit of their file; those of less than one are none."""
    ticks, times, by = _ticks(array)
    numbers = ticks.fill_null(0).to_numpy(zero_copy_only=False) * times
    return (numbers // by).view(np.uint64), numbers % by != 0


def _parsed(array: Any) -> tuple[Codes, Mask]:
    fine = pc.fill_null(pc.match_substring_regex(array, r"^[+-]?[0-9]{1,20}$"), fill_value=False)
    fine = fine.to_numpy(zero_copy_only=False).copy()
    values = np.zeros(len(array), np.uint64)
    for i in np.flatnonzero(fine).tolist():
        number = int(array[i].as_py())
        if -(2**63) <= number < 2**64:
            values[i] = number % 2**64
        else:
            fine[i] = False
    return values, ~fine


def numbers_of(array: Any) -> tuple[Floats64, Mask]:
    """Plain cells as float64, missing NaN, and which of them are no finite number.

    Lengths of time and times of day are seconds, points in time and dates microseconds since 1970.
    """
    kind, times, by = array.type, 1, 1
    missing = array.is_null().to_numpy(zero_copy_only=False)
    if is_text(kind):
        return _parsed_numbers(array, missing)
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif is_moment(kind):
        array, times, by = _ticks(array)
    elif is_duration(kind):
        array, by = array.cast(pa.int64() if kind.bit_width == 64 else pa.int32()), PER_SECOND[kind.unit]
    elif not any(f(kind) for f in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)):
        return np.full(len(array), np.nan), ~missing
    numbers = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    numbers = numbers if times == by == 1 else numbers * times / by
    return numbers, np.isinf(numbers)


def as_held(number: float, kind: Any) -> float:
    """A number as a column of this type holds it, to be compared with its cells.

    0.7 is less in 32 bits than in 64: `score >= 0.7` would be false for a cell of 0.7 in a file of narrow floats, and
    true for the same cell in a CSV. numpy and pandas compare in the column's type too.
    """
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        with np.errstate(over="ignore"):
            return float(np.array(number).astype(kind.to_pandas_dtype()))
    return number


def sides_of(column: Any, numbers: Floats64, value: float) -> Floats64:
    """For each plain cell -1, 0 or 1: whether it is less than a number, equal to it or greater; NaN for a missing one.

    Neighbouring integers from 2^53 are one float64. So cells whose float64 is that of such a number are compared
    exactly, unless they are floats themselves.

    Args:
        numbers: the cells, as `numbers_of` gives them.
        value: an int is compared as it is written.
    """
    held = as_held(float(value), column.type)
    with np.errstate(invalid="ignore"):
        sides = np.where(numbers == held, 0.0, np.sign(numbers - held))
    if isinstance(value, int) and abs(held) >= EXACT and not pa.types.is_floating(column.type):
        ties = np.flatnonzero(sides == 0)
        different = column.take(pa.array(ties)).dictionary_encode()
        exact = np.array([_side(cell, value) for cell in different.dictionary.to_pylist()], np.float64)
        sides[ties] = exact[different.indices.to_numpy(zero_copy_only=False)]
    return np.asarray(sides)


def _side(cell: Any, value: int) -> float:
    """Of a whole number that is written as text, or of a number; times, which are others' units, count as equal."""
    if not isinstance(cell, str | int | Decimal):
        return 0.0
    number = Decimal(cell.strip().replace(MINUS, "-") if isinstance(cell, str) else cell)
    return float((number > value) - (number < value))


def _ticks(array: Any) -> tuple[Any, int, int]:
    """Points in time as whole numbers since 1970; microseconds are these, times the second, by the third."""
    if pa.types.is_date32(array.type):
        return array.cast(pa.int32()).cast(pa.int64()), 86_400_000_000, 1
    unit = "ms" if pa.types.is_date64(array.type) else array.type.unit
    return array.cast(pa.int64()), *MICROSECONDS[unit]


def _parsed_numbers(array: Any, missing: Mask) -> tuple[Floats64, Mask]:
    trimmed = pc.utf8_trim_whitespace(array)
    try:
        numbers = trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    except pa.ArrowInvalid:
        numbers = np.array([_number(cell) for cell in trimmed.to_pylist()], np.float64)
    return numbers, np.isinf(numbers)


def _number(cell: str | None) -> float:
    """Infinity stands for text that is no number: neither is accepted."""
    if cell is None:
        return np.nan
    if "_" in cell:  # Python's own way to part digits; in data it joins the parts of a name.
        return np.inf
    try:
        return float(cell.replace(MINUS, "-"))
    except ValueError:
        return np.inf


_OTHER_FORMS = (
    (r" ?(UTC|GMT)$", "Z"),  # The zone as a name, as BigQuery writes it.
    (r"(:[0-9]{2}(\.[0-9]+)?) ([+-][0-9]{2}(:?[0-9]{2})?)$", r"\1\3"),  # The offset by itself, as Ruby writes it.
    (r"(:[0-9]{2}\.[0-9]{6})[0-9]+(Z|[+-][0-9:]+)?$", r"\1\2"),  # Nanoseconds, as pandas and Java write them.
)
"""What Arrow does not read although it is one moment, and how it reads the same one, cut to the microsecond."""


def moments_of(cells: Any, form: str) -> Any:
    """Texts as timestamps; a text that is none is missing.

    A fraction of a second is cut to microseconds, so that no moment comes later than it is.

    Args:
        form: in the signs of strptime; empty: ISO 8601, all with a zone or all without one, as most of the texts.
    """
    text = pc.utf8_trim_whitespace(cells.cast(pa.string()))
    if form:
        return _days_that_are(text, pc.strptime(text, format=form, unit="us", error_is_null=True), form)
    kinds = (pa.timestamp("us"), pa.timestamp("us", "UTC"))
    for kind in kinds:
        try:
            return pc.cast(text, kind)
        except pa.ArrowInvalid:
            continue
    for written, as_arrow in _OTHER_FORMS:
        rewritten = pc.replace_substring_regex(text, written, as_arrow)
        if not rewritten.equals(text):
            return moments_of(rewritten, "")
    found = [_moments_among(text, kind) for kind in kinds]
    return min(found, key=lambda moments: moments.null_count)


def _days_that_are(text: Any, moments: Any, form: str) -> Any:
    """The moments without those of a day that no month has: Arrow makes 31.02. the second of March.

    Such a day becomes one of the first of a month after a short one, so only texts of these are looked at.
    """
    after = pc.and_(pc.less_equal(pc.day(moments), 4), pc.is_in(pc.month(moments), pa.array([3, 5, 7, 10, 12])))
    suspects = pc.unique(text.filter(pc.fill_null(after, False))).to_pylist()
    wrong = [one for one in suspects if _no_such_day(one, form)]
    if not wrong:
        return moments
    return pc.if_else(pc.is_in(text, pa.array(wrong, text.type)), pa.scalar(None, moments.type), moments)


def _no_such_day(text: str, form: str) -> bool:
    try:
        dt.datetime.strptime(text, form)
    except ValueError as error:  # Python knows fewer signs and words than Arrow; only this is for it to decide.
        return "range" in str(error) and "day" in str(error)
    return False


def _moments_among(text: Any, kind: Any) -> Any:
    """Each different text by itself, so that one that is none does not hide the others."""
    coded = text.dictionary_encode()
    known = []
    for cell in coded.dictionary:
        try:
            known.append(cell.cast(kind).as_py() if cell.is_valid else None)
        except pa.ArrowInvalid:
            known.append(None)
    return pa.array(known, kind).take(coded.indices)
