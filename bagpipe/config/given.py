"""Finds the settings that the user gave: those whose value is not the default. One without effect is an error."""

from collections.abc import Iterable, Iterator

import msgspec

Finding = tuple[str, str]
"""A dotted field and what is wrong with it, remedy included."""


def given(section: msgspec.Struct, names: Iterable[str]) -> Iterator[str]:
    """Those of `names` (as in YAML) whose value is not the default."""
    wanted = set(names)
    for field in msgspec.structs.fields(type(section)):
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if field.encode_name in wanted and getattr(section, field.name) != default:
            yield field.encode_name


def without_effect(prefix: str, section: msgspec.Struct, names: Iterable[str], because: str) -> Iterator[Finding]:
    """A finding for each of `names` that was given."""
    for name in given(section, names):
        yield f"{prefix}.{name}", f"has no effect {because}; remove it"
