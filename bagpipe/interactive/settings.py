"""Turns keyword arguments into a job document: settings by their Python names, each put into its section.

    fit(..., batch_size=512, embedding={"dim": 16, "init_scale": 0.01}, test_fraction=0.1, trainers=2)

A name is a setting of `spec` (`batch_size`, or `batchSize` as in YAML), else one of `spec.data` (`test_fraction`).
Whole sections are dicts, whose keys may be written either way; `trainers=2` and `servers=3` are numbers of processes.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from bagpipe.config.columns import ColumnsConfig
from bagpipe.config.document import DataConfig, JobSpec
from bagpipe.config.paths import is_url
from bagpipe.errors import ConfigError
from bagpipe.interactive.user_model import name_function
from bagpipe.metrics.functions import check_takes

Section = type[msgspec.Struct]
_COUNTS = ("trainers", "servers")
_IMPORTED = re.compile(r"entrypoint|model_args", re.IGNORECASE)
"""Settings that take the import path of a class."""
_FUNCTIONS = re.compile(r"(^|\.)(metrics|lr_?lambda)(\[\d+\])*$", re.IGNORECASE)
"""Settings that take functions, or lists of them, by their import paths."""
_FIGURES = re.compile(r"(^|\.)(metric|best)$")
"""Settings that take the name of a figure, which a function of the user's has from itself."""


def columns_section(columns: Any) -> dict[str, Any]:
    """`data.columns` as the document has it; a column that is only a name needs no dict.

    Args:
        columns: a dict such as `{"labels": ["click"], "dense": ["price"], "sparse": [{"name": "user"}]}`.
    """
    made: dict[str, Any] = plain(in_document(columns, ColumnsConfig), "columns")
    if isinstance(made, dict):
        for part in ("labels", "dense", "sparse"):
            if isinstance(listed := made.get(part), str | Mapping):
                made[part] = listed = [listed]
            if isinstance(listed, list):
                made[part] = [{"name": one} if isinstance(one, str) else one for one in listed]
    return made


def spec_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` of a job with these settings and no others.

    Names that no section has stay as they are, for the check of the document to refuse.
    """
    spec: dict[str, Any] = {}
    data: dict[str, Any] = {}
    ours, datas = _names(JobSpec), _names(DataConfig)
    for name, value in settings.items():
        value = plain(value, name)
        if value is None:
            continue
        if name in _COUNTS and isinstance(value, int):
            value = {"replicas": value}
        if name not in ours and name in datas:
            data[datas[name]] = in_document(value, _field_type(DataConfig, name))
        else:
            spec[ours.get(name, name)] = in_document(value, _field_type(JobSpec, name))
    return spec | ({"data": data | spec.get("data", {})} if data else {})


def functions_named(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Settings with the import paths of functions in the place of these, and the modules that this needs.

    Returns:
        the settings, and texts by name of the modules that hold functions of this program itself.

    Raises:
        ConfigError: a function has no name by which another process could import it, or a figure's takes other
            arguments than figures are made of.
    """
    modules: dict[str, str] = {}

    def named(value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            return {key: named(one, f"{place}.{key}".removeprefix(".")) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [named(one, f"{place}[{number}]") for number, one in enumerate(value)]
        if not callable(value):
            return value
        if _FIGURES.search(place) and hasattr(value, "__name__"):
            return value.__name__
        if not _FUNCTIONS.search(place):
            return value
        if "metrics" in place:
            check_takes(value, place)
        path, needed = name_function(value, place)
        modules.update(needed)
        return path

    return named(settings, ""), modules


def over(below: Any, above: Any) -> Any:
    """`above` laid over `below`, section by section; lists and values are replaced."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {**below, **{key: over(below[key], value) if key in below else value for key, value in above.items()}}


def path_of(path: Any, what: str) -> Path:
    """A path that an argument gives.

    Raises:
        ConfigError: it is none, or a URL.
    """
    if not isinstance(path, str | os.PathLike) or is_url(os.fspath(path)):
        raise ConfigError(f"{what}: expected a path on this machine, found {path!r:.60}")
    return Path(path)


def settled(path: Path) -> Path:
    """The same path, valid whatever folder the program changes to: a notebook does so between cells and in a loop."""
    try:
        return path.absolute()
    except OSError:  # The current folder was removed. Whoever uses the path says so.
        return path


def names_of(names: str | Sequence[str] | None, what: str) -> tuple[str, ...]:
    """Names as an argument takes them: a text is one name, not its letters; None: none.

    Raises:
        ConfigError: these are no names.
    """
    given: Any = () if names is None else (names,) if isinstance(names, str) else names
    listed = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"{what}: expected a name or a list of names, found {names!r:.60}")
    return listed


def plain(value: Any, place: str) -> Any:
    """A value as a document may hold it: numbers and lists of numpy, pandas and torch as Python's own, paths as texts.

    Args:
        place: the argument, for the message.

    Raises:
        ConfigError: it is something that no other process could read.
    """
    if isinstance(value, Mapping):
        return {key: plain(one, f"{place}.{key}") for key, one in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)  # Their own order differs from process to process, and features have one.
    if isinstance(value, list | tuple):
        return [plain(one, f"{place}[{number}]") for number, one in enumerate(value)]
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if callable(getattr(value, "tolist", None)):
        return plain(value.tolist(), place)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Enum | str):
        return plain(value.value, place) if isinstance(value, Enum) else str(value)
    raise ConfigError(f"{place}: expected a number, a text, a list or a dict, found {_described(value, place)}")


def _described(value: Any, place: str) -> str:
    name = getattr(value, "__qualname__", "")
    if not callable(value) or not name:
        return f"a {type(value).__name__}"
    if not _IMPORTED.search(place):
        return (
            f"{name}; a job names what it uses (docs/settings.md), and any other optimizer or loss is for a loop of "
            "your own (bagpipe.local)"
        )
    own = value.__module__ == "__main__" or "<" in name
    path = "its import path" if own else f"'{value.__module__}:{name}'"
    return f"{name}, of which other processes need the import path; give {path}{', from a module' if own else ''}"


def in_document(value: Any, section: Any) -> Any:
    """A value whose keys are settings, with the document's names; a text becomes a list where a list is expected."""
    if isinstance(value, str) and _is_names(section):
        return [value]
    structs = _structs_in(section)
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, Mapping):
        found = next(iter(structs), None)
        names = _names(found) if found is not None else {}
        return {
            names.get(key, key): in_document(one, _field_type(found, key) if found is not None else None)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [one if isinstance(one, str) else in_document(one, section) for one in value]
    return value


def _names(section: Section) -> dict[str, str]:
    """The document's name of each setting, by its Python name and by itself."""
    fields = msgspec.structs.fields(section)
    return {name: field.encode_name for field in fields for name in (field.name, field.encode_name)}


def _field_type(section: Section, name: str) -> Any:
    return next((f.type for f in msgspec.structs.fields(section) if name in (f.name, f.encode_name)), None)


def _is_names(kind: Any) -> bool:
    """Whether a setting's type is a list of texts, or an optional one."""
    if get_origin(kind) is Annotated:
        return _is_names(get_args(kind)[0])
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) in (UnionType, Union):
        return len(parts) == 1 and _is_names(parts[0])
    if get_origin(kind) not in (tuple, list) or not parts:
        return False
    first = get_args(parts[0])[0] if get_origin(parts[0]) is Annotated else parts[0]
    return first is str


def _structs_in(kind: Any) -> list[Section]:
    """The sections that a setting's type contains."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [found for part in get_args(kind) for found in _structs_in(part)]
