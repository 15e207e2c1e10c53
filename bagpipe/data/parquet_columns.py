"""Parquet columns as arrays, each checked against what is expected of it: there once, of its type, whole, finite.

Other programs rewrite Parquet in good faith: pandas makes integers with gaps floats, polars writes large lists,
DuckDB decimals. What holds the same numbers is taken; what does not is refused by name, and never converted.
"""

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.data.remedies import prepare_again
from bagpipe.errors import DataError
from bagpipe.lowlevel.wording import listed

Role = Literal["number", "id", "ids", "numbers"]
"""A label, dense value or weight; a row number; a list of row numbers; a list of weights."""
EXPECTED: dict[Role, str] = {
    "number": "numbers",
    "id": "whole numbers",
    "ids": "lists of whole numbers",
    "numbers": "lists of numbers",
}
_FAST = (pa.float32(), pa.int32(), pa.int64())


def check_schema(file: str, schema: pa.Schema, columns: Sequence[tuple[str, Role]]) -> None:
    """Refuse a file that lacks a column, has it twice or of a type that cannot be read exactly.

    Raises:
        DataError: names file, column, what was expected and what was found.
    """
    for name, role in columns:
        places = schema.get_all_field_indices(name)
        if not places:
            near = difflib.get_close_matches(name, schema.names, 1)
            hint = f"the nearest is {near[0]}" if near else f"it has {listed(schema.names) or 'none'}"
            raise DataError(f"{file}: column {name} is missing ({hint}); {_remedy(file)}")
        if len(places) > 1:
            raise DataError(f"{file}: column {name} is there {len(places)} times; {_remedy(file)}")
        found = schema.field(places[0]).type
        if not _fits(found, role):
            raise DataError(f"{file}: column {name}: expected {EXPECTED[role]}, found {found}; {_remedy(file)}")


def _remedy(file: str) -> str:
    return f"write the column as `bagpipe data prepare` does, or {prepare_again(file)}"


def _fits(found: pa.DataType, role: Role) -> bool:
    if role == "ids":
        return _is_list(found) and _fits(found.value_type, "id")
    if role == "numbers":
        return _is_list(found) and _fits(found.value_type, "number")
    if pa.types.is_dictionary(found):
        found = found.value_type
    if role == "id":
        return bool(pa.types.is_integer(found))
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(is_kind(found) for is_kind in numbers)


def _is_list(found: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(found) for is_kind in kinds)


def number_array(table: pa.Table, name: str, file: str, first_row: int) -> npt.NDArray[np.float32]:
    """A label or dense column; `first_row` is the number of the table's first row in its file, from 0.

    Raises:
        DataError: a value is null. (That all are finite is checked where they are copied.)
    """
    column = _whole(table.column(name), name, file, first_row)
    if column.type != pa.float32():
        if pa.types.is_decimal(column.type) or pa.types.is_boolean(column.type):
            column = column.cast(pa.float64() if pa.types.is_decimal(column.type) else pa.int8())
        column = column.cast(pa.float32(), safe=False)
    array: npt.NDArray[np.float32] = _contiguous(column).to_numpy(zero_copy_only=False)
    return array


def id_array(table: pa.Table, name: str, file: str, first_row: int) -> npt.NDArray[Any]:
    """A column of row numbers, int32 or int64.

    Raises:
        DataError: a value is null, or beyond 64 bits with a sign.
    """
    return _ids(_whole(table.column(name), name, file, first_row), name, file)


def id_lists(table: pa.Table, name: str, file: str, first_row: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """A column of lists: all row numbers, and the length of each list.

    Raises:
        DataError: a list or a value in one is null.
    """
    values, lengths = _lists(table, name, file, first_row)
    return _ids(values, name, file), lengths


def weight_lists(
    table: pa.Table, name: str, lengths_B: npt.NDArray[np.int32], file: str, first_row: int
) -> npt.NDArray[np.float32]:
    """A column with the weights of lists of row numbers, which have the lengths `lengths_B`.

    Raises:
        DataError: a list has another length, or holds a null or what is no finite number from 0.
    """
    values, lengths = _lists(table, name, file, first_row)
    weights: npt.NDArray[np.float32] = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    wrong = lengths != lengths_B
    wrong[np.repeat(np.arange(len(lengths)), lengths)[~(np.isfinite(weights) & (weights >= 0))]] = True
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{file}: row {first_row + row + 1}: column {name}: expected {lengths_B[row]} finite numbers from 0, one "
            f"for each row number, found {table.column(name)[row].as_py()}; {_remedy(file)}"
        )
    return weights


def _lists(table: pa.Table, name: str, file: str, first_row: int) -> tuple[Any, npt.NDArray[np.int32]]:
    """All values of a column of lists, and the length of each."""
    column = _whole(table.column(name), name, file, first_row)
    if not pa.types.is_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    lists = _contiguous(column)
    values = lists.flatten()
    lengths = np.diff(lists.offsets.to_numpy(zero_copy_only=False)).astype(np.int32)
    if values.null_count:
        place = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        row = first_row + int(np.searchsorted(np.cumsum(lengths), place, side="right")) + 1
        raise DataError(f"{file}: row {row}: a list of column {name} holds a null; {_remedy(file)}")
    return values, lengths


def _whole(column: Any, name: str, file: str, first_row: int) -> Any:
    """The column, plain instead of by dictionary, without nulls."""
    if column.null_count:
        row = first_row + int(pc.index(column.is_null(), value=True).as_py()) + 1
        raise DataError(f"{file}: row {row}: column {name} is null there; {_remedy(file)}")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
        if column.null_count:
            raise DataError(f"{file}: column {name}: its dictionary holds a null; {_remedy(file)}")
    return column


def _ids(column: Any, name: str, file: str) -> npt.NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type not in _FAST:
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(f"{file}: column {name}: {error}; row numbers are counted from 0") from error
    array: npt.NDArray[Any] = _contiguous(column).to_numpy(zero_copy_only=False)
    return array


def _contiguous(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column
