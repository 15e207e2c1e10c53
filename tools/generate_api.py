"""Write `docs/api.md`: every public name of `bagpipe`, with its signature and what its docstring says.

python tools/generate_api.py            # writes docs/api.md
python tools/generate_api.py --check    # ends with 1 if the page is not what would be written
"""

import argparse
import inspect
import sys
import textwrap
from pathlib import Path

import bagpipe
from bagpipe import errors
from bagpipe.interactive.session import Session, local
from bagpipe.interactive.transform import EncodedFeature, EncodedRows
from bagpipe.trainer.batch_dict import BatchDict

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
HEAD = """# Public names

Written by `python tools/generate_api.py` from the docstrings; [From Python](python.md) shows them at work.

**What is stable.** The names on this page, their arguments and what they return change only with the second number
of the version while the first is 0, and with the first after that; a name that goes is announced one version
before, in the changelog. The job document (`bagpipe.dev/v1alpha1`), the exit codes and the files of an export are
stable in the same sense. Every other module, function and file of the package may change at any time. `import
bagpipe` loads none of them: each name is imported when it is first used.

Shapes: `B` examples, `F` dense features, `T` sparse features, `L` labels, `k` lookups of one feature, `D` width of
a table.
"""
CLASSES = {
    "Run": bagpipe.Run,
    "Session": Session,
    "Transform": bagpipe.Transform,
    "EncodedRows": EncodedRows,
    "EncodedFeature": EncodedFeature,
    "BagCache": bagpipe.BagCache,
}
FUNCTIONS = {
    "fit": bagpipe.fit,
    "local": local,
    "init_cache": bagpipe.init_cache,
    "register_model": bagpipe.register_model,
}


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Functions\n", *(_function(f"bagpipe.{n}", f) for n, f in FUNCTIONS.items()), "## Classes\n"]
    parts += [_class(name, kind) for name, kind in CLASSES.items()]
    parts += ["### BatchDict\n", f"{_doc(BatchDict)}\n", *_fields(BatchDict)]
    parts += ["## Errors\n", f"{_block(errors.__doc__ or '')}\n"]
    return "\n".join(parts).rstrip() + "\n"


def _class(name: str, kind: type) -> str:
    shown = f"bagpipe.{name}" if name in bagpipe.__all__ else name
    parts = [f"### {shown}\n", f"{_doc(kind)}\n", *_fields(kind)]
    for member, value in vars(kind).items():
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            parts.append(f"**`.{member}`**\n\n{_doc(value)}\n")
        elif inspect.isfunction(value) or isinstance(value, classmethod):
            parts.append(_function(f".{member}", getattr(kind, member), level="####"))
    return "\n".join(parts)


def _function(name: str, function: object, level: str = "###") -> str:
    parameters = list(inspect.signature(function).parameters.values())  # type: ignore[arg-type]
    named = [p for p in parameters if p.name not in ("self", "cls")]
    shown = [f"**{p.name}" if p.kind is p.VAR_KEYWORD else p.name for p in named]
    return f"{level} {name}({', '.join(shown)})\n\n{_doc(function)}\n"


def _fields(kind: type) -> list[str]:
    """What the lines under annotated names say, as this code base writes it."""
    source = inspect.getsource(kind)
    found = []
    for name in vars(kind).get("__annotations__", {}):
        after = source.partition(f"    {name}: ")[2].partition("\n")[2].lstrip()
        if after.startswith('"""'):
            words = " ".join(after[3:].partition('"""')[0].split())
            found.append(f"- `{name}`: {words}")
    return [*found, ""] if found else []


def _doc(thing: object) -> str:
    return _block(inspect.getdoc(thing) or "")


def _block(text: str) -> str:
    """A docstring as Markdown: its first paragraphs as text, its sections and examples as they stand."""
    head, rest = text.partition("\n\n")[::2]
    if not rest:
        return " ".join(head.split()) if "──" not in head else f"```text\n{head}\n```"
    return f"{' '.join(head.split())}\n\n```text\n{textwrap.dedent(rest).rstrip()}\n```"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="end with 1 if the page is not what would be written")
    check = parser.parse_args().check
    written = page()
    if check:
        sys.exit(PAGE.read_text(encoding="utf-8") != written)
    PAGE.write_text(written, encoding="utf-8")
