"""Reads JSON that a process of a job wrote, and gives back only what can be written as strict JSON again.

Python's own writer leaves `NaN` and `Infinity` where JSON has no such words, and an API server refuses the
whole status that contains one. Integers beyond 64 bits and halves of characters come back from it changed, and
would be written again for ever.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

_DEEPEST = 20


NOT_FINITE = "notFinite"
"""Key under which the library's own records, and ours, name the values that JSON could not hold."""


def parse(text: str) -> Mapping[str, Any] | None:
    """The object in `text`, with null for what JSON cannot hold and the names of that; none: it is no object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    odd: dict[str, str] = {}
    record: dict[str, Any] = _clean(found, "", odd, 0)
    return {**record, NOT_FINITE: odd} if odd else record


def without_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with nothing in place of null, at any depth of objects; what stands in a list keeps its place."""
    return {
        key: without_nulls(value) if isinstance(value, Mapping) else value
        for key, value in record.items()
        if value is not None
    }


def _clean(value: Any, path: str, odd: dict[str, str], depth: int) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, int | float) and _is_plain(value):
        return value
    if isinstance(value, dict | list) and depth < _DEEPEST:
        if isinstance(value, list):
            return [_clean(item, f"{path}[{i}]", odd, depth + 1) for i, item in enumerate(value)]
        return {
            str(_clean(key, path, odd, depth)): _clean(item, f"{path}.{key}".lstrip("."), odd, depth + 1)
            for key, item in value.items()
        }
    odd[path] = _word(value)
    return None


def _is_plain(value: float) -> bool:
    return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)


def _word(value: Any) -> str:
    if isinstance(value, int):
        return "beyond 64 bits"
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return "nested too deeply"
