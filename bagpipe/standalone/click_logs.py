"""Rows of the built-in text formats to values: Criteo's and Avazu's columns."""

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.data.raw import BIN_OFFSET
from bagpipe.errors import DataError
from bagpipe.standalone.block import Block, Codes, Values
from bagpipe.standalone.plain_kernels import token_codes

CRITEO_DENSE = tuple(f"I{i}" for i in range(1, 14))
CRITEO_SPARSE = tuple(f"C{i}" for i in range(1, 27))
MISSING = -(2**63)


class CriteoColumns:
    """13 integers and 26 values; dense values are `log(1 + max(x, 0))`, and with bins each integer has a code too."""

    names = CRITEO_DENSE + CRITEO_SPARSE

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._bins = info["numericBins"] != "none"

    def block(self, table: pa.Table, where: str, first_row: int) -> Block:
        """Raises:
        DataError: an integer is none; names the row.
        """
        dense_BF = np.zeros((table.num_rows, len(CRITEO_DENSE)), np.float32)
        values = []
        for place, name in enumerate(CRITEO_DENSE):
            integers = _integers(table.column(name), name, where, first_row)
            dense_BF[:, place] = _each(integers, lambda x: math.log(1.0 + max(x, 0)))
            if self._bins:
                values.append(Values(_each(integers, _bin).astype(np.uint64)))
        # All columns at once: for a few rows the time goes into calls, not into bytes.
        codes = text_codes(pa.concat_arrays([_binary(table.column(name)) for name in CRITEO_SPARSE]))
        values += [Values(part) for part in codes.reshape(len(CRITEO_SPARSE), table.num_rows)]
        return Block(dense_BF, tuple(values))


class AvazuColumns:
    """Values only; `hour` (YYMMDDHH) becomes the hour of the day and `weekday`."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._features = tuple(feature["name"] for feature in info["features"])
        self.names = tuple(name for name in self._features if name != "weekday")

    def block(self, table: pa.Table, where: str, first_row: int) -> Block:
        """Raises:
        DataError: an hour is none; names the row.
        """
        hour = _binary(table.column("hour"))
        codes = {name: text_codes(table.column(name)) for name in self.names if name != "hour"}
        codes["hour"], codes["weekday"] = _hour_and_weekday(hour, where, first_row)
        dense_BF = np.zeros((table.num_rows, 0), np.float32)
        return Block(dense_BF, tuple(Values(codes[name]) for name in self._features))


def text_codes(column: Any) -> Codes:
    """The codes of texts or bytes; missing and empty are 0, as in a file without quotes."""
    cells = _binary(column)
    codes = np.zeros(len(cells), np.uint64)
    _, offsets, data = cells.buffers()
    if not len(cells):
        return codes
    bounds = np.frombuffer(offsets, np.int64)[cells.offset : cells.offset + len(cells) + 1]
    token_codes(np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), bounds, codes)
    codes[np.diff(bounds) == 0] = 0
    return codes


def _binary(column: Any) -> Any:
    """One array of large binary cells, missing ones empty."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if not (pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)):
        array = array.cast(pa.string()).cast(pa.binary())
    return pc.fill_null(array.cast(pa.large_binary()), b"")


def _integers(column: Any, name: str, where: str, first_row: int) -> npt.NDArray[np.int64]:
    cells = _binary(column)
    found = np.full(len(cells), MISSING, np.int64)
    distinct = cells.dictionary_encode()
    known = np.full(len(distinct.dictionary) + 1, MISSING, np.int64)
    for number, cell in enumerate(distinct.dictionary.to_pylist()):
        digits = cell.removeprefix(b"-")
        if cell and not (digits.isdigit() and len(digits) <= 18):
            row = first_row + int(np.flatnonzero(distinct.indices.to_numpy() == number)[0])
            raise DataError(f"{where}: row {row}: column {name}: expected an integer, found {cell[:40]!r}")
        known[number] = int(cell) if cell else MISSING
    found[:] = known[distinct.indices.to_numpy()]
    return found


def _each(integers: npt.NDArray[np.int64], function: Any) -> npt.NDArray[np.float64]:
    """A function of each integer, computed once for each that is there."""
    distinct, inverse = np.unique(integers, return_inverse=True)
    return np.array([function(x) for x in distinct.tolist()], np.float64)[inverse]


def _bin(x: int) -> int:
    if x == MISSING:
        return 0
    return BIN_OFFSET + (x if x <= 2 else 3 + math.floor(math.log(x) ** 2))


def _hour_and_weekday(cells: Any, where: str, first_row: int) -> tuple[Codes, Codes]:
    distinct = cells.dictionary_encode()
    known = np.zeros((max(1, len(distinct.dictionary)), 2), np.uint64)
    for number, cell in enumerate(distinct.dictionary.to_pylist()):
        try:
            day = dt.datetime.strptime(cell[:6].decode("ascii"), "%y%m%d")  # as the log has it
            if len(cell) != 8:
                raise ValueError(cell)
        except ValueError:
            row = first_row + int(np.flatnonzero(distinct.indices.to_numpy() == number)[0])
            raise DataError(f"{where}: row {row}: expected an hour as YYMMDDHH, found {cell[:40]!r}") from None
        known[number] = int.from_bytes(cell[6:8], "big") << 48, (ord("0") + day.weekday()) << 56
    both = known[distinct.indices.to_numpy()]
    return both[:, 0].copy(), both[:, 1].copy()
