"""Checking free-form documents: what shape a value must have, and one sentence for the first place where it has not.

A shape is a function (value, path) that returns the first fault found, or none:

    container = Table({"name": Text(), "env": Many(Table({"name": Text()}, required=("name",)))}, required=("name",))
    container({"env": "A=1"}, "spec.x")  ->  Fault(spec.x.env: expected a list, found the text 'A=1')

Fields that a table does not name are not looked at: they are for the API server to judge.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any


class SpecError(Exception):
    """A document cannot be run, or a setting cannot be: names the field, what was found and what to write instead."""


@dataclass(frozen=True)
class Fault:
    """One value that is not as it must be."""

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.found}"


Shape = Callable[[Any, str], Fault | None]


def describe(value: Any) -> str:
    """A value in a few words, for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the flag {str(value).lower()}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}" if value else "an empty text"
    if isinstance(value, int | float):
        return f"the number {float(value):g}" if abs(value) >= 1e16 else f"the number {value}"
    if isinstance(value, Mapping):
        return "a map" if value else "an empty map"
    return "a list" if isinstance(value, list | tuple) else type(value).__name__


@dataclass(frozen=True)
class Text:
    """A text, perhaps one of a few."""

    among: tuple[str, ...] = ()
    empty: bool = False
    """Whether a text without a character is one."""

    def __call__(self, value: Any, path: str) -> Fault | None:
        expected = " or ".join(self.among) if self.among else "a text"
        good = isinstance(value, str) and (value or self.empty) and (not self.among or value in self.among)
        return None if good else Fault(path, expected, describe(value))


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds, both included."""

    least: int = 0
    most: int = 2**31 - 1

    def __call__(self, value: Any, path: str) -> Fault | None:
        good = isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most
        return None if good else Fault(path, f"a whole number from {self.least} to {self.most}", describe(value))


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def __call__(self, value: Any, path: str) -> Fault | None:
        return None if isinstance(value, bool) else Fault(path, "true or false", describe(value))


@dataclass(frozen=True)
class Words:
    """A map of texts to texts."""

    removable: bool = False
    """Whether null may stand for a text, as it does in what is laid over something else."""

    def __call__(self, value: Any, path: str) -> Fault | None:
        if not isinstance(value, Mapping):
            return Fault(path, "a map of texts", describe(value))
        for key, item in value.items():
            if self.removable and isinstance(key, str) and item is None:
                continue
            if not isinstance(key, str) or not isinstance(item, str):
                return Fault(f"{path}.{key}", "a text", describe(item if isinstance(key, str) else key))
        return None


@dataclass(frozen=True)
class Scalars:
    """A map of texts to texts or numbers, as quantities of resources are."""

    def __call__(self, value: Any, path: str) -> Fault | None:
        if not isinstance(value, Mapping):
            return Fault(path, "a map of quantities", describe(value))
        for key, item in value.items():
            if not isinstance(item, str | int | float) or isinstance(item, bool):
                return Fault(f"{path}.{key}", "a quantity such as 2 or 500Mi", describe(item))
        return None


@dataclass(frozen=True)
class Many:
    """A list whose items have one shape."""

    item: Shape

    def __call__(self, value: Any, path: str) -> Fault | None:
        if not isinstance(value, list | tuple):
            return Fault(path, "a list", describe(value))
        return next((f for i, v in enumerate(value) if (f := self.item(v, f"{path}[{i}]"))), None)


@dataclass(frozen=True)
class Optional:
    """null, which says the same as leaving the field out, or a value of the shape."""

    shape: Shape

    def __call__(self, value: Any, path: str) -> Fault | None:
        return None if value is None else self.shape(value, path)


@dataclass(frozen=True)
class Table:
    """A map with named fields; others may be there."""

    fields: Mapping[str, Shape]
    required: tuple[str, ...] = ()

    def __call__(self, value: Any, path: str) -> Fault | None:
        if not isinstance(value, Mapping):
            return Fault(path, "a map", describe(value))
        if odd := next((key for key in value if not isinstance(key, str)), None):
            return Fault(path, "texts as keys", describe(odd))
        for name in self.required:
            if name not in value:
                return Fault(f"{path}.{name}", "a value", "nothing")
        known = ((name, shape) for name, shape in self.fields.items() if name in value)
        return next((f for name, shape in known if (f := shape(value[name], f"{path}.{name}"))), None)


def camel(name: str) -> str:
    """A field's name as documents write it: `max_servers` is `maxServers`."""
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


_TYPES: Mapping[type, tuple[str, type | tuple[type, ...]]] = {
    bool: ("true or false", bool),
    int: ("a whole number", int),
    float: ("a number", (int, float)),
    str: ("a text", str),
    tuple: ("a list", tuple),
    dict: ("a map", Mapping),
    type(None): ("a text", (str, type(None))),
}


def check_types(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Refuse a value that is not of its field's type: it would end the operator later, and without a word about it.

    Raises:
        SpecError: names the field, what was expected and what was found.
    """
    for f in fields(cls):
        default = f.default_factory() if callable(f.default_factory) else f.default
        expected, kind = _TYPES.get(type(default), ("", object))
        value = values.get(f.name, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(default, bool)):
            raise SpecError(f"{where}: {camel(f.name)}: expected {expected}, found {describe(value)}")
