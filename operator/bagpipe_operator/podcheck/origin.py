"""Where in a job the part of a pod stands: `spec.trainers.volumeMounts[0].name`, not its place in the finished pod."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .overlay import merge_name
from .typed import Place

MAIN = "bagpipe"
"""Name of the main container in every pod."""

Layer = tuple[str, Mapping[str, Any]]
"""Where pod settings stand, and what they are: `("spec.trainers", {...})`."""

_OF_CONTAINER = ("env", "envFrom", "image", "imagePullPolicy", "resources", "volumeMounts")


def where(place: Place, template: Mapping[str, Any], layers: Sequence[Layer]) -> str | None:
    """The path of the setting that a part of a finished pod comes from.

    Args:
        layers: those that were laid over one another, the uppermost first.

    Returns:
        None: no setting says it; it is from the operator itself, or a profile.
    """
    best: tuple[int, str] | None = None
    for path, document, steps in _views(place, template, layers):
        found, depth = _walked(path, document, steps, template, place)
        left = len(steps) - depth
        if depth and (best is None or left < best[0]):
            best = (left, found)
    return best[1] if best else None


def _views(
    place: Place, template: Mapping[str, Any], layers: Sequence[Layer]
) -> Iterator[tuple[str, Mapping[str, Any], Place]]:
    """(path, document, steps in it) of every place that could say it: pod templates lie over everything else."""
    for path, section in layers:
        if isinstance(section.get("podTemplate"), Mapping):
            yield f"{path}.podTemplate", section["podTemplate"], place
    for path, section in layers:
        if place[:1] == ("metadata",):
            yield path, section, place[1:]
        elif place[:2] == ("spec", "containers") and len(place) > 3 and place[3] in _OF_CONTAINER:
            if template["spec"]["containers"][place[2]].get("name") == MAIN:
                yield path, section, place[3:]
        elif place[:1] == ("spec",):
            yield path, section, place[1:]


def _walked(path: str, value: Any, steps: Place, template: Any, place: Place) -> tuple[str, int]:
    """As deep as the steps lead into `value`: the path there, and the number of steps.

    An item of a list is that of the same name, or one that is equal.
    """
    merged = template
    for step in place[: len(place) - len(steps)]:
        merged = merged[step]
    key = place[len(place) - len(steps) - 1] if len(place) > len(steps) else ""
    for depth, step in enumerate(steps):
        wanted = _at(merged, step)
        if isinstance(step, int):
            index = _index(value, wanted, str(key)) if isinstance(value, list | tuple) else None
            if index is None:
                return path, depth
            path, value = f"{path}[{index}]", value[index]
        elif isinstance(value, Mapping) and step in value:
            path, value = f"{path}.{step}", value[step]
        elif depth == len(steps) - 1 and isinstance(value, Mapping) and wanted is None and depth:
            return f"{path}.{step}", depth + 1  # What is missing has no place, but would have it here.
        else:
            return path, depth
        merged, key = wanted, step
    return path, len(steps)


def _at(value: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return value[step] if isinstance(value, list | tuple) and step < len(value) else None
    return value.get(step) if isinstance(value, Mapping) else None


def _index(items: Sequence[Any], wanted: Any, key: str) -> int | None:
    """Which item became the wanted one; the last of a name did."""
    name = merge_name(wanted, key)
    for index in reversed(range(len(items))):
        if items[index] == wanted or (name is not None and merge_name(items[index], key) == name):
            return index
    return None
