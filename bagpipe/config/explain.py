"""Turns msgspec's finding about a job into one sentence: where, what was expected and found, what to do."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import msgspec.inspect as inspection

from bagpipe.config.document import Job
from bagpipe.config.yaml_lines import Document, Path_, dotted
from bagpipe.errors import ConfigError

REFERENCE = "docs/settings.md"
MOST_SHOWN = 60
"""Characters of a value that a message shows."""
_ALSO_CALLED = {"gpu": "cuda"}


class Explainer:
    """Knows where each setting of one document comes from: a line of its file, or an override."""

    def __init__(self, document: Document, origins: Mapping[Path_, str]) -> None:
        """`origins`: the text of each override, by the path that it set; later ones win."""
        self._document, self._origins = document, origins

    def error(self, found: msgspec.ValidationError) -> ConfigError:
        message, path = _split(str(found), self._document.value)
        return ConfigError(self._explain(message, path))

    def unknown(self) -> ConfigError | None:
        """An error about the first key of the document that is no setting; other mistakes may follow from it."""
        path = next(_unknown_keys(self._document.value, (), [_job_type()]), None)
        return None if path is None else ConfigError(self._explain_unknown(path))

    def where(self, dotted: str) -> str:
        """The place of a dotted field, as `rules` names it."""
        parts = [p for p in re.split(r"[.\[\]]+", dotted) if p]
        return self._where(tuple(int(p) if p.isdecimal() else p for p in parts))

    def _where(self, path: Path_) -> str:
        """The override that set `path`, or something around or inside it; otherwise its place in the file."""
        for origin, text in reversed(list(self._origins.items())):
            if origin[: len(path)] == path or path[: len(origin)] == origin:
                return text
        return self._document.where(path)

    def _explain(self, message: str, path: Path_) -> str:
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL)
        if unknown:
            return self._explain_unknown((*path, unknown.group(1)))
        missing = re.fullmatch(r"Object missing required field `(.*)`", message)
        if missing:
            inner = (*path, missing.group(1))
            return f"{self._where(path)}: {dotted(inner)}: missing; it has no default (see {REFERENCE})"
        found = _value_at(self._document.value, path)
        where = f"{self._where(path)}: {dotted(path)}"
        if not message.startswith("Invalid enum value"):
            remedy = _as_mapping(found, path) or _remedy(path)
            return f"{where}: expected {_expected(message)}, found {_show(found)}; {remedy}"
        kinds = _field_type(path)
        choices = _choices(kinds)
        number = "an integer or " if any(isinstance(k, inspection.IntType) for k in kinds) else ""
        remedy = _nearest(str(found), choices) if _close(str(found), choices) else _remedy(path)
        return f"{where}: expected {number}{' | '.join(choices)}, found {_show(found)}; {remedy}"

    def _explain_unknown(self, path: Path_) -> str:
        word, known = str(path[-1]), _keys_at(path[:-1])
        place = None if _close(word, known) else _place_of(word)
        hint = f"did you mean {place}?" if place else _nearest(word, known)
        return f"{self._where(path)}: {dotted(path)}: unknown setting; {hint}"


def _unknown_keys(value: Any, path: Path_, kinds: Sequence[inspection.Type]) -> Iterator[Path_]:
    """Paths of keys that are no settings, in the order of the document. A mapping whose keys are free has none.

    Args:
        kinds: what the value may be.
    """
    if isinstance(value, list):
        items = [plain for k in kinds if isinstance(k, inspection.VarTupleType) for plain in _unwrap(k.item_type)]
        for number, inside in enumerate(value if items else ()):
            yield from _unknown_keys(inside, (*path, number), items)
        return
    fields = [f for k in kinds if isinstance(k, inspection.StructType) for f in k.fields]
    if not isinstance(value, dict) or not fields:
        return
    for key, inside in value.items():
        found = [plain for f in fields if f.encode_name == key for plain in _unwrap(f.type)]
        if found:
            yield from _unknown_keys(inside, (*path, key), found)
        elif isinstance(key, str):
            yield (*path, key)


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


_FORMS = {
    "'^[0-9]+(": "a quantity such as 2, 0.5, 500m or 4Gi",
    "'^[0-8]-": "two digits with a dash between them, such as 2-5",
    "'^[a-z]": "lower-case letters, digits and dashes that begin with a letter and end without a dash",
    "'^[a-z0-9]": "lower-case letters, digits and dashes that neither begin nor end with a dash",
}
"""In words, by how the regular expression begins."""


def _expected(message: str) -> str:
    """msgspec's words for what it expected, without its quotes and without what it found."""
    form = message.partition(" matching regex ")[2]
    for beginning, in_words in _FORMS.items():
        if form.startswith(beginning):
            return in_words
    words = message.partition(", got ")[0].removeprefix("Expected ").replace("`", "")
    names = {"int": "an integer", "str": "a string", "float": "a number", "bool": "true or false"}
    names |= {"object": "a mapping", "array": "a list"}
    parts = re.split(r"( \| |[ ,])", words, maxsplit=0)
    return "".join(names.get(p, " or " if p == " | " else p) for p in parts)


def _remedy(path: Path_) -> str:
    field = _field(path)
    default = field.default if field is not None else msgspec.NODEFAULT
    if field is not None and isinstance(default, int | float | str):
        shown = str(default).lower() if isinstance(default, bool) else "empty" if default == "" else default
        return f"correct it or leave it out (default {shown}; see {REFERENCE})"
    return f"correct it (see {REFERENCE})"


def _as_mapping(found: Any, path: Path_) -> str | None:
    """For a bare name in place of a mapping that has a name: how it is written."""
    names_it = isinstance(found, str) and "name" in _keys_at(path)
    return f"write {{name: {found}}}" if names_it and len(found) <= MOST_SHOWN else None


def _place_of(word: str) -> str | None:
    """Where a setting of exactly this name belongs, if it is directly in `spec` or in one section of it."""
    sections: list[Path_] = [("spec",), *(("spec", key) for key in _keys_at(("spec",)))]
    found = [(*section, word) for section in sections if word in _keys_at(section)]
    direct = [path for path in found if len(path) == len(sections[0]) + 1]
    return dotted((direct or found)[0]) if direct or len(found) == 1 else None


def _nearest(word: str, known: Sequence[str]) -> str:
    close = _close(word, known)
    if close:
        return f"did you mean {close}?"
    return f"expected one of {', '.join(sorted(known))}" if known else f"see {REFERENCE}"


def _close(word: str, known: Sequence[str]) -> str | None:
    if (other := _ALSO_CALLED.get(word.lower())) in known:
        return other
    lowered = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def _show(found: Any) -> str:
    text = "nothing" if found is None else repr(found)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def _value_at(value: Any, path: Path_) -> Any:
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
    return value


# ── what `bagpipe.config.document` says about a path ───────────────────────────────────────────────────────


@cache
def _job_type() -> inspection.Type:
    return inspection.type_info(Job)


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
    kinds: list[inspection.Type] = [_job_type()]
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
        return [_job_type()] if not names else []
    kinds = list(_unwrap(field.type))
    for _ in path[len(names) :]:
        kinds = [p for k in kinds if isinstance(k, inspection.VarTupleType) for p in _unwrap(k.item_type)]
    return kinds


def _keys_at(path: Path_) -> list[str]:
    return [f.encode_name for k in _field_type(path) if isinstance(k, inspection.StructType) for f in k.fields]


def _choices(kinds: Sequence[inspection.Type]) -> list[str]:
    return [str(v) for k in kinds if isinstance(k, inspection.LiteralType) for v in k.values]
