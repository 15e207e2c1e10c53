"""JSON lines as tables: the types of all keys, and which line or key is none of them."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from bagpipe.data.files import InputFile, text_blocks
from bagpipe.errors import DataError

_KINDS = ((bool, "true or false"), (str, "text"), ((int, float), "a number"), (list, "a list"), (dict, "a record"))


def json_schema(file: InputFile) -> pa.Schema:
    """Types of all keys; blocks are read until each key has had a value. Malformed lines are told later."""
    schema, first = pa.schema([]), 1
    for block in text_blocks([file]):
        try:
            found = _with_large(pajson.read_json(pa.BufferReader(block.text)), block.text)
        except pa.ArrowInvalid:
            lines = [line for line in block.text.split(b"\n") if line.strip()]
            good = [line for line in lines if is_record(line)]
            if not good:
                raise
            check_kinds(file.name, lines, first)
            found = pajson.read_json(pa.BufferReader(b"\n".join(good))).schema
        first += block.text.count(b"\n")
        schema = pa.unify_schemas([schema, found], promote_options="permissive")
        if not any(pa.types.is_null(kind) for kind in schema.types):
            break
    return schema


def _with_large(found: pa.Table, text: bytes) -> pa.Schema:
    """The types of a table that was read from `text`; whole numbers beyond 63 bits are not taken for fractions."""
    schema = found.schema
    for place, field in enumerate(schema):
        if pa.types.is_float64(field.type) and (pc.max(found.column(place)).as_py() or 0.0) >= 2.0**63:
            whole = pa.schema([pa.field(field.name, pa.uint64())])
            options = pajson.ParseOptions(explicit_schema=whole, unexpected_field_behavior="ignore")
            with suppress(pa.ArrowInvalid):
                pajson.read_json(pa.BufferReader(text), parse_options=options)
                schema = schema.set(place, whole.field(0))
    return schema


def check_kinds(file: str, lines: Sequence[bytes], first: int) -> None:
    """Refuse a key that is of one kind in one record and of another in a later one.

    Raises:
        DataError: names the row and the key.
    """
    kinds: dict[str, str] = {}
    for row, line in enumerate(lines, first):
        for key, value in _decoded(line).items() if is_record(line) else ():
            kind = next((name for types, name in _KINDS if isinstance(value, types)), "")
            before = kinds.setdefault(key, kind) if kind else kind
            if kind != before:
                raise DataError(
                    f"{file}: row {row}: column {key}: {kind}, and {before} in the rows before; write one kind in all "
                    "rows, for instance text"
                )


def is_record(line: bytes) -> bool:
    """Whether a line is a JSON object in UTF-8, of which Python takes UTF-16 for one too."""
    try:
        return b"\0" not in line and isinstance(_decoded(line), dict)
    except ValueError:
        return False


def _decoded(line: bytes) -> Any:
    """Raises:
    ValueError: it is no JSON, which has neither NaN nor infinities.
    """
    return json.loads(line, parse_constant=_no_number)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
