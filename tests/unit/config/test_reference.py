"""The settings reference is the code's own."""

import msgspec
import msgspec.inspect as inspection

from bagpipe.cli.reference import TARGET, render
from bagpipe.config.document import Job


def test_docs_are_current() -> None:
    """docs/settings.md is what `make docs` writes now."""
    assert TARGET.read_text(encoding="utf-8") == render(), "run `make docs`"


def test_every_setting_says_what_it_means() -> None:
    """No setting of the spec is without a description."""
    silent: list[str] = []

    def visit(kind: inspection.Type, path: str) -> None:
        match kind:
            case inspection.Metadata(type=inner):
                visit(inner, path)
            case inspection.StructType():
                for field in kind.fields:
                    described = isinstance(field.type, inspection.Metadata) and "description" in (
                        field.type.extra_json_schema or {}
                    )
                    if not described and not isinstance(field.type, inspection.StructType):
                        silent.append(f"{path}.{field.encode_name}")
                    visit(field.type, f"{path}.{field.encode_name}")

    spec = next(f for f in msgspec.structs.fields(Job) if f.name == "spec")
    visit(inspection.type_info(spec.type), "spec")
    assert silent == []
