"""Strict JSON: any parser can read what the library writes.

JSON has no NaN and no infinities, and Python's own encoder writes them all the same. Here such a number becomes
`null`, and the object that holds it says so in one further entry:

    {"loss": NaN, "steps": 8}  ->  {"loss": null, "steps": 8, "notFinite": {"loss": "NaN"}}

so that a reader can tell a loss that diverged from one that is not known. `number` reads such an entry back.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

NOT_FINITE = "notFinite"
"""Entry of an object that lists its entries that are null because they are not finite, each with its value in words."""


def encode(value: Any, *, indent: int | None = None, compact: bool = False) -> str:
    """JSON text of a value made of dicts, sequences, strings, numbers, booleans and None.

    Args:
        indent: spaces of each level, for people; None: one line.
        compact: no space after `,` and `:`.
    """
    separators = (",", ":") if compact else None
    return json.dumps(_finite(value), indent=indent, separators=separators, allow_nan=False)


def number(record: Mapping[str, Any], name: str) -> float | None:
    """An entry of a decoded object as a float, also where it was not finite; None where it is not known."""
    found = record.get(name)
    if found is None:
        words = record.get(NOT_FINITE)
        found = words.get(name) if isinstance(words, Mapping) else None
    return None if found is None else float(found)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        made = {key: _finite(item) for key, item in value.items()}
        words = {key: _in_words(item) for key, item in value.items() if _is_not_finite(item)}
        return made | {NOT_FINITE: words} if words else made
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if _is_not_finite(value) else value


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _in_words(value: float) -> str:
    """`NaN`, `Infinity` or `-Infinity`, as `float` reads them."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
