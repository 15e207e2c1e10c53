"""Reads a job file: YAML and `--set` overrides in, a checked `Job` out, one clear line on any mistake.

Types, bounds and names come from `bagpipe.config.document`; rules that tie several settings together from
`bagpipe.config.rules`. This file turns what msgspec finds into a sentence that names the file and line,
the dotted field, what was expected and found, and what to do.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as inspection
import yaml

from bagpipe.config import yaml_lines
from bagpipe.config.document import API_VERSION, KIND, Job
from bagpipe.config.rules import check_rules
from bagpipe.config.yaml_lines import Document, Path_
from bagpipe.errors import ConfigError

REFERENCE = "docs/settings.md"
TOP_LEVEL = ("apiVersion", "kind", "metadata", "spec")


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file; `overrides` are `path=value`, later ones win.

    Raises:
        ConfigError: one line that names file, field and remedy.
    """
    return parse_job(yaml_lines.read_text(path), str(path), overrides)


def parse_job(text: str, source: str, overrides: Sequence[str] = ()) -> Job:
    """As `load_job`, from text; `source` names it in messages."""
    document = yaml_lines.parse(text, source)
    if document.value is None:
        raise ConfigError(f"{source}: empty; expected a job (apiVersion: {API_VERSION}, kind: {KIND}, spec: ...)")
    if not isinstance(document.value, dict):
        found = type(document.value).__name__
        raise ConfigError(f"{source}: expected a mapping with apiVersion, kind, metadata and spec, found a {found}")
    origins: dict[Path_, str] = {}
    for override in overrides:
        path, value = parse_override(override)
        _set(document.value, path, value, override)
        origins[path] = f"--set {override}" if len(override) <= 60 else f"--set {override[:57]}..."
    _check_header(document)
    job = _convert(document, origins)
    check_rules(job, lambda dotted: _where(document, origins, _path_of(dotted)))
    return job


def dump_job(job: Job) -> str:
    """The job as YAML, every setting that has a value; `parse_job` gives back an equal job, and an API server takes it.

    No null stands for a missing value: the API server finds it in no enum, nullable or not.
    """
    return yaml.safe_dump(_plain(job), sort_keys=False, allow_unicode=True, width=110)


def _plain(value: Any) -> Any:
    """A setting as YAML has it. What the user wrote in Kubernetes' own terms keeps its nulls."""
    if isinstance(value, msgspec.Struct):
        fields = ((f, getattr(value, f.name)) for f in msgspec.structs.fields(value))
        return {f.encode_name: _plain(v) for f, v in fields if v is not None or f.default is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return msgspec.to_builtins(value)


def parse_override(text: str) -> tuple[Path_, Any]:
    """`spec.data.path=x` as a path and a value; `spec.` may be left out, lists take `[0]` or `.0`."""
    dotted, equals, value = text.partition("=")
    dotted = dotted.strip()
    if not equals or not dotted:
        raise ConfigError(f"--set {text}: expected path=value, for instance --set spec.batchSize=1024")
    path = _path_of(dotted)
    if path[0] not in TOP_LEVEL:
        path = ("spec", *path)
    return path, yaml_lines.parse_value(value, f"--set {text}")


def _path_of(dotted: str) -> Path_:
    parts = [p for p in re.split(r"[.\[\]]+", dotted) if p]
    return tuple(int(p) if p.isdecimal() else p for p in parts)


def _set(value: Any, path: Path_, new: Any, override: str) -> None:
    """Replace what stands at `path`, making the mappings on the way."""
    for depth, part in enumerate(path):
        here = ".".join(map(str, path[:depth])) or "the job"
        if isinstance(value, list):
            if not isinstance(part, int) or part >= len(value):
                raise ConfigError(
                    f"--set {override}: {here} is a list of {len(value)}; use an index from 0 to {len(value) - 1}"
                )
        elif isinstance(value, dict):
            part = str(part)
        else:
            raise ConfigError(f"--set {override}: {here} is {value!r}, which has no {part}; set {here} as a whole")
        if depth == len(path) - 1:
            value[part] = new
            return
        if isinstance(value, dict) and value.get(part) is None:
            value[part] = {}
        value = value[part]


def _check_header(document: Document) -> None:
    """Another kind of document deserves a better answer than its first unknown key."""
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        found = document.value.get(key, expected)
        if found != expected:
            raise ConfigError(
                f"{document.where((key,))}: {key}: expected {expected}, found {found!r}; is this a job file?"
            )


def _convert(document: Document, origins: dict[Path_, str]) -> Job:
    try:
        return msgspec.convert(document.value, Job)
    except msgspec.ValidationError as error:
        message, path = _split(str(error), document.value)
        raise ConfigError(_explain(message, path, document, origins)) from None


def _split(error: str, value: Any) -> tuple[str, Path_]:
    """Separate msgspec's sentence from the path at its end; `[...]` is resolved by looking at the value."""
    message, _, tail = error.partition(" - at ")
    match = re.search(r"`\$(.*)`", tail)
    path: Path_ = ()
    for name, index in re.findall(r"\.([^.\[\]]+)|\[([^\]]*)\]", match.group(1) if match else ""):
        if name:
            path = (*path, name)
        elif index.isdecimal():
            path = (*path, int(index))
        else:
            break
    return message, path


def _explain(message: str, path: Path_, document: Document, origins: dict[Path_, str]) -> str:
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        inner = (*path, unknown.group(1))
        known = _keys_at(path)
        return (
            f"{_where(document, origins, inner)}: {_dotted(inner)}: unknown setting; {_nearest(str(inner[-1]), known)}"
        )
    missing = re.fullmatch(r"Object missing required field `(.*)`", message)
    if missing:
        inner = (*path, missing.group(1))
        return f"{_where(document, origins, path)}: {_dotted(inner)}: missing; it has no default (see {REFERENCE})"
    found = _value_at(document.value, path)
    where = f"{_where(document, origins, path)}: {_dotted(path)}"
    if not message.startswith("Invalid enum value"):
        return f"{where}: expected {_expected(message)}, found {_show(found)}; {_remedy(path)}"
    kinds = _field_type(path)
    choices = _choices(kinds)
    number = "an integer or " if any(isinstance(k, inspection.IntType) for k in kinds) else ""
    remedy = _nearest(str(found), choices) if _close(str(found), choices) else _remedy(path)
    return f"{where}: expected {number}{' | '.join(choices)}, found {_show(found)}; {remedy}"


def _expected(message: str) -> str:
    """msgspec's words for what it wanted, without its quotes and without what it got."""
    words = message.partition(", got ")[0].removeprefix("Expected ").replace("`", "")
    names = {"int": "an integer", "str": "a string", "float": "a number", "bool": "true or false"}
    names |= {"object": "a mapping", "array": "a list"}
    parts = re.split(r"( \| |[ ,])", words, maxsplit=0)
    return "".join(names.get(p, " or " if p == " | " else p) for p in parts)


def _remedy(path: Path_) -> str:
    field = _field(path)
    default = field.default if field is not None else msgspec.NODEFAULT
    if field is not None and isinstance(default, int | float | str):
        return f"correct it or leave it out (default {default}; see {REFERENCE})"
    return f"correct it (see {REFERENCE})"


def _nearest(word: str, known: Sequence[str]) -> str:
    close = _close(word, known)
    if close:
        return f"did you mean {close}?"
    return f"expected one of {', '.join(sorted(known))}" if known else f"see {REFERENCE}"


def _close(word: str, known: Sequence[str]) -> str | None:
    lowered = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def _where(document: Document, origins: dict[Path_, str], path: Path_) -> str:
    """The override that set `path`, or something around or inside it; otherwise its place in the file."""
    for origin, text in reversed(origins.items()):
        if origin[: len(path)] == path or path[: len(origin)] == origin:
            return text
    return document.where(path)


def _dotted(path: Path_) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".") or "the job"


def _show(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _value_at(value: Any, path: Path_) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
    return value


# ── what `bagpipe.config.document` says about a path ───────────────────────────────────────────────────────


def _unwrap(kind: inspection.Type) -> Iterator[inspection.Type]:
    """The plain types behind `Annotated` and unions."""
    if isinstance(kind, inspection.Metadata):
        yield from _unwrap(kind.type)
    elif isinstance(kind, inspection.UnionType):
        for member in kind.types:
            yield from _unwrap(member)
    else:
        yield kind


def _field(path: Path_) -> inspection.Field | None:
    """The struct field that `path` names, if it names one."""
    kinds: list[inspection.Type] = [inspection.type_info(Job)]
    found: inspection.Field | None = None
    for part in path:
        inner: list[inspection.Type] = []
        found = None
        for kind in (plain for k in kinds for plain in _unwrap(k)):
            if isinstance(kind, inspection.StructType):
                found = next((f for f in kind.fields if f.encode_name == part), found)
                inner += [f.type for f in kind.fields if f.encode_name == part]
            elif isinstance(kind, inspection.VarTupleType):
                inner.append(kind.item_type)
        kinds = inner
    return found


def _field_type(path: Path_) -> list[inspection.Type]:
    names = path
    while names and isinstance(names[-1], int):
        names = names[:-1]
    field = _field(names)
    if field is None:
        return [inspection.type_info(Job)] if not names else []
    kinds = list(_unwrap(field.type))
    for _ in path[len(names) :]:
        kinds = [p for k in kinds if isinstance(k, inspection.VarTupleType) for p in _unwrap(k.item_type)]
    return kinds


def _keys_at(path: Path_) -> list[str]:
    return [f.encode_name for k in _field_type(path) if isinstance(k, inspection.StructType) for f in k.fields]


def _choices(kinds: Sequence[inspection.Type]) -> list[str]:
    return [str(v) for k in kinds if isinstance(k, inspection.LiteralType) for v in k.values]
