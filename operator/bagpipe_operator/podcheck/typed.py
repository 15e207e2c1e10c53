"""Types of Kubernetes' API: which fields a part of a pod has, and whether a value fits them.

A place is a tuple of keys and indexes from the pod template down: `("spec", "containers", 0, "env")`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from .fields import FIELDS
from .quantity import parse
from .shapes import describe

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Found:
    """Something in a pod that Kubernetes refuses, or never starts."""

    place: Place
    problem: str
    remedy: str = ""


@dataclass(frozen=True)
class Field:
    """One field: its type in the words of `fields.py`, and whether a value has to be there."""

    kind: str
    required: bool


@cache
def types() -> Mapping[str, Mapping[str, Field]]:
    """The fields of each type, by name."""
    found: dict[str, dict[str, Field]] = {}
    fields: dict[str, Field] = {}
    for word in FIELDS.split():
        name, is_field, kind = word.partition("=")
        if is_field:
            fields[name] = Field(kind.rstrip("!"), kind.endswith("!"))
        else:
            fields = found[word.rstrip(":")] = {}
    return found


_SETTLED = frozenset(
    [
        "Affinity",
        "ConfigMapKeySelector",
        "EnvVar",
        "HTTPHeader",
        "HostAlias",
        "KeyToPath",
        "LabelSelector",
        "LabelSelectorRequirement",
        "NodeSelector",
        "NodeSelectorRequirement",
        "NodeSelectorTerm",
        "PodTemplateSpec",
        "SecretKeySelector",
        "Toleration",
    ]
)
_EXPECTED = {
    "string": "a text",
    "bool": "true or false",
    "int": "a whole number of 32 bits",
    "long": "a whole number of 64 bits",
    "quantity": "a quantity such as 2, 500m or 4Gi",
    "port": "a port: its number, or its name as text",
}


def misfits(value: Any, kind: str, place: Place = ()) -> Iterator[Found]:
    """Where a value is not of its type: no field of that name, nothing where a value has to be, or another type.

    A field that Kubernetes does not know is told only if its name is nearly that of one that it does know: what is
    like none of them may be new in a cluster's release, but for types to which no release has added one for years.
    """
    if kind.startswith("[]"):
        if not isinstance(value, list | tuple):
            yield Found(place, f"expected a list, found {describe(value)}")
            return
        for index, item in enumerate(value):
            yield from misfits(item, kind[2:], (*place, index))
    elif kind.startswith("{}") or kind in types():
        yield from _in_map(value, kind, place)
    elif not _fits(value, kind):
        yield Found(place, f"expected {_EXPECTED[kind]}, found {describe(value)}", _quoted(value, kind))


def _in_map(value: Any, kind: str, place: Place) -> Iterator[Found]:
    if not isinstance(value, Mapping):
        yield Found(place, f"expected a map, found {describe(value)}")
        return
    if odd := next((key for key in value if not isinstance(key, str)), None):
        yield Found(place, f"expected texts as keys, found {describe(odd)}", "write it in quotes")
        return
    known = types().get(kind)
    for key, item in sorted(value.items()):
        if known is None:
            if item is not None or kind != "{}string":  # There null says the empty text.
                yield from misfits(item, kind[2:], (*place, key))
        elif key not in known:
            near = nearest(key, known)
            if near or kind in _SETTLED:
                remedy = f"did you mean {near}?" if near else f"its fields are {', '.join(known)}"
                yield Found((*place, key), "Kubernetes knows no such field and would drop it", remedy)
        elif item is not None:
            yield from misfits(item, known[key].kind, (*place, key))
    for name, field in (known or {}).items():
        if field.required and value.get(name) in (None, "", [], ()):
            found = describe(value[name]) if name in value else "nothing"
            yield Found((*place, name), f"expected a value, found {found}", f"set {name}")


def _fits(value: Any, kind: str) -> bool:
    if kind == "any":
        return True
    if isinstance(value, bool):
        return kind == "bool"
    if kind in ("int", "long"):
        bits = 31 if kind == "int" else 63
        return isinstance(value, int | float) and value == value // 1 and -(2**bits) <= value < 2**bits
    if kind == "quantity":
        return parse(value) is not None
    if kind == "port":
        return isinstance(value, str | int)
    return kind == "string" and isinstance(value, str)


def _quoted(value: Any, kind: str) -> str:
    scalar = isinstance(value, bool | int | float)
    return "write it in quotes" if kind == "string" and scalar else ""


def nearest(key: str, known: Mapping[str, Any]) -> str | None:
    """The known name that somebody who wrote `key` may have meant: other capitals, or a letter or two."""
    bare = key.lower().replace("_", "").replace("-", "")
    distances = {name: _distance(bare, name.lower()) for name in known if abs(len(name) - len(bare)) <= 2}
    best = min(distances, key=lambda name: distances[name], default="")
    return best if best and distances[best] <= (0 if len(best) < 4 else 1 if len(best) < 8 else 2) else None


def _distance(one: str, other: str) -> int:
    """Letters to add, take away, change or swap with their neighbours to make one word of the other."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one):
        row = [i + 1]
        for j, wanted in enumerate(other):
            cost = min(last[j + 1] + 1, row[j] + 1, last[j] + (letter != wanted))
            if before and j and letter == other[j - 1] and one[i - 1] == wanted:
                cost = min(cost, before[j - 1] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def parts(value: Any, kind: str, place: Place = ()) -> Iterator[tuple[str, Any, Place]]:
    """(type, value, place) of all that is in a value of this type, outermost first: `Container`, `Container.name`."""
    if value is None:
        return
    if kind.startswith("[]"):
        for index, item in enumerate(value):
            yield from parts(item, kind[2:], (*place, index))
        return
    known = types().get(kind)
    if known is None:
        return
    yield kind, value, place
    for key, item in sorted(value.items()):  # The order in which they were written is no reason to tell another fault.
        if key in known and item is not None:
            yield f"{kind}.{key}", item, (*place, key)
            yield from parts(item, known[key].kind, (*place, key))
