"""Reads one YAML document into plain values and remembers the line of each.

Stricter than YAML where YAML is surprising: a key given twice is an error, and `1e-3` is a number (as
in YAML 1.2 and in Kubernetes), not a string. Knows nothing of jobs.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bagpipe.errors import ConfigError

Path_ = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the top."""


class _Loader(yaml.SafeLoader):
    """SafeLoader whose numbers are YAML 1.2's."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document: its value, and the line (from 1) on which each path begins."""

    source: str
    value: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def where(self, path: Path_) -> str:
        """`file:line` of a path, or of the nearest thing that contains it."""
        for length in range(len(path), -1, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return f"{self.source}:{line}"
        return self.source


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: missing, unreadable, a folder, or not text.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a job file (try examples/demo.yaml)") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; expected a job file in YAML") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not a text file (byte {error.start} is not UTF-8); expected a job in YAML"
        ) from None
    if "\0" in text:
        raise ConfigError(f"{path}: not a text file (NUL at character {text.index(chr(0))}); expected a job in YAML")
    return text


def parse(text: str, source: str) -> Document:
    """Parse exactly one document.

    Raises:
        ConfigError: not YAML, several documents, or a key given twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(source, None)
        lines: dict[Path_, int] = {}
        _locate(node, (), lines, source)
        return Document(source, loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(
            f"{where}: not valid YAML: {error.problem or error.context}; check indentation and quotes"
        ) from None
    except yaml.YAMLError as error:
        text_of_error = str(error).splitlines()[0]
        raise ConfigError(f"{source}: not valid YAML: {text_of_error}; expected a job in YAML") from None
    finally:
        loader.dispose()


def parse_value(text: str, source: str) -> Any:
    """A single value, as after `--set path=`."""
    return parse(text, source).value


def _locate(node: yaml.Node, path: Path_, lines: dict[Path_, int], source: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _locate(item, (*path, index), lines, source)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines and key.tag != "tag:yaml.org,2002:merge":
                name = ".".join(str(p) for p in inner)
                raise ConfigError(
                    f"{source}:{line}: {name}: given twice (first on line {lines[inner]}); remove one of them"
                )
            lines[inner] = line
            _locate(value, inner, lines, source)
