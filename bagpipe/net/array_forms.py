"""Compares the arrays of a message with those that its receiver expects. Pure.

`wire.py` sees to it that a message is one of this protocol; how many arrays belong to it, of which type and shape,
depends on what was asked for, or on a plan. Whoever uses them compares first: numpy would spread a row over many, or
take whole numbers for rows, and a compiled loop would read beyond the end of an array that is too short.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bagpipe.net.wire import Array

MOST_TOLD = 8
"""Arrays of a message that an error names; it may have thousands."""


class Form(NamedTuple):
    """Element type and shape of an array; a length of None may be any."""

    dtype: "np.dtype[np.generic]"
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        lengths = ", ".join("any" if n is None else str(n) for n in self.shape)
        return f"{self.dtype} ({lengths})"


FLOAT32: "np.dtype[np.generic]" = np.dtype(np.float32)
UINT8: "np.dtype[np.generic]" = np.dtype(np.uint8)


def floats(*shape: int | None) -> Form:
    """The form of float32 in this shape."""
    return Form(FLOAT32, shape)


def difference(arrays: Sequence[Array], expected: Sequence[Form]) -> str:
    """How the arrays differ from those expected, for people; empty: they do not."""
    if len(arrays) == len(expected) and all(map(_fits, arrays, expected)):
        return ""
    return f"expected {_told(expected)}, found {_told([Form(a.dtype, a.shape) for a in arrays])}"


def _fits(array: Array, form: Form) -> bool:
    if array.dtype != form.dtype:
        return False
    return array.shape == form.shape or (
        array.ndim == len(form.shape) and all(n is None or n == m for n, m in zip(form.shape, array.shape, strict=True))
    )


def _told(forms: Sequence[Form]) -> str:
    more = f" and {len(forms) - MOST_TOLD} more" if len(forms) > MOST_TOLD else ""
    return (", ".join(map(str, forms[:MOST_TOLD])) or "no array") + more
