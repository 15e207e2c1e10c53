"""How a text file separates its values: by which sign, under which names, after how many lines of comments.

Nobody states it: the first lines of a file decide, by a fixed rule, so that training and prediction read a file alike.
"""

import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HEAD_BYTES = 1 << 20
ROWS = 200
SEPARATORS = ("\t", ",", ";", "|", "\x01", "::")
"""In this order, the first one at which the lines have equally many fields; the sign of code 1 is Hive's."""
SPACES = " "
"""Any number of spaces as one separator: only where no other one cuts the lines, and all of them alike."""
UNIT = "\x1f"
"""What stands for a separator of several signs while Arrow reads, which knows those of one sign only."""
_BOM = b"\xef\xbb\xbf"
_PLAIN = re.compile(r"\s*([0-9]+)?\s*")
_NUMBER = re.compile(r"\s*([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|nan)?\s*", re.IGNORECASE)
"""A number or nothing."""
_ALIKE = 0.8
"""Share of the lines that have as many fields as the first one where a separator is the right one."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What Arrow has to be told of a file of separated values."""

    separator: str
    names: tuple[str, ...]
    """Of the columns; one without a name is called by its place: f0, f1, ..."""
    skipped: int = 0
    """Lines before the header: comments, and what spreadsheets write there."""
    headless: bool = False
    """The first line is a row, and all columns are called by their place."""

    @property
    def narrow(self) -> bool:
        """Whether Arrow has to be given another separator, by `Narrowed`; such files know no quotes."""
        return self.separator == SPACES or len(self.separator) > 1

    @property
    def delimiter(self) -> str:
        """The separator as Arrow sees it."""
        return UNIT if self.narrow else self.separator

    @property
    def quote(self) -> str | bool:
        return False if self.narrow else '"'

    def line(self, line: bytes) -> bytes:
        """One line as Arrow sees it."""
        return narrowed(line, self.separator).strip(b" ") if self.narrow else line


def dialect_of(head: bytes, *, tabs: bool = False, header: Sequence[str] = ()) -> Dialect:
    """The dialect of a file that begins with `head`, up to `HEAD_BYTES` of it.

    Args:
        tabs: the separator is a tab, whatever the lines look like.
        header: the names of the columns; a first line of just these is no row. Empty: the lines tell.
    """
    lines = _lines(head)
    blank = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    told = re.fullmatch(r"sep=(.)", lines[blank]) if blank < len(lines) else None
    begin = blank + (told is not None)
    commented = list(itertools.takewhile(lambda line: line.startswith("#") or not line.strip(), lines[begin:]))
    skipped, body = begin + len(commented), lines[begin + len(commented) :]
    separator = "\t" if tabs else str(told[1]) if told else _separator(body)
    rows = _rows(body, separator)
    if commented and rows:  # The last comment is the header if it has as many fields as the rows.
        last = (_rows(commented[-1:], separator) or [[]])[0]
        if len(last) == len(rows[0]) > 1:
            skipped, rows = skipped - 1, [last, *rows]
    first = rows[0] if rows else []
    if header:
        return Dialect(separator, tuple(header), skipped, headless=list(first) != list(header))
    headless = _is_row(first, rows[1:])
    names = (f"f{i}" if headless or not name.strip() else name for i, name in enumerate(first))
    return Dialect(separator, tuple(names), skipped, headless)


def _lines(head: bytes) -> list[str]:
    """Whole lines; the last one may be cut where the head is."""
    text = head.removeprefix(_BOM).decode("utf-8", "replace")
    lines = re.split(r"\r\n|\n|\r", text)
    return lines[:-1] if len(head) >= HEAD_BYTES and len(lines) > 1 else lines


def _separator(lines: Sequence[str]) -> str:
    for one in SEPARATORS:
        counts = [len(row) for row in _rows(lines, one)]
        if counts and counts[0] > 1 and sum(n == counts[0] for n in counts) >= _ALIKE * len(counts):
            return one
    if _is_spaced(lines):
        return SPACES
    first = next((line for line in lines if line.strip()), "")
    return "\t" if first.count("\t") > first.count(",") else ","


def _is_spaced(lines: Sequence[str]) -> bool:
    counts = {len(line.split()) for line in lines if line.strip()}
    return len(counts) == 1 and max(counts) > 1 and not any(sign in line for line in lines for sign in '"\t')


def _rows(lines: Sequence[str], separator: str) -> list[list[str]]:
    """Up to `ROWS` rows, without empty lines; a row may hold line ends in quotes."""
    if separator == SPACES:
        return [line.split() for line in lines[:ROWS] if line.strip()]
    if len(separator) > 1:
        return [line.split(separator) for line in lines[:ROWS] if line]
    found: list[list[str]] = []
    reader = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=separator)
    try:
        for row in reader:
            if row:
                found.append(row)
            if len(found) == ROWS:
                break
    except csv.Error:  # A field beyond what Python's reader takes; the rows before it say enough.
        pass
    return found


def _is_row(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether the first line of a file is a row like those after it, rather than names.

    It is one if it holds numbers only. Beside text it is one if it has a number in each column of numbers, and a sign
    that it is data: a number that is no plain count, an entry twice, or a text that its column has again.
    """
    if not first:
        return False
    if all(_NUMBER.fullmatch(cell) for cell in first):
        return True
    rows = [row for row in rest if len(row) == len(first)]
    columns = [[row[i] for row in rows if row[i].strip()] for i in range(len(first))]
    numbers = [i for i, cells in enumerate(columns) if cells and all(_NUMBER.fullmatch(cell) for cell in cells)]
    if not numbers or not all(_NUMBER.fullmatch(first[i]) for i in numbers):
        return False
    told = [cell for cell in first if cell.strip()]
    odd = any(not _PLAIN.fullmatch(first[i]) for i in numbers)
    again = any(first[i] in columns[i] for i in range(len(first)) if i not in numbers and first[i].strip())
    return odd or again or len(set(told)) < len(told)


def narrowed(data: bytes, separator: str) -> bytes:
    """Text in which `UNIT` stands for the separator, and no line begins or ends with spaces that are one."""
    if separator != SPACES:
        return data.replace(separator.encode(), UNIT.encode())
    return re.sub(rb" +", UNIT.encode(), re.sub(rb" *([\r\n]) *", rb"\1", data))


class Narrowed:
    """A stream of bytes in which `UNIT` stands for the separator."""

    closed = False
    """Arrow asks."""

    def __init__(self, stream: Any, separator: str) -> None:
        self._stream, self._separator, self._held = stream, separator, b""
        self._open = separator.encode()[:1] + (b"\r\n" if separator == SPACES else b"")
        self._begun = False

    def read(self, size: int = -1) -> bytes:
        """About `size` bytes, none only at the end; -1: all."""
        data: bytes = self._stream.read(size)
        found = self._held + data
        self._held = b""
        if data:  # What may be a part of a separator waits for the rest of it.
            whole = len(found.rstrip(self._open))
            found, self._held = found[:whole], found[whole:]
        elif self._separator == SPACES:
            found = found.rstrip(b" ")
        if self._separator == SPACES and not self._begun:
            found = found.lstrip(b" ")
        self._begun = self._begun or bool(found)
        return narrowed(found, self._separator) or (self.read(size) if data else b"")
