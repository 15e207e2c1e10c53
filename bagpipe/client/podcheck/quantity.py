"""Kubernetes' quantities: `500m`, `4Gi`, `1e3`."""

import re
from decimal import Decimal
from typing import Any

_SUFFIXES = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)}
_SUFFIXES |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)}
_SUFFIXES |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}
_QUANTITY = re.compile(
    r"(?P<number>[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)(?P<suffix>"
    + "|".join(sorted(_SUFFIXES, reverse=True))
    + ")"
)


def parse(quantity: Any) -> Decimal | None:
    """A quantity, as text or as a number, as a number; None: it is none."""
    if isinstance(quantity, bool) or not isinstance(quantity, str | int | float):
        return None
    found = _QUANTITY.fullmatch(str(quantity).strip())
    if found is None:
        return None
    return Decimal(found["number"]) * _SUFFIXES[found["suffix"]]
