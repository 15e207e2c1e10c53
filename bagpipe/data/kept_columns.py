"""Columns of the data that are written beside scores: one type each, whatever files they come from."""

import pyarrow as pa

from bagpipe.errors import DataError


def as_before(kept: pa.Table, types: pa.Schema | None, file: str) -> pa.Table:
    """Kept columns as the first file has them, because scores are one table.

    Args:
        kept: the columns, of rows of `file`.
        types: of the first file's; None: this is it.

    Raises:
        DataError: a value cannot be what the first file's are; names column and file.
    """
    if types is None or kept.schema.equals(types):
        return kept
    columns = []
    for field in types:
        column = kept.column(field.name)
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException:
            raise DataError(
                f"{file}: column {field.name}: expected {field.type} as in the files before, found {column.type}; keep "
                "another column, or give it one type in all files"
            ) from None
    return pa.table(columns, schema=types)
