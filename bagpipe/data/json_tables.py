"""JSON lines as tables: the types of all keys, and which line or key is none of them.

JSON has no times: a text that looks like one is text, as in every other format, so that a column does not become
another one in a file where all of its texts look like times.
"""

import json
import re
from collections.abc import Container, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from bagpipe.data.files import InputFile, text_blocks
from bagpipe.data.holes import FOUND
from bagpipe.errors import DataError

_KINDS = ((bool, "true or false"), (str, "text"), ((int, float), "a number"), (list, "a list"), (dict, "a record"))
_ARROWS_WORDS = re.compile(r"^JSON parse error: | in row \d+$|\.$")
"""What Arrow says around its reason; its rows are counted from where it began to read."""
DEEPEST = 4000
"""Lists and records within each other. Arrow's reader calls itself for each; some ten thousand end the process."""
_TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
MALFORMED = (pa.ArrowInvalid, UnicodeDecodeError)
"""What `read_records` raises."""


def json_schema(file: InputFile) -> pa.Schema:
    """Types of all keys; blocks are read until each key has had a value. Malformed lines are told later.

    Raises:
        DataError: a whole block has no line that is a record, or a key is of several kinds.
    """
    schema, first = pa.schema([]), 1
    for block in text_blocks([file]):
        try:
            found = _with_large(read_records(block.text), block.text)
        except MALFORMED:
            lines = [line for line in block.text.split(b"\n") if line.strip()]
            check_kinds(file.name, lines, first)
            good = [line for line in lines if what_is_wrong(line) is None]
            if not good:
                words = f"{what_is_wrong(lines[0])}; write one record on each line"
                raise DataError(f"{file.name}: row {first}: {words}") from None
            found = read_records(b"\n".join(good)).schema
        first += block.text.count(b"\n")
        found = pa.schema([field.with_type(_without_times(field.type)) for field in found])
        schema = pa.unify_schemas([schema, found], promote_options="permissive")
        if not any(pa.types.is_null(kind) for kind in schema.types):
            break
    return schema


def read_records(text: bytes, options: pajson.ParseOptions | None = None) -> pa.Table:
    """The records of some lines.

    Raises:
        pa.ArrowInvalid, UnicodeDecodeError: one of them is malformed.
    """
    if not text.isascii():
        text.decode()  # Arrow takes any bytes for text.
    if any(_depth_of(line) > DEEPEST for line in text.split(b"\n")):
        raise pa.ArrowInvalid(f"lists or records are nested more than {DEEPEST:,} deep")
    try:
        return pajson.read_json(pa.BufferReader(text), parse_options=options)
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        # A record is longer than the stretches that Arrow reads.
        whole = pajson.ReadOptions(block_size=len(text) + 1)
        return pajson.read_json(pa.BufferReader(text), read_options=whole, parse_options=options)


def _depth_of(line: bytes) -> int:
    """How deep lists and records are nested in a line; 0 where it is too short, or has too few, to be too deep."""
    if len(line) <= DEEPEST or line.count(b"[") + line.count(b"{") <= DEEPEST:
        return 0
    signs = np.frombuffer(_TEXTS.sub(b"", line), np.uint8)
    opened, closed = (np.isin(signs, np.frombuffer(pair, np.uint8)).astype(np.int64) for pair in (b"[{", b"]}"))
    return int(np.cumsum(opened - closed).max(initial=0))


def _without_times(kind: pa.DataType) -> pa.DataType:
    inner, depth = kind, 0
    while pa.types.is_list(inner):
        inner, depth = inner.value_type, depth + 1
    if not pa.types.is_timestamp(inner):
        return kind
    inner = pa.string()
    for _ in range(depth):
        inner = pa.list_(inner)
    return inner


def _with_large(found: pa.Table, text: bytes) -> pa.Schema:
    """The types of a table that was read from `text`; whole numbers beyond 63 bits are not taken for fractions."""
    schema = found.schema
    for place, field in enumerate(schema):
        if pa.types.is_float64(field.type) and (pc.max(found.column(place)).as_py() or 0.0) >= 2.0**63:
            whole = pa.schema([pa.field(field.name, pa.uint64())])
            options = pajson.ParseOptions(explicit_schema=whole, unexpected_field_behavior="ignore")
            with suppress(pa.ArrowInvalid):
                read_records(text, options)
                schema = schema.set(place, whole.field(0))
    return schema


def sorted_out(
    file: str, lines: Sequence[bytes], first: int, options: pajson.ParseOptions
) -> tuple[dict[int, str], pa.Table]:
    """Of lines that cannot be read together: which are malformed, by the number of their row, and why; and the others.

    Raises:
        DataError: all are records, but a key is of several kinds.
        pa.ArrowInvalid: each can be read by itself.
    """
    wrong = {row: words for row, line in enumerate(lines, first) if (words := _no_record(line)) is not None}
    if wrong:
        with suppress(pa.ArrowInvalid):
            return wrong, _without(wrong, lines, first, options)
    else:
        check_kinds(file, lines, first)
    wrong = {row: words for row, line in enumerate(lines, first) if (words := what_is_wrong(line, options)) is not None}
    return wrong, _without(wrong, lines, first, options)


def _without(wrong: Container[int], lines: Sequence[bytes], first: int, options: pajson.ParseOptions) -> pa.Table:
    good = [line for row, line in enumerate(lines, first) if row not in wrong]
    return read_records(b"\n".join(good), options) if good else options.explicit_schema.empty_table()


def check_kinds(file: str, lines: Sequence[bytes], first: int) -> None:
    """Refuse a key that is of one kind in one record and of another in a later one.

    Raises:
        DataError: names the row and the key.
    """
    kinds: dict[str, str] = {}
    for row, line in enumerate(lines, first):
        for key, value in _decoded(line).items() if _no_record(line) is None else ():
            kind = next((name for types, name in _KINDS if isinstance(value, types)), "")
            before = kinds.setdefault(key, kind) if kind else kind
            if kind != before:
                raise DataError(
                    f"{file}: row {row}: column {key}: {kind}, and {before} in the rows before; write one kind in all "
                    "rows, for instance text"
                )


def what_is_wrong(line: bytes, options: pajson.ParseOptions | None = None) -> str | None:
    """Why one line by itself cannot be read; None: it can."""
    if (words := _no_record(line)) is not None:
        return words
    try:
        read_records(line, options)
    except pa.ArrowInvalid as error:
        return f"expected a JSON record ({_reason(error)})"
    return None


def _no_record(line: bytes) -> str | None:
    """Why a line is no JSON object in UTF-8, of which Python takes UTF-16 for one too; None: it is one."""
    if b"\0" in line:
        return FOUND
    try:
        line.decode()
        found = _decoded(line)
    except UnicodeDecodeError as error:
        return (
            f"expected text in UTF-8, found the byte 0x{line[error.start]:02x} at place {error.start + 1} of its line"
        )
    except json.JSONDecodeError as error:
        return f"expected a JSON record ({error.msg} at place {error.pos + 1} of its line)"
    except RecursionError:
        return "expected a JSON record (lists or records are nested too deep)"
    except ValueError as error:
        return f"expected a JSON record ({error})"
    return None if isinstance(found, dict) else f"expected a JSON record, found {line.strip()[:40].decode()!r}"


def _reason(error: Exception) -> str:
    return _ARROWS_WORDS.sub("", " ".join(str(error).split()))


def _decoded(line: bytes) -> Any:
    """Raises:
    ValueError: it is no JSON. NaN and infinities are numbers, as Python writes them and Arrow reads them.
    """
    return json.loads(line)
