"""Which files of a folder are read together? Those of one kind: one format, and the same columns in any order.

`bagpipe init` looks at every file that it is given and takes the kind with the most bytes; the others are named.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from bagpipe.config.paths import absolute, is_url
from bagpipe.data.column_files import TableFormat, table_format, table_schema
from bagpipe.data.files import InputFile, TextBlock, find_files, read_head
from bagpipe.data.formats import Format, detect_format, is_prepared
from bagpipe.data.jsonlines import JsonLines
from bagpipe.data.separated import AvazuText, CriteoText
from bagpipe.errors import DataError

MOST_LOOKED_AT = 1000
"""Files whose beginning is read; a later one is taken for the kind of an earlier one with the same ending."""
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """What files have to share to be read as one."""

    format: str
    columns: frozenset[str] = frozenset()
    """Of tables; empty for the formats that need no description."""

    @property
    def known(self) -> bool:
        """Whether this is a format that needs no description."""
        return not self.columns

    def __str__(self) -> str:
        return f"{self.format} with {len(self.columns)} columns" if self.columns else self.format


@dataclass(frozen=True, slots=True)
class Chosen:
    """Files of one kind, how `data.path` names them, and what was left out, in words."""

    kind: Kind
    files: tuple[InputFile, ...]
    path: str | list[str]
    notes: list[str] = field(default_factory=list)
    header: tuple[str, ...] = ()
    """Names of the columns where only the first file tells them."""


def choose_files(path: str, *, known: bool = True) -> Chosen:
    """The files under `path` that are read together.

    Args:
        known: formats that need no description are told apart; False: every file is a table.

    Raises:
        DataError: there is none that can be read.
    """
    files = [file for file in find_files(absolute(path, "PATH")) if file.size]
    if not files:
        raise DataError(f"{path}: empty; expected at least one example")
    kinds: dict[Kind, list[InputFile]] = {}
    by_ending: dict[str, Kind] = {}
    unread: list[tuple[InputFile, DataError]] = []
    for number, file in enumerate(files):
        ending = _ending(file.name)
        try:
            kind = by_ending.get(ending) if number >= MOST_LOOKED_AT else None
            kind = kind or kind_of_file(file, known=known)
        except DataError as error:
            unread.append((file, error))
            continue
        by_ending[ending] = kind
        kinds.setdefault(kind, []).append(file)
    if not kinds:
        raise unread[0][1]
    if header := _header_of_first(kinds, files):
        told = f"{os.path.basename(files[0].name)} alone names its columns; the other files are read under these names"
        return Chosen(min(kinds, key=_is_bare), tuple(files), path, [told], header)
    ranked = sorted(kinds.items(), key=lambda item: -sum(file.size for file in item[1]))
    kind, chosen = ranked[0]
    others = [(file, str(other)) for other, group in ranked[1:] for file in group]
    others += [(file, "no table that can be read") for file, _ in unread]
    return Chosen(kind, tuple(chosen), _path_of(path, files, chosen), _left_out(others, path))


def _header_of_first(kinds: Mapping[Kind, Sequence[InputFile]], files: Sequence[InputFile]) -> tuple[str, ...]:
    """The names in the first file, if the others go on with its rows, as when one file was cut into several."""
    if len(kinds) != 2 or len({_ending(file.name) for file in files}) > 1:
        return ()
    named, bare = sorted(kinds, key=_is_bare)
    alike = (named.format, len(named.columns)) == (bare.format, len(bare.columns))
    if _is_bare(named) or not _is_bare(bare) or not alike or list(kinds[named]) != [files[0]]:
        return ()
    return tuple(table_schema(files[0], cast("TableFormat", named.format)).names)


def _is_bare(kind: Kind) -> bool:
    """Whether this is text without names of columns."""
    return kind.format in ("csv", "tsv") and kind.columns == {f"f{i}" for i in range(len(kind.columns))}


def kind_of_file(file: InputFile, *, known: bool = True) -> Kind:
    """Raises:
    DataError: it is none that can be read.
    """
    if known and (found := _known_format(file)) is not None:
        return Kind(found)
    table = table_format(file, "auto")
    return Kind(table, frozenset(table_schema(file, table).names))


def _known_format(file: InputFile) -> Format | None:
    """A format that needs no description, if the file's first lines can be read as that."""
    if is_prepared(file):
        return "parquet"
    try:
        found = detect_format([file], "auto")
        if found == "criteo-json":
            JsonLines.open([file])
        elif found == "avazu-csv":
            AvazuText.open([file])
        elif found == "criteo-tsv":
            head = read_head(file)
            block = CriteoText((file,), skip_bad=True).parse(
                TextBlock(file.name, 1, head[: head.rfind(b"\n") + 1] or head)
            )
            found = found if len(block) > block.bad_lines else "parquet"
    except DataError:
        return None
    return None if found == "parquet" else found


def _ending(name: str) -> str:
    """All after the first dot of the name: `.csv.xz`."""
    return "".join(os.path.basename(name).partition(".")[1:])


def _path_of(path: str, files: Sequence[InputFile], chosen: Sequence[InputFile]) -> str | list[str]:
    """As it was given if that names these files and no others, else a pattern, else one by one."""
    if len(chosen) == len(files):
        return path
    names = [file.name for file in chosen]
    if is_url(path):
        return names
    root = absolute(path, "PATH")
    if os.path.isdir(root):
        for stars in ("*", "**/*"):
            pattern = f"{stars}{glob.escape(_ending(names[0]))}"
            found = glob.glob(pattern, root_dir=root, recursive=True)
            if found and [file.name for file in find_files(f"{glob.escape(root)}/{pattern}")] == names:
                return os.path.normpath(f"{glob.escape(path)}/{pattern}")
        return [os.path.normpath(os.path.join(path, os.path.relpath(name, root))) for name in names]
    return names


def _left_out(others: Sequence[tuple[InputFile, str]], path: str) -> list[str]:
    if not others:
        return []
    root = absolute(path, "PATH")
    shown = [f"{os.path.relpath(f.name, root) if os.path.isdir(root) else f.name} ({why})" for f, why in others]
    more = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    return [f"left out: {', '.join(shown[:MOST_NAMED])}{more}; name a file or a pattern to take others"]
