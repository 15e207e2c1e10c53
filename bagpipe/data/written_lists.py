"""Texts as the lists that they write: values between separators, or in brackets as programs print lists."""

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe.config.columns import SparseColumn
from bagpipe.data.column_values import Mask, is_list

Values = list[str | None]
_ITEM = re.compile(
    r"""\s*(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'|(?P<plain>[^\s,"'\[\]{}][^,"\[\]{}]*?))"""
    r"\s*(?:,|$)"
)
_NUMBERS = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?(\s+[+-]?[0-9.]+([eE][+-]?[0-9]+)?)+")
_NOTHING = ("null", "NULL", "None", "nan", "NaN")
BRACKETS = r"^\s*(\[.*\]|\{.*\})\s*$"


def as_lists(column: Any, sparse: SparseColumn) -> tuple[Any, Mask | None]:
    """Plain cells as lists where the column says that a cell holds several values, and which cells are none.

    An empty text is an empty list, a missing cell stays missing. None: every cell is a list, or the column has one
    value in a cell.
    """
    if is_list(column.type) or not (sparse.separator or sparse.brackets):
        return column, None
    text = column.cast(pa.string())
    if sparse.brackets:
        return _in_brackets(text)
    lists = pc.split_pattern(text, sparse.separator)
    return pc.if_else(pc.fill_null(pc.equal(text, ""), fill_value=False), pa.scalar([], lists.type), lists), None


def _in_brackets(text: Any) -> tuple[Any, Mask]:
    """Each different text is parsed once."""
    coded = text.dictionary_encode()
    found = [values_in(cell) for cell in coded.dictionary.to_pylist()]
    bad = np.array([values is None for values in found] + [False], np.bool_)
    places = coded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    lists = pa.array([values or [] for values in found], pa.list_(pa.string()))
    return lists.take(coded.indices), bad[places]


def values_in(cell: str) -> Values | None:
    """The values of one cell as text: of JSON's list, Python's, PostgreSQL's (`{a,b}`) or numpy's (`[1 2]`).

    None: it is none of these, or a list of lists.
    """
    text = cell.strip()
    if not text:
        return []
    if text[0] + text[-1] not in ("[]", "{}"):
        return None
    if text[0] == "[":
        try:
            values = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
        except RecursionError:
            return None
        except ValueError:
            pass
        else:
            return None if any(isinstance(value, list | dict) for value in values) else [_text(v) for v in values]
    inner = text[1:-1].strip()
    if _NUMBERS.fullmatch(inner):
        return list(inner.split())
    return _scanned(inner)


def _text(value: Any) -> str | None:
    """A value of JSON as JSON writes it; text as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None or value == "NaN" else str(value)


def _scanned(inner: str) -> Values | None:
    """Values between commas, in quotes or not."""
    found: Values = []
    at = 0
    while at < len(inner):
        match = _ITEM.match(inner, at)
        if match is None:
            return None
        plain = match["plain"]
        quoted = match["double"] if match["double"] is not None else match["single"]
        if plain is not None:
            found.append(None if plain in _NOTHING else plain)
        else:
            found.append(re.sub(r"\\(.)", r"\1", quoted))
        at = match.end()
    return found
