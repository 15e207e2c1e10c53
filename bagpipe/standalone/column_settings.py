"""What `data.columns` says of each column, read from an export's `transform.json`.

In an export this stands in for `bagpipe.config.columns`, `bagpipe.config.column_rules` and `bagpipe.data.transform`,
which need msgspec.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from bagpipe.errors import CheckpointError

UNIX_TIMES = {"unix": 1, "unix-ms": 10**3, "unix-us": 10**6, "unix-ns": 10**9}
"""Units in a second of a time that is a number, by its `timeFormat`."""


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """One target."""

    name: str
    kind: Literal["binary", "count", "real"] = "binary"
    rule: str = ""


@dataclass(frozen=True, slots=True)
class DenseColumn:
    """One number of each example."""

    name: str
    column: str = ""
    missing: tuple[str, ...] = ()
    thousands: str = ""
    decimal: Literal[".", ","] = "."
    unit: str = ""
    negative: Literal["sign", "parentheses", "behind"] = "sign"
    duration: Literal["none", "h:m:s", "h:m", "m:s", "iso"] = "none"
    count: Literal["none", "number", "log-share"] = "none"
    fill: float = 0.0
    clip: tuple[float, ...] = ()
    log1p: bool = False
    standardise: bool = False


@dataclass(frozen=True, slots=True)
class SparseColumn:
    """One categorical feature."""

    name: str
    column: str = ""
    table: str = ""
    separator: str = ""
    brackets: bool = False
    weight: str = ""
    bins: Literal["none", "log-squared"] = "none"
    part: Literal["none", "hour", "weekday"] = "none"
    time_format: str = ""
    max_length: int | None = None
    keep: Literal["first", "last"] = "last"
    boundaries: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DenseStatistics:
    """Of a standardised column over the training part."""

    name: str
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class LabelRule:
    """`column operator value [else other]`."""

    column: str
    operator: Literal[">=", "<=", "==", "!=", ">", "<"]
    value: str | float
    other: str | float | None


Setting = TypeVar("Setting", DenseColumn, SparseColumn, DenseStatistics)


def label_rule(label: LabelColumn) -> LabelRule | None:
    """Refuse: an export has no labels, so nothing of it may ask for a rule."""
    raise NotImplementedError(f"label {label.name}: an export scores rows and reads no labels")


def exact_number(text: str) -> int | float:
    """Refuse, as `label_rule`: only rules have numbers to compare with."""
    raise NotImplementedError(f"{text}: an export scores rows and reads no labels")


def read_setting(kind: type[Setting], facts: Mapping[str, Any]) -> Setting:
    """One column's settings.

    Raises:
        CheckpointError: one of them is of a later version.
    """
    names = {_camel(f.name): f.name for f in fields(kind)}
    strange = [name for name in facts if name not in names]
    if strange:
        raise CheckpointError(f"transform.json: {strange[0]} of {facts.get('name')} is not known to this score.py")
    values: dict[str, Any] = {
        names[name]: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
    }
    return kind(**values)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
