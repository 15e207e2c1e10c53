"""Writes YAML that every reader understands alike: ours (YAML 1.2), kubectl's and PyYAML's (YAML 1.1).

A string that any of them would take for another type is quoted; nothing is written as an alias.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from bagpipe.config import yaml_scalars


class _Dumper(yaml.SafeDumper):
    """PyYAML quotes what YAML 1.1 would misread; this one also what YAML 1.2 would."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    try:
        same = yaml_scalars.plain(text) == text
    except ValueError:
        same = False
    # Only double quotes have escapes for line ends and for what cannot be printed.
    style = '"' if not text.isprintable() else None if same else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def dump(value: Mapping[str, Any]) -> str:
    """The document as text, in the order of its keys."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
