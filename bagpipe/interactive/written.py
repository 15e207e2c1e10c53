"""Writes values of a Python program as source, so that another process has the same ones."""

import collections
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

MOST_ELEMENTS = 10_000
"""A tensor or array with more is data, which belongs into a file."""
_COLLECTIONS = (collections.Counter, collections.OrderedDict, collections.deque, collections.defaultdict)
_FACTORIES = (int, float, list, dict, set)
_KINDS = "biuf"
"""Of arrays: booleans, integers and floating-point numbers."""


def written(value: Any) -> str | None:
    """Python source of a constant; None: the value is no constant."""
    if value is None or isinstance(value, bool | int | str | bytes):
        return repr(value) if type(value) in (type(None), bool, int, str, bytes) else None
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
    if type(value) in (tuple, list, set, frozenset):
        return _parts_in(type(value).__name__, value)
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return f"__import__('torch').{repr(value).removeprefix('torch.')}"
    if isinstance(value, np.bool_ | np.number) and (plain := written(value.item())) is not None:
        return f"__import__('numpy').{type(value).__name__}({plain})"
    if isinstance(value, Path):
        return f"__import__('pathlib').Path({str(value)!r})"
    if type(value) is dict:
        return _pairs(value)
    return _of_collection(value) if type(value) in _COLLECTIONS else _of_numbers(value)


def _parts_in(maker: str, values: Any) -> str | None:
    ordered = _in_lasting_order(values) if isinstance(values, set | frozenset) else values
    parts = [written(one) for one in ordered]
    return None if None in parts else f"{maker}([{', '.join(str(part) for part in parts)}])"


def _in_lasting_order(values: set[Any] | frozenset[Any]) -> list[Any]:
    """The elements of a set in an order that the next start of the program has too, so that the text stays the same.

    Numbers stay in the order in which the set has them: it is the same at each start, and layers may be made in it.
    """
    numbers = all(isinstance(value, bool | int | float) for value in values)
    return list(values) if numbers else sorted(values, key=lambda value: written(value) or "")


def _pairs(value: dict[Any, Any]) -> str | None:
    pairs = [(written(key), written(one)) for key, one in value.items()]
    return None if any(None in pair for pair in pairs) else f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"


def _of_collection(value: Any) -> str | None:
    """A counter, a queue and the like of the standard library."""
    name = f"__import__('collections').{type(value).__name__}"
    if isinstance(value, collections.deque):
        found = _parts_in("list", value)
        return found and f"{name}({found}, {value.maxlen})"
    found = _pairs(value)
    if found is None or not isinstance(value, collections.defaultdict):
        return found and f"{name}({found})"
    factory = value.default_factory
    return f"{name}({factory.__name__}, {found})" if factory in _FACTORIES and isinstance(factory, type) else None


def _of_numbers(value: Any) -> str | None:
    """A small tensor on the host that nothing is learned of, or a small array."""
    if type(value).__module__ == "torch" and type(value).__name__ == "Tensor":
        torch = sys.modules["torch"]  # Not imported here: a program without tensors need not load it.
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.requires_grad
        if not plain or value.numel() > MOST_ELEMENTS or value.is_complex() or value.is_quantized:
            return None
        found = written(value.tolist())
        return found and f"__import__('torch').tensor({found}, dtype={written(value.dtype)}).reshape({[*value.shape]})"
    if type(value) is np.ndarray and value.dtype.kind in _KINDS and value.size <= MOST_ELEMENTS:
        found = written(value.tolist()) if value.dtype != np.longdouble else None
        return found and f"__import__('numpy').array({found}, dtype={value.dtype.str!r}).reshape({[*value.shape]})"
    return None
