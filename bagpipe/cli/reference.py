"""Writes `docs/settings.md`, the reference of the job document, from `bagpipe.config.document`.

python -m bagpipe.cli.reference            write it
python -m bagpipe.cli.reference --check    exit 1 if the file is not current
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as inspection
import yaml

from bagpipe.config.document import Job

Number = inspection.IntType | inspection.FloatType
TARGET = Path(__file__).resolve().parents[2] / "docs" / "settings.md"

HEAD = """# Settings

Every key of the `BagpipeJob` document. Generated from `bagpipe/config/document.py` by `make docs`; do not edit.

`bagpipe run` and a cluster take the same document. Any setting can be overridden on the command line:
`--set spec.batchSize=1024`; `spec.` may be left out, and lists take an index: `--set embedding.tables[0].name=item`.
A misspelt key, a wrong type, a setting without effect: each is an error that names the field (exit code 78).

**YAML.** A job file is UTF-8 text with one document, read by the rules of YAML 1.2
([why](decisions/0016-one-yaml-reader.md)): `1e-3` is a number; `yes`, `on`, dates and `1_000` are strings; `010`
is refused, because readers disagree whether it is 8 or 10; numbers are finite and fit into 64 bits. What `kubectl
get bpj NAME -o yaml` prints is a job file too.

**Values of `--set`.** A value that begins with a bracket or a quote is YAML; any other is one scalar to its end, so
that `--set 'data.path=my data #2/*.tsv'` needs no quotes but the shell's. `null` takes the default back.

**Paths.** A relative path is relative to the folder in which the command runs, not to the job file's. `~` and `~/x`
are the home folder; `~name` and `$VARIABLES` are not expanded (a shell does that). Data may be at a
URL of fsspec, with `://`; every other path is a local file whose name may hold `#`, `%`, spaces, and bytes that are not
UTF-8.
"""

BOUNDS = """## Why these bounds

Every number has a unit, a least and a greatest value. The bounds of each kind, and their reason:

| unit | bounds | because |
|---|---|---|
"""


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is not current")
    check = parser.parse_args().check
    page = render()
    if not check:
        TARGET.write_text(page, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
        sys.exit(f"error: {TARGET} is not current; run `make docs`")


def render() -> str:
    """The whole page."""
    job = inspection.type_info(Job)
    assert isinstance(job, inspection.StructType)
    return "\n".join([HEAD, *_section("", job, {}), BOUNDS + "\n".join(_reasons(job)) + "\n"])


def numbers(kind: inspection.Type, path: str = "") -> Iterator[tuple[str, inspection.Metadata | None, Number]]:
    """Every number below `kind`: its dotted path, the metadata right around it, and its type with its bounds."""
    match kind:
        case inspection.IntType() | inspection.FloatType():
            yield path, None, kind
        case inspection.Metadata(type=inspection.IntType() | inspection.FloatType() as number):
            yield path, kind, number
        case inspection.Metadata(type=inner):
            yield from numbers(inner, path)
        case inspection.UnionType(types=types):
            for one in types:
                yield from numbers(one, path)
        case inspection.VarTupleType(item_type=inner) | inspection.ListType(item_type=inner):
            yield from numbers(inner, f"{path}[]")
        case inspection.DictType(value_type=inner):
            yield from numbers(inner, f"{path}{{}}")
        case inspection.StructType(fields=fields):
            for field in fields:
                yield from numbers(field.type, f"{path}.{field.encode_name}".removeprefix("."))


def _reasons(job: inspection.StructType) -> list[str]:
    """One line for each kind of number, in the order in which they first appear."""
    lines: dict[str, None] = {}
    for _, about, number in numbers(job):
        assert about is not None
        unit, because = (about.extra_json_schema or {})["x-unit"], (about.extra or {})["because"]
        lines[f"| {unit} | {_type(number)} | {because} |"] = None
    return list(lines)


def _section(path: str, kind: inspection.StructType, seen: dict[type, str]) -> Iterator[str]:
    """One struct's table, then those of the structs inside it. What a struct inherits is listed once."""
    inherited = {base: seen[base] for base in kind.cls.__mro__[1:] if base in seen}
    known = {field.name for base in inherited for field in msgspec.structs.fields(base)}
    seen[kind.cls] = path or "the document"
    about = " ".join((kind.cls.__doc__ or "").split("\n\n", maxsplit=1)[0].split())
    yield f"## {f'`{path}`' if path else 'The document'}\n\n{about}\n"
    for where in list(inherited.values())[:1]:
        yield f"Also every setting of `{where}`.\n"
    fields = [f for f in kind.fields if f.name not in known]
    inner = [(f, s) for f in fields if (s := _struct(f.type))]
    if fields:
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        yield from (_row(f) for f in fields)
        yield ""
    for field, struct in inner:
        below = f"{path}.{field.encode_name}".removeprefix(".") + ("[]" if _is_list(field.type) else "")
        if struct.cls in seen:
            yield f"## `{below}`\n\nThe settings of `{seen[struct.cls]}`.\n"
        else:
            yield from _section(below, struct, seen)


def _row(field: inspection.Field) -> str:
    cells = [f"`{field.encode_name}`", _type(field.type), _default(field), _meaning(field)]
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _meaning(field: inspection.Field) -> str:
    described = _described(field.type)
    if described:
        return described
    struct = _struct(field.type)
    return " ".join((struct.cls.__doc__ or "").split("\n\n", maxsplit=1)[0].split()) if struct else ""


def _described(kind: inspection.Type) -> str:
    if isinstance(kind, inspection.Metadata):
        text = (kind.extra_json_schema or {}).get("description")
        return str(text) if text else _described(kind.type)
    return ""


def _struct(kind: inspection.Type) -> inspection.StructType | None:
    match kind:
        case inspection.StructType():
            return kind
        case inspection.Metadata(type=inner) | inspection.VarTupleType(item_type=inner):
            return _struct(inner)
        case inspection.UnionType(types=types):
            return next((s for t in types if (s := _struct(t))), None)
    return None


def _is_list(kind: inspection.Type) -> bool:
    if isinstance(kind, inspection.Metadata):
        return _is_list(kind.type)
    return isinstance(kind, inspection.VarTupleType)


def _type(kind: inspection.Type) -> str:
    match kind:
        case inspection.Metadata(type=inner, extra_json_schema={"x-unit": unit}):
            return f"{_type(inner)} ({unit})"
        case inspection.Metadata(type=inner):
            return _type(inner)
        case inspection.UnionType(types=types):
            return " or ".join(_type(t) for t in types if not isinstance(t, inspection.NoneType))
        case inspection.VarTupleType(item_type=inner):
            return f"list of {_type(inner)}"
        case inspection.LiteralType(values=values):
            return ", ".join(f"`{v}`" for v in sorted(values, key=str))
        case inspection.IntType() | inspection.FloatType():
            name = "integer" if isinstance(kind, inspection.IntType) else "number"
            signs = (("≥", kind.ge), (">", kind.gt), ("≤", kind.le), ("<", kind.lt))
            bounds = [f"{sign} {_number(value)}" for sign, value in signs if value is not None]
            return f"{name} {', '.join(bounds)}".strip()
        case inspection.StrType():
            return "string"
        case inspection.BoolType():
            return "true or false"
        case inspection.StructType() | inspection.DictType():
            return "mapping"
    return "anything"


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) and value < 2**53 else f"{value}"


def _default(field: inspection.Field) -> str:
    if field.required:
        return "required"
    value: Any = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "none"
    if isinstance(value, msgspec.Struct):
        return ""
    plain = msgspec.to_builtins(value)
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return f"`{text}`"


if __name__ == "__main__":
    main()
