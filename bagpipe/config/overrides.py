"""`--set PATH=VALUE`: parses path and value, and replaces what the document has at that path.

A path is made of keys and list indices: `spec.data.path`, `embedding.tables[0].name`, `tables.0.name`,
`metadata.labels["app.kubernetes.io/name"]`; `spec.` may be left out. A value that begins with a bracket or a quote
is YAML; any other is one plain scalar to its last character, so that `a #2`, `*.tsv` and `x: y` need no quotes
but the shell's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bagpipe.config import yaml_lines, yaml_scalars
from bagpipe.config.paths import shown
from bagpipe.config.yaml_lines import Document, Path_
from bagpipe.errors import ConfigError

TOP_LEVEL = ("apiVersion", "kind", "metadata", "spec")
_EXAMPLE = "for instance --set spec.batchSize=1024"
_LONGEST = 60
_PART = re.compile(
    r"""\.?(?P<key>[^.\[\]"'=\s]+)|\[(?P<index>[0-9]{1,9})\]|\[(?P<quote>["'])(?P<quoted>(?:(?!(?P=quote)).)+)(?P=quote)\]"""
)


@dataclass(frozen=True, slots=True)
class Override:
    """One `--set`, understood."""

    path: Path_
    value: Any
    text: str
    """As it was given, short enough for a message."""


def parse_override(given: str) -> Override:
    """What one `--set` asks for.

    Raises:
        ConfigError: the path or the value is none.
    """
    text = f"--set {_short(given)}"
    path, rest = _path(given, text)
    if not rest.startswith("="):
        raise ConfigError(f"{text}: expected path=value, {_EXAMPLE}")
    if path[0] not in TOP_LEVEL:
        path = ("spec", *path)
    return Override(path, _value(rest[1:].strip(), text), text)


def _path(given: str, text: str) -> tuple[Path_, str]:
    """The path, and what follows it."""
    path: Path_ = ()
    given, place = given.strip(), 0
    while given[place:].lstrip()[:1] not in ("", "="):
        part = _PART.match(given, place)
        if part is None or (place == 0) != (part.group()[0] not in ".["):
            raise ConfigError(
                f"{text}: {_short(given[place:])!r} is no part of a path; expected keys and list indices such as "
                "embedding.tables[0].name, then ="
            )
        name = _key(part["key"] or part["quoted"], text)
        # `tables.0.name` is `tables[0].name`; whether it is a list or a mapping is known when it is applied.
        path = (*path, int(part["index"]) if name is None else int(name) if _is_index(part["key"]) else name)
        place = part.end()
    if not path:
        raise ConfigError(f"{text}: expected path=value, {_EXAMPLE}")
    return path, given[place:].lstrip()


def _key(name: str | None, text: str) -> str | None:
    try:
        return None if name is None else yaml_scalars.characters(name)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from None


def _is_index(key: str | None) -> bool:
    return key is not None and key.isascii() and key.isdecimal() and len(key) < 10


def _value(value: str, text: str) -> Any:
    if not value:
        raise ConfigError(f"{text}: no value after =; write null for the default, or '\"\"' for an empty string")
    if value[0] in "[{\"'":
        return yaml_lines.parse(value, text).value
    try:
        return yaml_scalars.plain(value)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from None


def apply(document: Document, overrides: Sequence[Override]) -> None:
    """Replace, in order, the value at each path, making mappings on the way; null removes it instead.

    Raises:
        ConfigError: a path leads through a value that has no parts, or beyond a list's end, or null is given for an
            element of a list.
    """
    for override in overrides:
        _apply(document.value, override)


def _apply(value: Any, override: Override) -> None:
    for depth, part in enumerate(override.path):
        here = ".".join(map(str, override.path[:depth])) or "the job"
        if isinstance(value, list):
            if not isinstance(part, int) or part >= len(value):
                raise ConfigError(f"{override.text}: {_beyond(here, len(value))}")
        elif isinstance(value, dict):
            part = str(part)
        else:
            raise ConfigError(f"{override.text}: {here} is {_found(value)}, which has no {part}; set {here} as a whole")
        if depth == len(override.path) - 1:
            _put(value, part, override)
            return
        if isinstance(value, dict) and value.get(part) is None:
            if override.value is None:
                return
            value[part] = {}
        value = value[part]


def _put(value: Any, part: str | int, override: Override) -> None:
    """Set the value; null restores the default by removing the key. An element of a list has no default."""
    if override.value is not None:
        value[part] = override.value
    elif isinstance(value, dict):
        value.pop(part, None)
    else:
        raise ConfigError(f"{override.text}: an element of a list has no default; set the list as a whole")


def _beyond(here: str, length: int) -> str:
    if not length:
        return f"{here} is an empty list; set it as a whole"
    return f"{here} is a list of {length}; use an index from 0 to {length - 1}"


def _found(value: Any) -> str:
    return _short(repr(value))


def _short(text: str) -> str:
    text = shown(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
