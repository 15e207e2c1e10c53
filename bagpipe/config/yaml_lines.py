"""Reads one YAML document into plain values and remembers the line of each; knows nothing of jobs.

PyYAML scans, parses and composes; `yaml_scalars` decides what a scalar means (YAML 1.2). The size of a file, the depth
of nesting, and the number of values that aliases may add are bounded. The result is a tree of dicts, lists and scalars
without shared parts, which JSON can carry. `docs/decisions/0016` says why.
"""

import json
import os
import re
import stat
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bagpipe.config import yaml_scalars
from bagpipe.config.paths import shown
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.atomic_files import how_to_mend

Path_ = tuple[str | int, ...]
"""The place of a value: keys and list indices from the top."""

MAX_BYTES = 3 << 19
"""1.5 MiB: the largest object that an API server stores."""
MAX_DEPTH = 64
"""Levels of nesting; a job has seven, a pod template in it about as many more."""
MAX_COPIES = 10_000
"""Values that aliases may add to a document."""
_LONGEST = 100

_STRING, _MERGE, _PLAIN = "tag:yaml.org,2002:str", "<<", "plain"
_COLLECTIONS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
# YAML's own set of characters; PyYAML would refuse the others too, without a line.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def dotted(path: Path_) -> str:
    """A path as messages name it: `spec.embedding.tables[0].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in path)
    text = text.removeprefix(".") or "the job"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


class _Loader(yaml.SafeLoader):
    """Composes nodes to a bounded depth, and marks plain scalars instead of guessing their type by YAML 1.1."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._depth > MAX_DEPTH:
            raise _problem(self.peek_event(), f"more than {MAX_DEPTH} levels of nesting")  # type: ignore[no-untyped-call]  # PyYAML's own, without types
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _STRING
        return super().resolve(kind, value, implicit)  # type: ignore[no-any-return, no-untyped-call]  # PyYAML's own, without types


def _problem(place: Any, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=place.start_mark)


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

    def below(self, prefix: Path_, value: Any) -> "Document":
        """The part of this document at `prefix`, as a document of its own."""
        depth = len(prefix)
        lines = {path[depth:]: line for path, line in self.lines.items() if path[:depth] == prefix}
        return Document(self.source, value, lines)


def read_text(path: Path, expected: str = "a job file (such as examples/demo.yaml)") -> str:
    """The text of a file.

    Args:
        expected: what the file should be, for messages.

    Raises:
        ConfigError: missing, unreadable, a folder, too large, or not text.
    """
    name = shown(path)
    try:
        raw, pipe = read_beginning(path, MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file; give the path of {expected}") from None
    except OSError as error:
        remedy = how_to_mend(error) or f"expected {expected}"
        raise ConfigError(f"{name}: cannot be read: {error.strerror}; {remedy}") from None
    if pipe and not raw:
        raise ConfigError(f"{name}: a pipe to which nobody writes; expected {expected}")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{name}: the text is UTF-16; save it as UTF-8")
    try:
        text = raw[:MAX_BYTES].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{name}:{line}: not a text file (byte {error.start} is not UTF-8); expected {expected}"
        ) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name}: more than {MAX_BYTES:,} bytes; expected {expected}, not data")
    return text


def read_beginning(path: Path, num_bytes: int) -> tuple[bytes, bool]:
    """The first bytes of a file, and whether it is a pipe.

    A pipe is opened without waiting for somebody to write, which might never happen; what a shell makes of `<(command)`
    has its writer already, and is read to its end.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        os.set_blocking(file.fileno(), True)
        return file.read(num_bytes), stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)


def parse(text: str, source: str) -> Document:
    """Parse exactly one document; empty ones beside it are ignored.

    Raises:
        ConfigError: not YAML, several documents, a key given twice, or more than the bounds of this module.
    """
    _check_characters(text, source)
    if "\t" in text and _is_json(text):
        text = text.replace("\t", " ")  # JSON may be indented by tabs, YAML not; in JSON's strings a tab is written \t.
    loader = _Loader(text)
    try:
        nodes: list[yaml.Node] = []
        while loader.check_node():
            node = loader.get_node()
            if node is not None and (node.tag != _PLAIN or node.value):
                nodes.append(node)
        if len(nodes) > 1:
            lines = " and ".join(str(node.start_mark.line + 1) for node in nodes[:2])
            raise ConfigError(
                f"{source}: holds {len(nodes)} documents (on lines {lines}); put each into a file of its own"
            )
        return _Builder(source).build(nodes[0]) if nodes else Document(source, None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = error.problem or error.context
        raise ConfigError(f"{where}: not valid YAML: {problem}; check indentation and quotes") from None
    except yaml.YAMLError as error:
        text_of_error = str(error).splitlines()[0]
        raise ConfigError(f"{source}: not valid YAML: {text_of_error}; expected a job in YAML") from None
    finally:
        loader.dispose()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (RecursionError, ValueError):
        return False
    return True


def _check_characters(text: str, source: str) -> None:
    found = _UNPRINTABLE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(
            f"{source}:{line}: not a text file: YAML has no character U+{ord(found.group()):04X}; remove it "
            "(copying from a terminal can leave such characters behind)"
        )


class _Builder:
    """Makes values of nodes."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: dict[Path_, int] = {}
        self._open: list[int] = []
        self._seen: set[int] = set()
        self._copies = 0

    def build(self, node: yaml.Node) -> Document:
        return Document(self._source, self._value(node, ()), self._lines)

    def _value(self, node: yaml.Node, path: Path_) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        self._count(node, path)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in _COLLECTIONS:
            raise self._error(node, path, f"the tag {node.tag} is not accepted; remove it")
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.pop()

    def _count(self, node: yaml.Node, path: Path_) -> None:
        """Bound the values that aliases add, and refuse an alias inside the node that it refers to.

        Raises:
            ConfigError: the document has too many of them, nests too deep, or contains itself.
        """
        if id(node) in self._open:
            raise self._error(node, path, "an alias stands inside what it refers to; write the value out")
        if len(self._open) > MAX_DEPTH:
            raise self._error(node, path, f"aliases make more than {MAX_DEPTH} levels of nesting; write fewer")
        if id(node) in self._seen:
            self._copies += 1
            if self._copies > MAX_COPIES:
                raise self._error(node, path, f"aliases add more than {MAX_COPIES:,} values; write fewer")
        self._seen.add(id(node))

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> yaml_scalars.Scalar:
        if node.tag not in (_PLAIN, _STRING):
            raise self._error(node, path, f"the tag {node.tag} is not accepted; remove it")
        try:
            return yaml_scalars.plain(node.value) if node.tag == _PLAIN else yaml_scalars.characters(node.value)
        except ValueError as error:
            raise self._error(node, path, str(error)) from None

    def _mapping(self, node: yaml.Node, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[Hashable, int] = {}
        for key, value in node.value:
            name = self._key(key, path)
            line = key.start_mark.line + 1
            inner = (*path, name)
            if name in first:
                raise self._error(key, inner, f"given twice (first on line {first[name]}); remove one of them")
            first[name] = line
            if name == _MERGE and key.tag == _PLAIN:
                merged = self._merged(value, path)
            else:
                self._lines[inner] = line
                result[name] = self._value(value, inner)
        return {**merged, **result}

    def _key(self, key: yaml.Node, path: Path_) -> str:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_PLAIN, _STRING):
            raise self._error(key, path, "a key is a word; a list or a mapping cannot be one")
        try:
            return yaml_scalars.characters(key.value)
        except ValueError as error:
            raise self._error(key, path, str(error)) from None

    def _merged(self, node: yaml.Node, path: Path_) -> dict[str, Any]:
        """The mapping of `<<: *a` or `<<: [*a, *b]`; a key has the value of the first mapping that has it."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Any] = {}
        for one in nodes:
            if not isinstance(one, yaml.MappingNode):
                raise self._error(one, path, "<< takes a mapping or a list of mappings")
            result = {**self._value(one, path), **result}
        return result

    def _error(self, node: yaml.Node, path: Path_, problem: str) -> ConfigError:
        return ConfigError(f"{self._source}:{node.start_mark.line + 1}: {dotted(path)}: {problem}")
