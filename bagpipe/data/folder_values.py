"""Values that stand in the names of folders, `day=3/part.parquet`: columns of every row below."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.data.column_values import Mask, is_moment, is_text, moments_of, numbers_of, plain
from bagpipe.errors import DataError

_HIVE = re.compile(r"([^/=]+)=([^/]*)")
_HIVE_MISSING = "__HIVE_DEFAULT_PARTITION__"


def hive_values(name: str) -> dict[str, str | None]:
    """What the folders on the way to a file say about its rows, `day=3/part.parquet`; None: a value is missing."""
    found = _HIVE.findall(name.rpartition("/")[0])
    return {unquote(key): None if value == _HIVE_MISSING else unquote(value) for key, value in found}


def with_folders(
    table: pa.Table, folders: Mapping[str, str | None], file: str, rows: npt.NDArray[np.int64]
) -> pa.Table:
    """The rows of a file with the values of its folders as columns; one that the file has as well is only compared.

    Args:
        rows: the number of each row in the file.

    Raises:
        DataError: the file has another value than its folder says.
    """
    for name, value in folders.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
            continue
        cells = plain(table.column(name))
        if (other := _other_than(cells, value)).any():
            at = int(np.flatnonzero(other)[0])
            raise DataError(
                f"{file}: row {rows[at]}: column {name} is {cells[at].as_py()!r}, and the folder says "
                f"{name}={_HIVE_MISSING if value is None else value}; rename one of the two"
            )
    return table


def _other_than(cells: Any, text: str | None) -> Mask:
    """Which plain cells are another value than a text says, however it is written; None: than a missing one."""
    missing = cells.is_null().to_numpy(zero_copy_only=False)
    if text is None:
        return np.asarray(~missing)
    alike = pc.equal(cells.cast(pa.string()), text.lower() if pa.types.is_boolean(cells.type) else text)
    same = pc.fill_null(alike, fill_value=False).to_numpy(zero_copy_only=False)
    told = pa.array([text], pa.string())
    if not same.all() and not is_text(cells.type):
        numbers, _ = numbers_of(cells)
        number, wrong = numbers_of(moments_of(told, "") if is_moment(cells.type) else told)
        same = same | ((numbers == number[0]) & ~wrong[0])
    return np.asarray(~same)
