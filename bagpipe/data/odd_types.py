"""Types that Arrow reads but computes little with, as types that it computes with: views, extensions, runs.

polars and DuckDB write them. Values are the same; a UUID becomes its text.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def plain_type(kind: pa.DataType) -> pa.DataType:
    """What cells of a type become; most stay as they are."""
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_dictionary(kind):
        inner = plain_type(kind.value_type)
        return kind if inner == kind.value_type else inner
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(plain_type(kind.value_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = plain_type(kind.value_type)
        return kind if inner == kind.value_type else pa.large_list(inner)
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The types of columns as `plain_table` makes them."""
    return pa.schema([field.with_type(plain_type(field.type)) for field in schema], schema.metadata)


def plain_table(table: pa.Table) -> pa.Table:
    """The same cells in types that Arrow computes with."""
    for place, field in enumerate(table.schema):
        if (kind := plain_type(field.type)) != field.type:
            chunks = [_plain(chunk, kind) for chunk in table.column(place).chunks]
            table = table.set_column(place, field.name, pa.chunked_array(chunks, kind))
    return table


def _plain(array: Any, kind: pa.DataType) -> Any:
    if array.type == kind:
        return array
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        return pa.array(array.to_pylist(), kind)  # Arrow casts parts of such arrays wrong.
    if isinstance(array.type, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in array.to_pylist()], kind)
    if isinstance(array.type, pa.BaseExtensionType):
        return _plain(array.storage, kind)
    if pa.types.is_run_end_encoded(array.type):
        return _plain(pc.run_end_decode(array), kind)
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary, kind).take(array.indices)
    if pa.types.is_large_list(kind):
        lists = array.cast(pa.large_list(array.type.value_type))
        offsets = lists.offsets.to_numpy()
        inner = _plain(lists.values.slice(offsets[0], offsets[-1] - offsets[0]), kind.value_type)
        return pa.LargeListArray.from_arrays(pa.array(offsets - offsets[0]), inner, mask=pc.is_null(lists))
    return array.cast(kind)
